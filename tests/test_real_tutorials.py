"""Every variant of the tutorial configs on real images, at one epoch a stage.

With the real weights of MobileNetV2 0.35 in place of the tutorials' networks, whose files are too
large to have, and with the tutorials' own networks at random weights.
"""

import json

import pytest
from test_tutorials import VARIANTS, config_of

from tlflax.run import run
from tlflax.study import is_study, study

pytestmark = [pytest.mark.real, pytest.mark.slow]

IMAGES = {
    "cats_dogs_vgg16": "cats_vs_dogs",
    "horses_humans_inception_v3": "cats_vs_dogs",
    "cifar10_1k": "cifar10",
    "food101_10pct": "food101_10",
    "own_cnn_shoes": "potato_leaf",
}
# Where the second stage of a stand-in begins, and where it is cut.
TUNE = {
    "cats_dogs_vgg16": {"tune": "from block_16"},
    "horses_humans_inception_v3": {"endpoint": "block_13", "tune": "from block_12"},
    "cifar10_1k": {"tune": "from block_16"},
    "food101_10pct": {"tune": "last 25%"},
}


def shortened(name, variant, real, **changes):
    """The variant's config with one epoch a stage that it has, on the real images."""
    config = config_of(name, variant, data=f"folder:{real}/datasets/{IMAGES[name]}")
    if name == "food101_10pct":
        changes = {"classes": ()} | changes
    if name == "own_cnn_shoes":
        path = str(real / "weights" / "keras_h5" / "potatoes.h5")
        changes = {"backbone": path, "classes": ("EarlyBlight", "Healthy")} | changes
    for key in [k for k in config.keys() if k.endswith("_epochs") and k != "baseline_epochs"]:
        changes[key] = min(config[key], 1)
    for key, value in changes.items():
        config[key] = value
    with config.unlocked():
        config.runs = tuple(
            {k: min(v, 1) if k.endswith("_epochs") else v for k, v in entry.items()}
            for entry in config.runs
        )
    return config


def reports(config, folder):
    """Contents of report.json, by name of the run ("" for one that is no study)."""
    if is_study(config):
        study(config, folder)
        assert (folder / "compare.html").is_file()
        names = [entry["name"] for entry in config.runs]
        return {n: json.loads((folder / n / "report.json").read_text()) for n in names}
    return {"": run(config, folder).results}


# What each literal recipe deserves to be told, beside what its own input contract is told.
SAID = {
    "cats_dogs_vgg16": ("fresh head at the same rate", "the validation images too"),
    "horses_humans_inception_v3": (
        "stops at train_accuracy", "it unfreezes nothing", "the validation images too",
    ),
    "cifar10_1k": (),
    "food101_10pct": ("the validation images too",),
    "own_cnn_shoes": ("fresh head at the same rate", "it unfreezes nothing"),
}  # fmt: skip


def stand_in(name, variant, real):
    """The variant with MobileNetV2 0.35 and its real weights where the tutorial's network is."""
    network = "mobilenet_v2_0.35"
    if variant == "study_networks":
        variant = f"{variant}={network},squeezenet_1.1"
    config = shortened(name, variant, real)
    config.weights_dir = str(real / "weights" / "keras_h5")
    if variant in ("both", "scratch") or variant.startswith("study_networks"):
        return config
    for key, value in ({"backbone": network} | TUNE[name]).items():
        # "head" in the literal recipe is no block of a network.
        if not (key == "tune" and config.tune in ("head", "all")):
            config[key] = value
    return config


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_with_real_weights(name, variant, real, tmp_path):
    own = name == "own_cnn_shoes"
    if variant == "both":
        pytest.skip("its networks' real weights cannot be had here: at random weights below")
    config = shortened(name, variant, real) if own else stand_in(name, variant, real)
    for run_name, report in reports(config, tmp_path / "run").items():
        chance = 1 / len(report["data"]["class_names"])
        assert report["test"]["n"] >= 80
        # One epoch on a few hundred images: better than nothing is all that is asked.
        assert report["test"]["accuracy"] >= 0.8 * chance
        assert all(stage["frozen_unchanged"] for stage in report["stages"])
        literal = "literal" in (run_name or variant)
        said = "\n".join(report["warnings"])
        # Pixels / 255 are right for the hub's feature vectors and for the shoes' network.
        unit = literal and name not in ("own_cnn_shoes", "food101_10pct")
        assert said.count("leave preprocessing out") == unit
        expected = SAID[name] if literal and variant != "literal_frozen" else ()
        assert all(words in said for words in expected)
        assert report["data"]["chosen_on_test"] == (
            literal and "the validation images too" in SAID[name]
        )
        if own:
            assert report["before"]["test"]["accuracy"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("cats_dogs_vgg16", "block5"),
        ("horses_humans_inception_v3", "tune"),
        *(("cifar10_1k", v) for v in ("vgg16_tune", "resnet50", "mobilenet_v2", "inception_v3")),
        ("food101_10pct", "both"),
        ("food101_10pct", "resnet50_v2_full"),
    ],
)
def test_its_own_network_at_random_weights(name, variant, real, tmp_path):
    config = shortened(name, variant, real, weights="none", per_class=8)
    wanted = [entry["backbone"] for entry in config.runs] or [config.backbone]
    config.data_splits = {"val": 20, "test": 0.2}
    found = reports(config, tmp_path / "run").values()
    assert [report["backbone"] for report in found] == wanted
    assert all(report["weights"]["source"].startswith("none") for report in found)
