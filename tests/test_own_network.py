"""A Keras network of one's own, from its file through training to predictions without the file."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
from keras_models import drawn, write_h5
from tiny import coarse_pictures, quick_compilation  # noqa: F401

import tlflax as tl
from tlflax import tree, zoo
from tlflax.config import base
from tlflax.convert.tensors import load_variables
from tlflax.errors import ConfigError, PolicyError
from tlflax.predict import Predictor
from tlflax.run import run

GOLDEN = Path(__file__).parent / "goldens" / "graph_nested.json"
STAGES = (
    {"name": "head", "epochs": 1, "lr": 1e-2},
    {"name": "tune", "epochs": 1, "train": ("from tail",), "lr": 1e-3},
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    golden = json.loads(GOLDEN.read_text())
    folder = tmp_path_factory.mktemp("own")
    return write_h5(folder / "mine.h5", golden["h5"], drawn(golden["weights"]))


def config(model, **changes):
    fields = {"data": f"folder:{tiny.stripes()}", "backbone": str(model), "stages": STAGES}
    return base(**(fields | {"batch_size": 16} | changes))


@pytest.fixture(scope="module")
def done(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return run(config(model), folder / "r"), folder / "r"


def test_run_and_report(done):
    result, folder = done
    report = result.results
    assert report["backbone"] == "mine.h5" and report["endpoint"] == "hidden"
    assert report["weights"]["source"] == "mine.h5"
    assert any("preprocessing raw" in w for w in report["warnings"])
    assert report["stages"][0]["frozen_unchanged"] and report["stages"][1]["frozen_unchanged"]
    assert (folder / "report.html").is_file()


def test_run_directory_needs_no_keras_file(done, model):
    result, folder = done
    moved = model.with_suffix(".moved")
    model.rename(moved)
    try:
        predictor = Predictor.open(folder)
        found = predictor.predict([tiny.stripes() / "test"])
    finally:
        moved.rename(model)
    assert found.probabilities.shape == (15, 3)
    right = (found.probabilities.argmax(1) == found.labels).mean()
    assert right == pytest.approx(result.results["test"]["accuracy"])


def test_head_stage_leaves_the_network_as_it_was(model, tmp_path):
    run(config(model, stages=STAGES[:1]), tmp_path / "r")
    trained, _ = load_variables(tmp_path / "r" / "model.safetensors")
    own = tl.classifier(str(model), classes=3).weights.variables
    for collection, leaves in own.items():
        kept = tree.flatten(trained[collection]["backbone"])
        for path, value in tree.flatten(leaves).items():
            if not path.startswith("logits/"):
                np.testing.assert_array_equal(kept[path], value)


def test_converted_file_is_a_backbone_too(model, tmp_path, capsys):
    from tlflax.convert.__main__ import main

    dest = tmp_path / "mine.safetensors"
    main(["convert", str(model), str(dest), "--preprocessing", "unit"])
    assert "certificate (layout)" in capsys.readouterr().out
    found = tl.classifier(str(dest), classes=3)
    assert found.model.spec.contract.scale == pytest.approx(1 / 255)
    assert found.endpoints() == tl.classifier(str(model), classes=3).endpoints()


def test_zoo_shows_it(model, capsys):
    zoo.main(["zoo", str(model)])
    out = capsys.readouterr().out
    assert out.startswith("mine.h5: ") and "\nhidden " in out and "preprocessing raw" in out


def test_mistakes_are_named(model, tmp_path):
    with pytest.raises(PolicyError, match="from tale"):
        run(config(model, stages=({"name": "t", "epochs": 1, "train": ("from tale",)},)), tmp_path)
    with pytest.raises(ConfigError, match="brings its own weights"):
        run(config(model, weights="other.h5"), tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_image_size_that_the_weights_do_not_fit(tmp_path):
    golden = json.loads(GOLDEN.with_name("graph_sequential.json").read_text())
    flat = write_h5(tmp_path / "flat.h5", golden["h5"], drawn(golden["weights"]))
    data = tl.dataset(f"folder:{tiny.stripes()}", image_size=64)
    stages = [tl.stage("head", epochs=1)]
    with pytest.raises(ConfigError, match=r"image_size 64 does not fit flat.h5 .* 33 pixels"):
        tl.fit(tl.classifier(str(flat), classes=3), data, stages)
    # Cut in front of the layer that wants this number of pixels.
    cut = tl.classifier(str(flat), classes=3, endpoint="max_pooling2d", image_size=64)
    assert cut.endpoints()[-1] == "max_pooling2d"
    assert cut.model.architecture.image_size == 64


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
# Keras 3.15 variables and numpy 2 (seen 2026-11); h5py asks for arrays.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5:UserWarning")
def test_verify_runs_the_model_in_keras(suffix, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    pytest.importorskip("keras", reason="needs Keras")
    from keras_models import build

    from tlflax.convert.__main__ import main

    build("sequential").save(tmp_path / f"mine{suffix}")
    main(["convert", str(tmp_path / f"mine{suffix}"), str(tmp_path / "o.safetensors"), "--verify"])
    out = capsys.readouterr().out
    assert "layers compared with the model in Keras" in out and "\ndepthwise_conv2d " in out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_preprocessing_in_the_models_code(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras", reason="needs Keras")

    from tlflax.convert.__main__ import main

    images = keras.Input((40, 40, 3))
    x = keras.applications.mobilenet_v2.preprocess_input(images)
    base = keras.applications.MobileNetV2((40, 40, 3), 0.35, include_top=False, weights=None)
    x = keras.layers.GlobalAveragePooling2D()(base(x, training=False))
    keras.Model(images, keras.layers.Dense(2)(x)).save(tmp_path / "mine.keras")
    main(["c", str(tmp_path / "mine.keras"), str(tmp_path / "o.safetensors"), "--verify"])
    out = capsys.readouterr().out
    assert "preprocessing raw" in out and "block_16_project_BN " in out
