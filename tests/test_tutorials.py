"""The five tutorials: every mistake they make is caught, every variant of their configs holds."""

import copy
import functools
import importlib.util
import json
from pathlib import Path

import pytest
import tiny
from keras_models import drawn, write_h5, write_leaf_cnn
from tiny import quick_compilation as quick_compilation

from tlflax import config as configs
from tlflax import main
from tlflax.data.source import load_dataset
from tlflax.errors import ConfigError, PolicyError
from tlflax.evaluate.statistics import wilson
from tlflax.model import Architecture
from tlflax.open_model import open_model
from tlflax.policy.checks import check_stages
from tlflax.policy.stage import make_stage, parse_stop
from tlflax.run import run
from tlflax.setup import read_stages
from tlflax.study import is_study, read_runs

ROOT = Path(__file__).parents[1]
GOLDENS = ROOT / "tests" / "goldens"
CONFIGS = (
    "cats_dogs_vgg16", "horses_humans_inception_v3", "cifar10_1k", "food101_10pct", "own_cnn_shoes",
)  # fmt: skip


def module_of(name):
    spec = importlib.util.spec_from_file_location(f"tutorial_{name}", ROOT / f"configs/{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def config_of(name, variant="", **changes):
    config = module_of(name).get_config(variant)
    for key, value in changes.items():
        config[key] = value
    return config


VARIANTS = [(name, variant) for name in CONFIGS for variant in module_of(name).VARIANTS]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The tutorial's Keras model: a classifier of six kinds of leaves at 64 px."""
    return write_leaf_cnn(tmp_path_factory.mktemp("own") / "leaves.h5")


def resolved(name, variant, own, **changes):
    """Resolved configs of a variant, one for each of its runs."""
    if name == "own_cnn_shoes":
        changes = {"data": "folder:shoes", "backbone": str(own)} | changes
    config = config_of(name, variant, **changes)
    return read_runs(config) if is_study(config) else {"": configs.resolve(config)}


# Tracing the large networks takes a second each, and many variants share one.
once = functools.cache(open_model)


def opened(c, classes=("a", "b")):
    """Model, stages and policies of a resolved config, without weights: fast."""
    stages = read_stages(c["stages"], c["augment"])
    architecture = Architecture(
        c["backbone"], c["endpoint"], classes, c["image_size"], c["head"], c["hidden"],
        c["dropout"], c["activation"], c["output"],
    )  # fmt: skip
    model = once(architecture, c["preprocessing"])
    return model, stages, [model.policy(stage) for stage in stages]


def warnings_of(c):
    """What a run with pretrained weights says before its first step."""
    model, stages, policies = opened(c)
    found = check_stages(stages, policies, c["batch_size"], c["weights"] != "none")
    return [model.architecture.misprepared, *found] if model.architecture.misprepared else found


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_every_variant_holds_and_only_literal_ones_are_warned_of(name, variant, own):
    for entry, c in resolved(name, variant, own).items():
        found = warnings_of(c)
        # What literal recipes are warned of is below, one by one.
        if "literal" not in (entry or variant):
            assert found == []
            assert c["data_splits"]["val"] != "test"
        else:
            assert found or c["data_splits"]["val"] == "test"


@pytest.mark.parametrize("name", CONFIGS)
def test_the_literal_recipe_beside_the_corrected_one(name, own):
    runs = resolved(name, "beside", own)
    assert list(runs) == ["corrected", "literal"]
    (literal,) = resolved(name, "literal", own).values()
    assert runs["literal"] == literal
    corrected = {"food101_10pct": "resnet50_v2", "cifar10_1k": "vgg16_tune",
                 "horses_humans_inception_v3": "tune", "cats_dogs_vgg16": "block5"}  # fmt: skip
    (right,) = resolved(name, corrected.get(name, ""), own).values()
    assert runs["corrected"] == right


# What the tutorials' texts say; where their code differs from them, see the configs' docstrings.
_IDG = (
    "keras_idg(rotation_range=40, width_shift_range=0.2, height_shift_range=0.2, shear_range=0.2, "
    "zoom_range=0.2, horizontal_flip=True, fill_mode=nearest)"
)
_LAYERS = "keras_layers(flip=horizontal, rotation=0.1, zoom=0.1)"
_SHOES = "keras_idg(shear_range=0.2, zoom_range=0.2, horizontal_flip=True)"
_FOODS = (
    "chicken_curry", "chicken_wings", "fried_rice", "grilled_salmon", "hamburger",
    "ice_cream", "pizza", "ramen", "steak", "sushi",
)  # fmt: skip
PARAMETERS = {
    ("horses_humans_inception_v3", "tune"): (
        {"backbone": "inception_v3", "endpoint": "mixed7", "image_size": 150, "batch_size": 128,
         "head": "flatten", "hidden": (1024,), "dropout": 0.2, "output": "sigmoid"},
        {"train": (), "optimizer": "rmsprop", "lr": 1e-4, "epochs": 100, "augment": _IDG},
        {"train": ("from mixed6",), "optimizer": "rmsprop", "lr": 1e-5, "epochs": 15,
         "augment": _IDG},
    ),
    ("cifar10_1k", "scratch"): (
        {"backbone": "simple_cnn", "weights": "none", "image_size": 32, "batch_size": 32,
         "head": "flatten", "hidden": (128,), "dropout": 0.5, "per_class": 80, "seed": 42,
         "data_splits": {"val": 200, "test": 0.2}},
        {"train": ("all",), "optimizer": "adam", "lr": 1e-3, "epochs": 20},
    ),
    ("cifar10_1k", "vgg16"): (
        {"backbone": "vgg16", "image_size": 32, "head": "gap", "hidden": (256,), "dropout": 0.5},
        {"train": (), "optimizer": "adam", "lr": 1e-3, "epochs": 20},
    ),
    ("cifar10_1k", "vgg16_tune"): (
        {"backbone": "vgg16", "hidden": (256,), "dropout": 0.5},
        {"train": (), "optimizer": "adam", "epochs": 10},
        # All but the last four layers frozen: three convolutions and a pooling.
        {"train": ("from block5_conv1",), "optimizer": "adam", "lr": 1e-5, "epochs": 10},
    ),
    ("cifar10_1k", "resnet50"): (
        {"backbone": "resnet50", "hidden": (128,), "dropout": 0.5}, {"epochs": 10, "lr": 1e-3},
    ),
    ("food101_10pct", "resnet50_v2"): (
        {"backbone": "hub_resnet50_v2", "image_size": 224, "batch_size": 32, "hidden": (),
         "dropout": 0.0, "head": "gap", "classes": _FOODS, "per_class": 60,
         "data_splits": {"val": 150, "test": "val"}},
        {"train": (), "optimizer": "adam", "lr": 1e-3, "epochs": 5},
    ),
    ("food101_10pct", "literal"): (
        {"backbone": "hub_resnet50_v2", "classes": _FOODS, "per_class": 75,
         "data_splits": {"val": "test", "test": "val"}},
        {"train": (), "optimizer": "adam", "lr": 1e-3, "epochs": 5},
    ),
    ("food101_10pct", "efficientnet_b0_full"): (
        {"backbone": "hub_efficientnet_b0"},
        {"train": (), "epochs": 5},
        {"train": ("all",), "epochs": 5, "lr": 1e-4},
    ),
    ("own_cnn_shoes", "shoes"): (
        {"batch_size": 8, "preprocessing": "unit", "evaluate_start": True,
         "evaluate_stages": True},
        {"train": ("head",), "optimizer": "nadam", "epochs": 10, "augment": _SHOES},
        {"train": ("all",), "optimizer": "adam", "lr": 1e-5, "epochs": 10, "augment": _SHOES},
    ),
    ("cats_dogs_vgg16", "frozen_aug"): (
        {"backbone": "vgg16", "image_size": 150, "batch_size": 32, "head": "flatten",
         "hidden": (256,), "dropout": 0.0, "output": "sigmoid"},
        {"train": (), "optimizer": "adam", "lr": 1e-3, "epochs": 10, "augment": _LAYERS},
    ),
    ("cats_dogs_vgg16", "block5_aug"): (
        {},
        {"train": (), "epochs": 10, "augment": "none"},
        {"train": ("from block5_conv1",), "optimizer": "rmsprop", "lr": 1e-5, "epochs": 10,
         "augment": _LAYERS},
    ),
    ("cats_dogs_vgg16", "literal"): (
        {"preprocessing": "unit", "data_splits": {"val": "test", "test": 0.2}},
        {"train": ("from block5_conv1",), "optimizer": "adam", "lr": 1e-3, "epochs": 10},
    ),
}  # fmt: skip


def told(stage, key):
    """A field as one writes it."""
    return tuple(rule.text for rule in stage.train) if key == "train" else getattr(stage, key)


@pytest.mark.parametrize(("name", "variant"), list(PARAMETERS))
def test_parameters_are_the_tutorials(name, variant, own):
    (c,) = resolved(name, variant, own).values()
    keys, *expected = PARAMETERS[name, variant]
    assert {k: c[k] for k in keys} == keys
    stages = read_stages(c["stages"], c["augment"])
    found = [{k: told(s, k) for k in e} for s, e in zip(stages, expected, strict=True)]
    assert found == expected
    if name.startswith("horses"):
        assert stages[0].stop == parse_stop(("val_accuracy>=0.98", "patience=10"))


def test_two_classes_of_200_images_each():
    runs = resolved("cifar10_1k", "binary", None)
    assert list(runs) == ["scratch", "features", "fine-tuned"]
    for c in runs.values():
        assert c["classes"] == ("cat", "dog") and c["per_class"] == 160
        assert c["data_splits"] == {"val": 80, "test": 0.2}


# Parameters as the tutorials' model.summary() prints them (Keras, with top cut off).
@pytest.mark.parametrize(
    ("name", "variant", "stage", "trained", "frozen"),
    [
        ("cats_dogs_vgg16", "frozen", 0, 8192 * 256 + 256 + 257, 14_714_688),
        ("cats_dogs_vgg16", "block5", 1, 2_097_665 + 7_079_424, 7_635_264),
        # mixed7 at 150 px: 7 x 7 x 768.
        ("horses_humans_inception_v3", "frozen", 0, 7 * 7 * 768 * 1024 + 1024 + 1025, 8_975_264),
        # 896 + 18,496 + 73,856, then Dense 128 and Dense 10 on 4 x 4 x 128.
        ("cifar10_1k", "scratch", 0, 93_248 + 2048 * 128 + 128 + 1290, 0),
        ("cifar10_1k", "vgg16", 0, 512 * 256 + 256 + 2570, 14_714_688),
        ("cifar10_1k", "resnet50", 0, 2048 * 128 + 128 + 1290, 23_587_712),
        ("cifar10_1k", "mobilenet_v2", 0, 1280 * 128 + 128 + 1290, 2_257_984),
        ("cifar10_1k", "inception_v3", 0, 2048 * 128 + 128 + 1290, 21_802_784),
        ("food101_10pct", "resnet50_v2", 0, 2048 * 10 + 10, 23_564_800),
        ("food101_10pct", "efficientnet_b0", 0, 1280 * 10 + 10, 4_049_564),
    ],
)
def test_parameters_are_those_that_keras_prints(name, variant, stage, trained, frozen):
    (c,) = resolved(name, variant, None).values()
    classes = ("a", "b") if c["output"] == "sigmoid" else tuple(map(str, range(10)))
    policy = opened(c, classes)[2][stage]
    assert (policy.trainable_parameters, policy.frozen_parameters) == (trained, frozen)


WRONG = [
    # 0: InceptionV3 wants -1..1.
    ("horses_humans_inception_v3", "literal", "leave preprocessing out"),
    ("horses_humans_inception_v3", "literal", "stops at train_accuracy>=0.98"),
    ("horses_humans_inception_v3", "literal", "it unfreezes nothing; name blocks below the cut"),
    # 1: VGG16 wants BGR minus the channel means.
    ("cifar10_1k", "literal", "trained on BGR, x * 1 - (103.939, 116.779, 123.68)"),
    # 3: nothing is frozen, and unfreezing changes the rate alone.
    ("own_cnn_shoes", "literal", "together with a fresh head at the same rate"),
    ("own_cnn_shoes", "literal", "it unfreezes nothing"),
    # 4: the input again, and block5 with a random head at Adam's default rate.
    ("cats_dogs_vgg16", "literal", "trained on BGR, x * 1 - (103.939, 116.779, 123.68)"),
    ("cats_dogs_vgg16", "literal", "block5_conv1 and above together with a fresh head"),
]


@pytest.mark.parametrize(("name", "variant", "says"), WRONG)
def test_literal_recipes_run_with_the_warnings_they_deserve(name, variant, says, own):
    (c,) = resolved(name, variant, own).values()
    assert [says in w for w in warnings_of(c)].count(True) == 1


@pytest.mark.parametrize("backbone", ["vgg16", "resnet50", "mobilenet_v2_1.0"])
def test_tutorial_1_a_255th_to_each_of_its_networks(backbone):
    (c,) = resolved("cifar10_1k", "vgg16", None, backbone=backbone, preprocessing="unit").values()
    assert "leave preprocessing out" in warnings_of(c)[0]


def test_tutorial_0_the_last_30_layers_lie_above_the_cut():
    # base_model.layers[281:311] of the whole InceptionV3: mixed9 to mixed10.
    for rule in ("from mixed9", "mixed10", "mixed1?"):
        (c,) = resolved("horses_humans_inception_v3", "tune", None, tune=rule).values()
        with pytest.raises(PolicyError) as caught:
            opened(c)
        assert "above the cut at mixed7" in str(caught.value)
    # What the line amounts to: in both stages the head alone trains, at another rate.
    (c,) = resolved("horses_humans_inception_v3", "literal", None).values()
    _, stages, (first, second) = opened(c)
    assert first.multipliers == second.multipliers
    assert (stages[0].lr, stages[1].lr) == (1e-4, 1e-5)


@pytest.mark.parametrize("name", ["cats_dogs_vgg16", "horses_humans_inception_v3", "food101_10pct"])
def test_tutorials_0_2_4_validating_on_test(name, tmp_path):
    (c,) = resolved(name, "literal", None).values()
    folder = tiny.write_stripes(tmp_path / "d", {"train": 6, "test": 4})
    data = load_dataset(f"folder:{folder}", splits=c["data_splits"])
    assert data.val.files == data.test.files and len(data.test) == 12 and data.val.name == "val"
    (said,) = [w for w in data.warnings if "the test images are the validation images" in w]
    assert "the test accuracy is no estimate" in said and "leave val='test' out" in said
    assert data.chosen_on_test and data.summary()["chosen_on_test"] is True
    # By default it never happens.
    data = load_dataset(f"folder:{folder}")
    assert not set(data.val.files) & set(data.test.files) and not data.chosen_on_test


def test_food101_validation_images_of_tfds_are_the_test_images(tmp_path):
    folder = tiny.write_stripes(tmp_path / "d", {"train": 9, "val": 4})
    data = load_dataset(f"folder:{folder}", splits={"val": 6, "test": "val"})
    assert len(data.test) == 12 and data.test.name == "test" and len(data.val) == 6
    assert all(f.startswith("val/") for f in data.test.files)
    assert all(f.startswith("train/") for f in data.val.files)
    # A folder's own test images stay.
    other = tiny.write_stripes(tmp_path / "e", {"train": 9, "test": 4}, seed=1)
    data = load_dataset(f"folder:{other}", splits={"val": 6, "test": "val"})
    assert all(f.startswith("test/") for f in data.test.files) and len(data.val) == 6


def test_literal_recipes_take_every_layout_of_a_folder(tmp_path):
    # Keras' own cats and dogs have validation images and no test images.
    folder = tiny.write_stripes(tmp_path / "d", {"train": 9, "val": 4})
    for splits in ({"val": "test"}, {"val": "test", "test": "val"}):
        data = load_dataset(f"folder:{folder}", splits=splits)
        assert data.val.files == data.test.files and len(data.test) == 12 and data.chosen_on_test
        assert all(f.startswith("val/") for f in data.test.files)
    # With both, the test images are what the tutorials validate on.
    folder = tiny.write_stripes(tmp_path / "e", {"train": 9, "val": 4, "test": 3})
    data = load_dataset(f"folder:{folder}", splits={"val": "test"})
    assert data.val.files == data.test.files and len(data.test) == 9
    assert any("own 12 validation images are left out" in w for w in data.warnings)
    # With neither, a fifth of the images.
    folder = tiny.write_stripes(tmp_path / "f", {"train": 10})
    data = load_dataset(f"folder:{folder}", splits={"val": 3, "test": "val"})
    assert (len(data.test), len(data.val), len(data.train)) == (6, 3, 21)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_form_of_data_splits_on_the_command_line(name):
    file = ROOT / "configs" / f"{name}.py"
    for variant in ("", ":literal"):
        for text, value in {"0.1": 0.1, "6": 6, "test": "test"}.items():
            flags = [f"--config.data_splits.val={text}", "--config.data_splits.test", text]
            config, _ = main.parse(["main", f"--config={file}{variant}", *flags, "--workdir=w"])
            assert configs.plain(config)["data_splits"] == {"val": value, "test": value}
    # A value that was forgotten is no other flag.
    config, folder = main.parse(
        ["main", f"--config={file}", "--config.data_splits.val", "--workdir=w"]
    )
    assert str(folder) == "w" and configs.plain(config)["data_splits"]["val"] in ("true", True)


def test_a_number_typed_where_a_config_file_has_replaced_data_splits():
    config = config_of("cats_dogs_vgg16")
    config.data_splits = {"val": "test", "test": "val"}
    config.data_splits.val, config.data_splits.test = "0.1", "6"  # texts, as flags leave them
    assert configs.resolve(config)["data_splits"] == {"val": 0.1, "test": 6}


def test_split_names_that_have_no_meaning(tmp_path):
    other = tiny.write_stripes(tmp_path / "e", {"train": 9})
    with pytest.raises(ConfigError, match="val='tset' is neither a fraction"):
        load_dataset(f"folder:{other}", splits={"val": "tset"})


def test_tutorial_3_from_the_command_line(own, tmp_path):
    photos = tiny.write_stripes(tmp_path / "shoes", {"train": 8, "test": 4})
    folder = tmp_path / "run"
    main.main(
        ["tlflax.main", f"--config={ROOT / 'configs' / 'own_cnn_shoes.py'}", f"--workdir={folder}",
         f"--config.data=folder:{photos}", f"--config.backbone={own}",
         "--config.classes=('diagonal', 'vertical')",
         "--config.head_epochs=1", "--config.tune_epochs", "1"]
    )  # fmt: skip
    report = json.loads((folder / "report.json").read_text())
    assert report["image_size"] == 64 and report["endpoint"] == "dense"
    head, tune = report["stages"]
    # Dense 2 in the place of Dense 6; the tutorial's first stage, and its second one.
    assert head["trainable_parameters"] == 128 * 2 + 2 and head["frozen_unchanged"]
    assert tune["frozen_parameters"] == 0 and tune["trainable_parameters"] == 813_346
    # Before training, after the head, after fine-tuning: on the same eight images.
    assert [s["test"]["n"] for s in (report["before"], head, tune)] == [8, 8, 8]
    assert report["before"]["test"]["accuracy"] == 0.5
    assert head["test"]["loss"] != report["before"]["test"]["loss"]
    header, *lines = (folder / "predictions.csv").read_text().splitlines()
    assert header == "file,label,predicted,probability,correct" and len(lines) == 8


def test_tutorial_3_a_whole_literal_run_says_what_is_wrong_with_it(own, tmp_path):
    photos = tiny.write_stripes(tmp_path / "shoes", {"train": 8, "test": 4})
    config = config_of("own_cnn_shoes", "literal", data=f"folder:{photos}", backbone=str(own))
    config.head_epochs = config.tune_epochs = 1
    report = run(config, tmp_path / "run").results
    said = "\n".join(report["warnings"])
    for words in ("together with a fresh head at the same rate", "it unfreezes nothing",
                  "the test split has only 12 images"):  # fmt: skip
        assert words in said
    assert report["before"]["test"]["n"] == report["test"]["n"] == 12
    assert [s["name"] for s in report["stages"]] == ["head", "tune"]
    # Nothing was frozen in either stage, but for what Keras itself never trains.
    first, second = report["stages"]
    assert first["trainable_parameters"] == second["trainable_parameters"]
    assert all(block["trained"] for block in first["policy"] if block["parameters"])
    header, *lines = (tmp_path / "run" / "predictions.csv").read_text().splitlines()
    assert header.split(",")[:5] == ["file", "label", "predicted", "probability", "correct"]
    assert len(lines) == 12


def test_tutorial_3_evaluation_cannot_be_augmented():
    with pytest.raises(ConfigError, match="unknown key 'val_augment'; did you mean augment"):
        make_stage({"name": "head", "epochs": 1, "val_augment": "flip"})


def test_tutorial_3_eighteen_test_images(tmp_path):
    folder = tiny.write_stripes(tmp_path / "d", {"train": 9, "test": 6})
    data = load_dataset(f"folder:{folder}")
    assert any("the test split has only 18 images" in w for w in data.warnings)
    low, high = wilson(17, 18)
    assert (round(low, 2), round(high, 2)) == (0.74, 0.99)


def test_tutorial_4_augmentation_has_no_place_after_the_head(own, tmp_path):
    with pytest.raises(ConfigError, match="unknown key 'head_augment'; did you mean augment"):
        make_stage({"name": "head", "epochs": 1, "head_augment": "flip"})
    # In a Keras model of one's own it can stand there.
    golden = json.loads((GOLDENS / "graph_sequential.json").read_text())
    wrong = copy.deepcopy(golden["h5"])
    layers = wrong["config"]["layers"]
    (flip,) = [x for x in layers if x["class_name"] == "RandomFlip"]
    layers.remove(flip)
    layers.append(flip)
    path = write_h5(tmp_path / "wrong.h5", wrong, drawn(golden["weights"]))
    c = {"data": "folder:shoes", "backbone": str(path), "preprocessing": "raw"}
    (c,) = resolved("own_cnn_shoes", "", None, **c).values()
    notes = opened(c)[0].brought.notes
    (said,) = [n for n in notes if "augmentation" in n]
    assert said == (
        "its augmentation layer 'random_flip' (RandomFlip) comes after 'conv2d', where no image "
        "passes: it never augmented one; here augmentation is a stage's "
        "augment='keras_layers(...)', before the network"
    )
    c["backbone"] = str(own)
    assert not [n for n in opened(c)[0].brought.notes if "augmentation" in n]


@pytest.mark.parametrize("name", CONFIGS)
def test_docstrings_name_every_variant_and_a_misspelt_one_is_one_line(name):
    module = module_of(name)
    for variant in module.VARIANTS:
        short = variant.replace("resnet50_v2", "NETWORK").replace("efficientnet_b0", "NETWORK")
        assert variant in str(module.__doc__) or short in str(module.__doc__)
    argv = ["tlflax.main", "--config", f"configs/{name}.py:litteral", "--workdir", "x"]
    with pytest.raises(ConfigError, match="unknown variant 'litteral'; did you mean literal"):
        main.parse(argv)


def test_any_networks_can_be_compared():
    found = read_runs(config_of("cifar10_1k", "study_networks=mobilenet_v2_0.35,inception_v3"))
    assert {n: c["image_size"] for n, c in found.items()} == {
        "mobilenet_v2_0.35": 32, "inception_v3": 75,
    }  # fmt: skip
    with pytest.raises(ConfigError, match="unknown backbone 'vgg61'"):
        config_of("cifar10_1k", "study_networks=vgg61")
    with pytest.raises(ConfigError, match="unknown variant 'vgg16=a'"):
        config_of("cifar10_1k", "vgg16=a")
    larger = config_of("cifar10_1k", "study_networks", image_size=96, enlarged_size=128)
    assert {c["image_size"] for n, c in read_runs(larger).items() if n != "inception_v3"} == {96}
    assert read_runs(larger)["inception_v3"]["image_size"] == 128
    found = read_runs(config_of("food101_10pct", "both=mobilenet_v2_0.35,squeezenet_1.1"))
    assert {n: c["backbone"] for n, c in found.items()} == {
        "mobilenet_v2_0.35": "mobilenet_v2_0.35", "squeezenet_1.1": "squeezenet_1.1",
    }  # fmt: skip
