"""The study configs: what they run, and on real images at reduced epochs."""

import importlib.util
import json

import pytest
import tiny

from tlflax.policy.checks import check_stages
from tlflax.setup import read_stages
from tlflax.study import read_runs


def config_of(name, arg=""):
    spec = importlib.util.spec_from_file_location(name, tiny.ROOT / "configs" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(arg)
    config.data = "folder:pets"
    return config


def test_freezing_trains_more_and_more_at_a_tenth_of_the_rate():
    config = config_of("study_freezing")
    config.tune_epochs = 3
    found = read_runs(config)
    assert list(found) == ["frozen", "last_25", "last_50", "all", "scratch"]
    assert [c["weights"] for c in found.values()] == ["official"] * 4 + ["none"]
    stages = {name: read_stages(c["stages"]) for name, c in found.items()}
    assert [len(s) for s in stages.values()] == [1, 2, 2, 2, 1]
    for head, *tuned in list(stages.values())[:4]:
        assert (head.train, head.lr) == ((), 1e-3)
        assert all((s.epochs, s.lr) == (3, 1e-4) for s in tuned)
    model = tiny.model()
    trained = [model.policy(s[-1]).trainable_parameters for s in stages.values()]
    assert trained[0] < trained[1] <= trained[2] < trained[3] == trained[4]
    # The recipes themselves deserve no warning; the scratch run has no weights to spoil.
    for name, own in stages.items():
        policies = [model.policy(s) for s in own]
        assert check_stages(own, policies, 32, name != "scratch") == []


def test_networks_are_named_after_the_colon():
    config = config_of("study_networks", "mobilenet_v2_0.35, models/my_cnn.h5")
    config.scaling = "unit"
    found = read_runs(config)
    assert list(found) == ["mobilenet_v2_0.35", "my_cnn"]
    assert [c["backbone"] for c in found.values()] == ["mobilenet_v2_0.35", "models/my_cnn.h5"]
    assert [c["preprocessing"] for c in found.values()] == ["auto", "unit"]
    assert [[s.name for s in read_stages(c["stages"])] for c in found.values()] == [["head"]] * 2
    config.tune_epochs = 2
    assert len(read_stages(read_runs(config)["my_cnn"]["stages"])) == 2
    assert list(read_runs(config_of("study_networks"))) == ["mobilenet_v2_0.35", "squeezenet_1.1"]


@pytest.mark.real
@pytest.mark.parametrize(
    ("study", "changes", "runs"),
    [
        (
            "study_freezing.py",
            ("backbone=mobilenet_v2_0.35", "head_epochs=2", "tune_epochs=1", "scratch_epochs=1"),
            ["frozen", "last_25", "last_50", "all", "scratch"],
        ),
        (
            "study_networks.py:mobilenet_v2_0.35,squeezenet_1.1",
            ("head_epochs=2",),
            ["mobilenet_v2_0.35", "squeezenet_1.1"],
        ),
    ],
)
def test_studies_on_real_images(real, tmp_path, study, changes, runs):
    done = tiny.command(
        "tlflax.main", "--config", f"configs/{study}", "--workdir", str(tmp_path / "s"),
        f"--config.data=folder:{real / 'datasets' / 'potato_leaf'}", "--config.image_size=96",
        f"--config.weights_dir={real / 'weights' / 'keras_h5'}", "--config.per_class=30",
        *(f"--config.{c}" for c in changes),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "s" / "compare.json").read_text())
    assert [r["name"] for r in content["runs"]] == runs
    assert all(r["test"]["n"] == 120 and r["images_per_second"] > 0 for r in content["runs"])
    assert len(content["pairs"]) == len(runs) * (len(runs) - 1) // 2
    assert content["recommendation"]["accuracy"]["run"] in runs
    assert "For accuracy: " in done.stdout
    assert (tmp_path / "s" / "compare.html").stat().st_size > 50_000
