"""Every variant of the tutorial configs on real images, at one epoch a stage.

With the real weights of MobileNetV2 0.35 in place of the tutorials' networks, whose files are too
large to have, and with the tutorials' own networks at random weights.
"""

import json

import pytest
from test_tutorials import CONFIGS, VARIANTS, config_of, module_of

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
    if is_study(config):
        study(config, folder)
        assert (folder / "compare.html").is_file()
        names = [entry["name"] for entry in config.runs]
        return [json.loads((folder / n / "report.json").read_text()) for n in names]
    return [run(config, folder).results]


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_with_real_weights(name, variant, real, tmp_path):
    config = shortened(name, variant, real)
    if name != "own_cnn_shoes":
        if variant == "both":
            pytest.skip("its point is two networks whose weights cannot be had here")
        name_of = "mobilenet_v2_0.35"
        if variant == "study_networks":
            config = shortened(name, f"{variant}={name_of},squeezenet_1.1", real)
        elif variant != "scratch":
            for key, value in ({"backbone": name_of} | TUNE[name]).items():
                # "head" in the literal recipe is no block of a network.
                if not (key == "tune" and config.tune in ("head", "all")):
                    config[key] = value
        config.weights_dir = str(real / "weights" / "keras_h5")
    for report in reports(config, tmp_path / "run"):
        chance = 1 / len(report["data"]["class_names"])
        assert report["test"]["n"] >= 80
        # One epoch on a few hundred images: better than nothing is all that is asked.
        assert report["test"]["accuracy"] >= 0.8 * chance
        assert all(stage["frozen_unchanged"] for stage in report["stages"])
        literal = [w for w in report["warnings"] if "leave preprocessing out" in w]
        assert len(literal) == (variant == "literal" and config.preprocessing == "unit"
                                and name != "own_cnn_shoes")  # fmt: skip
        if name == "own_cnn_shoes":
            assert report["before"]["test"]["accuracy"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("name", "variant"), [(n, next(iter(module_of(n).VARIANTS))) for n in CONFIGS[:4]]
)
def test_its_own_network_at_random_weights(name, variant, real, tmp_path):
    config = shortened(name, variant, real, weights="none", per_class=8)
    config.data_splits = {"val": 20, "test": 0.2}
    (report,) = reports(config, tmp_path / "run")
    assert report["backbone"] == config.backbone
    assert report["weights"]["source"].startswith("none")
