"""Every variant of the tutorial configs on real images, at one epoch a stage.

With the real weights of MobileNetV2 0.35 in place of the tutorials' networks, whose files are too
large to have, and with the tutorials' own networks at random weights.
"""

import json
import math

import pytest
from test_tutorials import ROOT, VARIANTS, config_of

from tlflax import main
from tlflax.data.source import load_dataset
from tlflax.features.inputs import input_notes
from tlflax.model import Architecture
from tlflax.open_model import open_model
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


def flags_of(name, variant, real):
    """What is typed to have the variant on the real images, one epoch a stage, as flags."""
    flags = {"data": f"folder:{real}/datasets/{IMAGES[name]}"}
    if name == "food101_10pct":
        flags["classes"] = "()"
    if name == "own_cnn_shoes":
        path = str(real / "weights" / "keras_h5" / "potatoes.h5")
        flags |= {"backbone": path, "classes": "('EarlyBlight', 'Healthy')"}
    config = config_of(name, variant)
    for key in [k for k in config.keys() if k.endswith("_epochs") and k != "baseline_epochs"]:
        flags[key] = min(config[key], 1)
    return flags


def reports(name, variant, folder, flags):
    """Contents of report.json, by name of the run ("" for one that is no study)."""
    argv = ["main", f"--config={ROOT}/configs/{name}.py:{variant}", f"--workdir={folder}"]
    config, _ = main.parse([*argv, *(f"--config.{key}={value}" for key, value in flags.items())])
    # Epochs of a study's entries have no flags.
    with config.unlocked():
        config.runs = tuple(
            {k: min(v, 1) if k.endswith("_epochs") else v for k, v in entry.items()}
            for entry in config.runs
        )
    if not is_study(config):
        return {"": run(config, folder).results}
    study(config, folder)
    assert (folder / "compare.html").is_file()
    names = [entry["name"] for entry in config.runs]
    return {n: json.loads((folder / n / "report.json").read_text()) for n in names}


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


# After one epoch these have learnt something, but no accuracy shows it yet: 80 test images; two
# classes at 32 px that nothing tells apart after twenty epochs either; a network from scratch.
EARLY = (
    "own_cnn_shoes:",
    "cifar10_1k:binary",
    "cifar10_1k:scratch",
    "cifar10_1k:study_ways scratch",
)


def stand_in(name, variant, real):
    """The variant and its flags, MobileNetV2 0.35 with real weights for the tutorial's network."""
    network, other = "mobilenet_v2_0.35", "squeezenet_1.1"
    flags = flags_of(name, variant, real) | {"weights_dir": real / "weights" / "keras_h5"}
    if variant in ("study_networks", "both"):
        return f"{variant}={network},{other}", flags
    if variant == "scratch":
        return variant, flags
    literal = config_of(name, variant).tune in ("head", "all")
    # "head" in the literal recipe is no block of a network.
    changes = {k: v for k, v in TUNE[name].items() if not (k == "tune" and literal)}
    return variant, flags | {"backbone": network} | changes


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_with_real_weights(name, variant, real, tmp_path):
    own = name == "own_cnn_shoes"
    asked, flags = (variant, flags_of(name, variant, real))
    if not own:
        asked, flags = stand_in(name, variant, real)
    for run_name, report in reports(name, asked, tmp_path / "run", flags).items():
        where = f"{name}:{variant} {run_name}"
        accuracy, ci95 = report["test"]["accuracy"], report["test"]["accuracy_ci95"]
        print(f"\n{where}: {accuracy:.3f} ({ci95[0]:.3f}-{ci95[1]:.3f}), {report['test']['loss']}")
        n = {"own_cnn_shoes": 80, "cats_dogs_vgg16": 400, "horses_humans_inception_v3": 400,
             "food101_10pct": 500, "cifar10_1k": 200 if variant == "binary" else 1000}  # fmt: skip
        assert report["test"]["n"] == n[name]
        # One epoch on a few hundred images: better than guessing, by more than luck.
        classes = len(report["data"]["class_names"])
        if where.startswith(EARLY):
            assert report["test"]["loss"] < math.log(classes), where
        else:
            assert ci95[0] > 1 / classes, where
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
            assert [stage["test"]["n"] for stage in report["stages"]] == [80, 80]


def test_the_weights_own_statistics_tell_the_literal_input(real):
    """The horses' recipe with pixels in 0..1, had nobody known what MobileNetV2 wants."""
    architecture = Architecture("mobilenet_v2_0.35", "block_13", ("a", "b"), 150)
    folder = f"folder:{real}/datasets/cats_vs_dogs"
    photos = load_dataset(folder).train
    for preprocessing, wrong in (("unit", True), ("auto", False)):
        model = open_model(architecture, preprocessing)
        weights = model.pretrained("official", str(real / "weights" / "keras_h5"))
        variables = model.load(model.init(0, head_only=True), weights)
        found = input_notes(model, variables, photos)
        assert len(found) == wrong
        assert not wrong or "the statistics that its weights hold" in found[0]


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
    flags = flags_of(name, variant, real)
    flags |= {"weights": "none", "per_class": 8, "data_splits.val": 20, "data_splits.test": 0.2}
    config = config_of(name, variant)
    wanted = [entry["backbone"] for entry in config.runs] or [config.backbone]
    found = reports(name, variant, tmp_path / "run", flags).values()
    assert [report["backbone"] for report in found] == wanted
    assert all(report["weights"]["source"].startswith("none") for report in found)
