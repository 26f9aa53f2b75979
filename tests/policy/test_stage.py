import pytest

from tlflax.errors import ConfigError, PolicyError
from tlflax.policy.rules import Rule
from tlflax.policy.stage import Stop, make_stage, parse_stop

GOOD = {"name": "head", "epochs": 2}


def test_defaults_and_values():
    stage = make_stage(GOOD | {"train": {"b": 0.1}, "stop": ("patience=3",), "lr": 0.01})
    assert (stage.optimizer, stage.schedule, stage.bn) == ("adam", "constant", "stored")
    assert stage.train == (Rule("b", 0.1),)
    assert stage.stop == Stop(3)
    assert make_stage(vars(stage)) == stage  # a stage can be made from a stage


def test_targets_on_training_images_are_told_apart():
    # Tutorial 0 stops like this: legal, and warned of.
    stop = parse_stop(("train_accuracy>=0.98", "val_loss<=0.1", "train_loss<=0.2"))
    assert stop.on_training == ["train_accuracy>=0.98", "train_loss<=0.2"]
    assert parse_stop(("val_accuracy>=0.98", "patience=3")).on_training == []


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"epoch": 1}, "did you mean epochs"),
        ({"learning_rate": 1}, "unknown key 'learning_rate'"),
        ({"optimiser": "adam"}, "did you mean optimizer"),
        ({"optimizer": "adamW"}, "did you mean adamw"),
        ({"schedule": "cosin"}, "did you mean cosine"),
        ({"bn": "live"}, "unknown bn 'live'"),
        ({"epochs": -1}, "epochs must be in"),
        ({"epochs": 1.5}, "whole number"),
        ({"epochs": True}, "epochs must be a number"),
        ({"epochs": "3"}, "epochs must be a number"),
        ({"lr": 0}, "lr is 0"),
        ({"lr": -1e-3}, "lr must be in"),
        ({"lr": float("nan")}, "lr must be in"),
        ({"lr": "1e-3"}, "lr must be a number"),
        ({"warmup": 1.1}, "warmup must be in"),
        ({"label_smoothing": 1}, "label_smoothing must be in"),
        ({"clip": -1}, "clip must be in"),
        ({"weight_decay": 0.1, "optimizer": "adam"}, "weight_decay needs"),
        ({"name": "a/b"}, "a stage's name is"),
        ({"name": ""}, "a stage's name is"),
        ({"name": 3}, "a stage's name is"),
        ({"stop": 5}, "stop must be rules"),
        ({"mixup": -0.1}, "mixup must be in"),
        ({"mixup": True}, "mixup must be a number"),
        ({"cutmix": "1.0"}, "cutmix must be a number"),
        ({"cutmix": float("inf")}, "cutmix must be in"),
        ({"mix_up": 0.2}, "did you mean mixup"),
        ({"sampling": "balance"}, "unknown sampling 'balance'; did you mean balanced?"),
        ({"class_weights": "balance"}, "did you mean balanced?"),
        ({"class_weights": {}}, "a dict such as"),
        ({"class_weights": None}, "class_weights must be"),
        ({"class_weights": [1, 2]}, "a dict such as"),
        ({"class_weights": {0: 1.0}}, "its keys are class names"),
        ({"class_weights": {"cat": 0}}, "'cat' must be a number above 0"),
        ({"class_weights": {"cat": float("nan")}}, "'cat' must be a number above 0"),
        ({"class_weights": {"cat": float("inf")}}, "'cat' must be a number above 0"),
        ({"class_weights": {"cat": "2"}}, "'cat' must be a number above 0"),
    ],
)
def test_refused(fields, says):
    with pytest.raises(ConfigError) as caught:
        make_stage(GOOD | fields)
    assert says in str(caught.value)


def test_mixture_is_what_is_not_the_default():
    assert make_stage(GOOD).mixture == {}
    weights = {"cat": 2}
    stage = make_stage(GOOD | {"mixup": 0.2, "class_weights": weights, "cutmix": 0})
    assert stage.mixture == {"mixup": 0.2, "class_weights": {"cat": 2}}
    assert make_stage(vars(stage)) == stage
    weights["cat"] = 3  # a stage is what it was when it was made
    assert stage.class_weights == {"cat": 2}
    assert make_stage(GOOD | {"sampling": "balanced"}).mixture == {"sampling": "balanced"}


@pytest.mark.parametrize("missing", ["name", "epochs"])
def test_required(missing):
    with pytest.raises(ConfigError, match=f"has no '{missing}'"):
        make_stage({k: v for k, v in GOOD.items() if k != missing})


def test_malformed_rules_are_policy_errors():
    with pytest.raises(PolicyError, match=r"train must be rules .*got 5"):
        make_stage(GOOD | {"train": 5})


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ((), Stop()),
        (None, Stop()),
        ("patience=5", Stop(5)),
        (("patience: 5",), Stop(5)),
        (("val_accuracy >= 0.98",), Stop(0, (("val_accuracy", ">=", 0.98),))),
        (
            ["patience=2", "val_accuracy>=1", "val_loss<=1e-2"],
            Stop(2, (("val_accuracy", ">=", 1.0), ("val_loss", "<=", 0.01))),
        ),
    ],
)
def test_stop(stop, expected):
    assert parse_stop(stop) == expected


@pytest.mark.parametrize(
    ("stop", "says"),
    [
        ("accuracy>=0.999", "did you mean val_accuracy"),
        ("test_accuracy>=0.9", "never at test"),
        ("patience", "not understood"),
        ("patience=-1", "not understood"),
        ("patience=2.5", "not understood"),
        ("val_accuracy>0.9", "not understood"),
        ("val_accuracy>=.", "not understood"),
        ("val_accuracy>=1e", "not understood"),
        ("val_accuracy>=98", "in (0, 1]"),
        ("val_accuracy<=0.98", "val_accuracy>=X"),
        ("train_accuracy>=98", "in (0, 1]"),
        ("train_loss>=0.1", "train_loss<=X"),
        ("val_loss>=0.1", "val_loss<=X"),
    ],
)
def test_stop_refused(stop, says):
    with pytest.raises(ConfigError) as caught:
        parse_stop((stop,))
    assert says in str(caught.value)
