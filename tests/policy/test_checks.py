"""Each warning fires on what it is about, and on nothing next to it."""

import pytest

from tlflax.backbones.table import get
from tlflax.errors import PolicyError
from tlflax.model import Architecture, Model
from tlflax.policy.checks import check_stages
from tlflax.policy.stage import make_stage


@pytest.fixture(scope="module")
def model():
    return Model(Architecture("glyph_cnn", "auto", ("a", "b"), 16))


@pytest.fixture(scope="module")
def inception():
    return Model(Architecture("inception_v3", "mixed7", ("horses", "humans"), 150))


def found(model, *stages, batch_size=32, pretrained=True):
    made = [make_stage({"name": f"s{i}", "epochs": 1} | s) for i, s in enumerate(stages)]
    policies = [model.policy(s) for s in made]
    return check_stages(made, policies, batch_size, pretrained)


HEAD: dict = {}
TUNE = {"train": ("block3",), "lr": 1e-4}
TUNE_CUTMIX = {"lr": 1e-4, "cutmix": 1.0}


@pytest.mark.parametrize(
    ("stages", "options", "words"),
    [
        # Nothing to say.
        ((HEAD,), {}, None),
        ((HEAD, TUNE), {}, None),
        (({"train": (("block3", 0.1),)},), {}, None),
        (({"train": ("all",)},), {"pretrained": False}, None),
        ((HEAD, {"lr": 1e-4}), {}, None),
        ((HEAD, {"weight_decay": 1e-4, "optimizer": "sgd"}), {}, None),
        ((HEAD, {"augment": "flip"}), {}, None),
        ((HEAD, TUNE, TUNE | {"lr": 1e-5, "augment": "flip"}), {}, None),
        (({"stop": ("val_accuracy>=0.98",)},), {}, None),
        (({"train": (("head", 0), "block3")},), {}, None),
        ((HEAD, {"train": ("all",), "bn": "train"}), {"batch_size": 16}, None),
        # A stage that repeats the last one.
        ((HEAD, HEAD), {}, "trains exactly what 's0' trained"),
        ((HEAD, TUNE, TUNE), {}, "trains exactly what 's1' trained"),
        # A stage that unfreezes nothing: tutorial 3.
        ((HEAD, TUNE, TUNE | {"lr": 1e-5}), {}, "at another rate: it unfreezes nothing"),
        ((HEAD, TUNE, TUNE | {"optimizer": "nadam"}), {}, "it unfreezes nothing"),
        # What unfreezing blocks above the cut amounts to: tutorial 0.
        ((HEAD, {"train": ("head",), "lr": 1e-5}), {}, "nothing; name blocks below the cut"),
        # Stopping on the training images: tutorial 0.
        (({"stop": ("train_accuracy>=0.98",)},), {}, "stop at val_accuracy>=0.98 or with"),
        (({"stop": ("train_loss<=0.1",)},), {}, "stop at val_loss<=0.1 or with"),
        # The same rules and rate, but other images or another loss.
        ((HEAD, {"mixup": 0.2}), {}, "mixup works on the output of block3_pool, not on pixels"),
        ((HEAD, {"sampling": "balanced"}), {}, None),
        ((HEAD, {"class_weights": "balanced"}), {}, None),
        (
            (TUNE | {"train": (("block3", 0.1),)}, {"train": (("block3", 0.1),)} | TUNE_CUTMIX),
            {},
            "cutmix works on the output of block2_pool",
        ),
        # Mixing pixels needs no word.
        (({"train": ("all",), "mixup": 0.2, "cutmix": 1.0},), {"pretrained": False}, None),
        # A fresh head together with the backbone at the same rate.
        (({"train": ("block3",)},), {}, "fresh head"),
        (({"train": (("block3", 0.5), ("head", 0.5))},), {}, "fresh head"),
        # A hole above a trained block.
        ((HEAD, {"train": ("block1",), "lr": 1e-4}), {}, "freezes block2_pool above"),
        ((HEAD, {"train": ("block1", "block3"), "lr": 1e-4}), {}, "freezes block2_pool above"),
        # Live BatchNorm.
        ((HEAD, {"train": ("all",), "bn": "train"}), {"batch_size": 15}, "batches of 15"),
        (({"bn": "train"},), {}, "it changes nothing"),
        ((HEAD, {"train": ("*/kernel",), "bn": "train"}), {}, "it changes nothing"),
    ],
)
def test_warnings(model, stages, options, words):
    warnings = found(model, *stages, **options)
    if words is None:
        assert warnings == []
    else:
        assert len(warnings) == 1
        assert words in warnings[0]


@pytest.mark.parametrize(
    ("train", "says"),
    [
        # Tutorial 0 unfreezes the last 30 layers of InceptionV3, of which its model has none.
        (("mixed8",), "mixed8 lies above the cut at mixed7"),
        (("from mixed8",), "mixed8 lies above the cut at mixed7"),
        (("mixed9", "mixed10"), "mixed9 lies above the cut at mixed7"),
        (("mixed1?",), "matches only blocks above the cut at mixed7"),
        (("last 30",), "write 'last 1' to 'last 13'"),
    ],
)
def test_blocks_above_the_cut_are_refused_by_name(inception, train, says):
    stage = make_stage({"name": "tune", "epochs": 1, "train": train})
    with pytest.raises(PolicyError) as caught:
        inception.policy(stage)
    assert says in str(caught.value)


def test_last_blocks_are_counted_from_the_cut(inception):
    def trained(text):
        policy = inception.policy(make_stage({"name": "t", "epochs": 1, "train": (text,)}))
        return [r.block for r in policy.rows if r.trained]

    assert trained("last 1") == ["mixed7", "head"]
    assert trained("last 2") == trained("from mixed6") == ["mixed6", "mixed7", "head"]


def test_counts_are_those_that_keras_prints():
    # model.summary() of keras.applications.MobileNetV2(include_top=False) with everything
    # trainable: 2,223,872 and 34,112; frozen with Dense(2) on the average: 2,562.
    m = Model(Architecture("mobilenet_v2_1.0", "auto", ("a", "b"), 96))
    everything = m.policy(make_stage({"name": "a", "epochs": 1, "train": "all"}))
    assert everything.trainable_parameters == 2_223_872 + 2_562
    assert everything.frozen_parameters == 34_112
    head = m.policy(make_stage({"name": "a", "epochs": 1}))
    assert (head.trainable_parameters, head.frozen_parameters) == (2_562, 2_257_984)


def test_hand_counted_glyph_cnn(model):
    # 3x3 convolutions without bias, two parameters and two statistics a BatchNorm channel.
    a, b, c = get("glyph_cnn").options["widths"]
    block3 = 9 * b * c + 9 * c * c + 2 * 2 * c
    p = model.policy(make_stage({"name": "a", "epochs": 1, "train": "block3"}))
    assert p.trainable_parameters == block3 + c * 2 + 2
    rest = (9 * a + 9 * a * a + 9 * a * b + 9 * b * b) + 2 * 2 * (a + b)
    statistics = 2 * 2 * (a + b + c)
    assert p.frozen_parameters == rest + statistics
    assert p.boundary == "block2_pool"
