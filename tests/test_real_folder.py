"""The main job on real input: a folder of photos and a real ImageNet weight file."""

import json
import shutil
import sys

import pytest

pytestmark = pytest.mark.real


def test_a_folder_and_a_weight_file_become_a_model(real, tmp_path, monkeypatch, capsys):
    from tlflax import main, predict

    run = tmp_path / "run"
    argv = [
        "tlflax.main", "--config", "configs/finetune.py", "--workdir", str(run),
        f"--config.data=folder:{real}/datasets/potato_leaf",
        "--config.backbone=mobilenet_v2_0.35",
        f"--config.weights_dir={real}/weights/keras_h5",
        "--config.tune=from block_13", "--config.tune_epochs=0",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", argv)
    main.main(argv)
    report = json.loads((run / "report.json").read_text())
    # Seen with seeds 0 to 2: 0.950 to 0.958 (n = 120); chance is a third.
    assert report["test"]["n"] == 120 and report["test"]["accuracy"] >= 0.9
    stage = report["stages"][0]
    assert stage["trainable_parameters"] == 1280 * 3 + 3
    assert stage["frozen_parameters"] == 410_208
    assert stage["cached"] and stage["frozen_unchanged"] and stage["boundary"] == "out_relu"
    # Predicting needs nothing but the model file.
    shutil.move(run / "model.safetensors", tmp_path / "alone.safetensors")
    capsys.readouterr()
    images = f"{real}/datasets/potato_leaf/test"
    out = tmp_path / "p.csv"
    predict.main(["predict", str(tmp_path / "alone.safetensors"), images, "--out", str(out)])
    assert f"accuracy {report['test']['accuracy']:.4f}" in capsys.readouterr().out
    assert len(out.read_text().splitlines()) == 121
