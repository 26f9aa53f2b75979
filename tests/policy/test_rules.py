"""Rules against a hand-made chain: every form, and what must *not* match."""

import pytest

from tlflax.errors import PolicyError
from tlflax.policy.policy import apply_rules, table
from tlflax.policy.rules import Anatomy, Rule, covered, parse_rules

# Names chosen to be near misses of each other: block_1 / block_13, conv / convex.
BLOCKS = ("stem", "block_1_out", "block_12_out", "block_13_add", "block_13_out", "convex")
LAYERS = {
    "stem": ("stem_conv", "stem"),
    "block_1_out": ("block_1_conv", "block_1_bn", "block_1_out"),
    "block_12_out": ("block_12_conv", "block_12_out"),
    "block_13_add": ("block_13_add",),
    "block_13_out": ("block_13_conv", "block_13_out"),
    "convex": ("conv", "convex"),
}
SIZES = {
    "backbone/stem/stem_conv/kernel": 1,
    "backbone/block_1_out/block_1_conv/kernel": 10,
    "backbone/block_1_out/block_1_bn/scale": 2,
    "backbone/block_1_out/block_1_bn/bias": 2,
    "backbone/block_12_out/block_12_conv/kernel": 100,
    "backbone/block_13_out/block_13_conv/kernel": 1000,
    "backbone/block_13_out/block_13_conv/bias": 7,
    "backbone/convex/conv/kernel": 10000,
    "head/logits/bias": 3,
    "head/logits/kernel": 30,
}
STATS = {
    "backbone/block_1_out/block_1_bn/mean": 2,
    "backbone/block_1_out/block_1_bn/var": 2,
}
ANATOMY = Anatomy(
    blocks=BLOCKS,
    above=("block_16_out", "top", "top_conv"),
    paths=tuple(SIZES),
    aliases={"features.13": "block_13_out", "layer9": "top"},
    layers={layer: block for block, layers in LAYERS.items() for layer in layers},
    endpoint="convex",
)
STEM, B1 = 1, 10 + 2 + 2
B12, B13, CONVEX, HEAD = 100, 1007, 10000, 33


def size(text):
    return sum(SIZES[p] for p in covered(Rule(text), ANATOMY))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("head", HEAD),
        ("all", STEM + B1 + B12 + B13 + CONVEX),
        ("backbone", STEM + B1 + B12 + B13 + CONVEX),
        ("from stem", STEM + B1 + B12 + B13 + CONVEX),
        ("from block_12_out", B12 + B13 + CONVEX),
        ("from block_12", B12 + B13 + CONVEX),
        ("from block_13", B13 + CONVEX),  # begins at block_13_add, which has no parameters
        ("from block_1", B1 + B12 + B13 + CONVEX),  # not block_12 or block_13
        ("from features.13", B13 + CONVEX),
        ("from block_13_conv", B13 + CONVEX),  # first layer of its block
        ("last 1", CONVEX),
        ("last 2", B13 + CONVEX),  # block_13_add has no parameters and does not count
        ("last 5", STEM + B1 + B12 + B13 + CONVEX),
        ("last 2 blocks", B13 + CONVEX),
        ("last 20%", CONVEX),  # 1 of 5
        ("last 21%", B13 + CONVEX),  # rounds up
        ("last 25%", B13 + CONVEX),
        ("last 100%", STEM + B1 + B12 + B13 + CONVEX),
        ("convex", CONVEX),
        ("conv", CONVEX),  # the layer, by its whole name
        ("block_1", B1),
        ("block_1_out", B1),
        ("block_13", B13),
        ("features.13", B13),
        ("block_1_bn", 4),
        ("block_1*", B1 + B12 + B13),
        ("block_1_*", B1),
        ("block_1?_out", B12 + B13),
        ("*", STEM + B1 + B12 + B13 + CONVEX),
        ("*/bias", 2 + 7 + 3),
        ("*/block_1*/*", B1 + B12 + B13),
        ("backbone/block_1_out/*", B1),
        ("block_1_out/*", B1),
        ("block_1_out/block_1_bn/scale", 2),
        ("head/logits/bias", 3),
    ],
)
def test_each_form_covers_exactly(text, expected):
    assert size(text) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("block_14", "did you mean"),
        ("block_2", "matches nothing"),
        ("Block_13", "block_13"),
        ("features.1", "features.13"),
        ("conve", "convex"),
        ("from nowhere", "matches nothing"),
        ("from block_13_cov", "block_13_conv"),
        ("from block_1_bn", "lies inside block block_1_out"),
        ("block_16_out", "lies above the cut at convex"),
        ("from block_16", "lies above the cut at convex"),
        ("top_conv", "lies above the cut at convex"),
        ("layer9", "lies above the cut at convex"),
        ("block_16*", "above the cut"),
        ("block_2*", "matches nothing"),
        ("*/gamma", "matches no parameter path"),
        ("block_13_add", "only layers without parameters"),
        ("block_1_out/nope", "matches no parameter path"),
        ("last 0", "'last 1' to 'last 5'"),
        ("last 6", "'last 1' to 'last 5'"),
        ("last 1.5", "'last 1' to 'last 5'"),
        ("last 0%", "percentage"),
        ("last 101%", "percentage"),
        ("last", "matches nothing"),
        ("heads", "did you mean head?"),
    ],
)
def test_what_matches_nothing_says_why(text, says):
    with pytest.raises(PolicyError, match=r"rule '") as caught:
        covered(Rule(text), ANATOMY)
    assert says in str(caught.value)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        (None, ()),
        ("", ()),
        ((), ()),
        ("all", (Rule("all"),)),
        (("block_1", ("all", 0.1)), (Rule("block_1"), Rule("all", 0.1))),
        ([["block_1", 2]], (Rule("block_1", 2.0),)),
        ({"block_13": 0.1, "block_1": 0}, (Rule("block_13", 0.1), Rule("block_1", 0.0))),
        ((("block_1", True), ("head", False)), (Rule("block_1", 1.0), Rule("head", 0.0))),
        ((" block_1 ",), (Rule("block_1"),)),
        (("",), ()),
        ((Rule("x", 0.5),), (Rule("x", 0.5),)),
    ],
)
def test_parse(train, expected):
    assert parse_rules(train) == expected


@pytest.mark.parametrize(
    ("train", "says"),
    [
        (3, r"train must be rules such as \('from block5',\), got 3"),
        ((3,), "a rule is 'NAME' .*got 3"),
        ((("a", 1, 2),), r"a rule is .*got \('a', 1, 2\)"),
        ((("a", "b"),), "multiplier must be a number >= 0, got 'b'"),
        ((("a", -1),), "multiplier must be a number >= 0, got -1"),
        ((("a", float("nan")),), "multiplier must be a number >= 0, got nan"),
        (((1, "a"),), r"a rule is .*got \(1, 'a'\)"),
    ],
)
def test_parse_refuses(train, says):
    with pytest.raises(PolicyError, match=says):
        parse_rules(train)


def policy(*train, bn="stored"):
    return apply_rules(parse_rules(train), ANATOMY, SIZES, STATS, bn)


def test_first_rule_wins_and_dict_order_counts():
    narrow_first = policy(("block_13", 0.1), ("all", 0.5))
    assert narrow_first.multipliers["backbone/block_13_out/block_13_conv/kernel"] == 0.1
    assert narrow_first.multipliers["backbone/stem/stem_conv/kernel"] == 0.5
    one = apply_rules(parse_rules({"block_13": 0.1, "all": 0.5}), ANATOMY, SIZES, STATS)
    assert one.multipliers == narrow_first.multipliers
    with pytest.raises(PolicyError, match=r"'block_13 x 0\.1' has no effect: 'all x 0\.5'"):
        apply_rules(parse_rules({"all": 0.5, "block_13": 0.1}), ANATOMY, SIZES, STATS)


def test_implicit_head_and_frozen_rest():
    p = policy("block_13")
    assert p.multipliers["head/logits/kernel"] == 1.0
    assert p.trainable_parameters == B13 + HEAD
    assert policy().trainable_parameters == HEAD
    assert policy(("head", 0.0), "block_13").trainable_parameters == B13
    assert policy(("head", 0.3)).multipliers["head/logits/bias"] == 0.3


def test_multiplier_zero_freezes():
    p = policy(("*/bias", 0), "from block_12")
    assert p.trainable_parameters == B12 + B13 - 7 + CONVEX + HEAD - 3
    with pytest.raises(PolicyError, match="nothing is trainable"):
        policy(("head", 0))
    with pytest.raises(PolicyError, match="nothing is trainable"):
        policy(("all", 0), ("head", 0))


def test_boundary_is_below_the_lowest_trained_block():
    assert policy().boundary == "convex"
    assert policy("block_13").boundary == "block_13_add"
    assert policy("from block_13").boundary == "block_13_add"
    assert policy("block_12").boundary == "block_1_out"
    assert policy("stem").boundary is None
    # A hole above does not matter, a single bias below does.
    assert policy("block_1", "convex").boundary == "stem"
    assert policy("block_1_out/block_1_bn/bias").boundary == "stem"


def test_boundary_of_a_cut_inside_a_block():
    cut = Anatomy(BLOCKS, ("convex2",), ANATOMY.paths, {}, {**ANATOMY.layers}, endpoint="conv_relu")
    assert apply_rules((), cut, SIZES, STATS).boundary == "conv_relu"
    found = apply_rules(parse_rules("convex"), cut, SIZES, STATS)
    assert found.boundary == "block_13_out"


def test_batchnorm_mode_follows_the_rules():
    assert policy("block_1", bn="train").live == {"block_1_out"}
    assert policy("block_1").live == frozenset()
    assert policy("block_13", bn="train").live == frozenset()  # has no BatchNorm
    assert policy("block_1_bn", bn="train").live == frozenset()  # only partly trained
    assert policy(("block_1", 0), "all", bn="train").live == frozenset()
    with pytest.raises(PolicyError, match="bn must be"):
        policy(bn="on")


def test_counts_as_keras_prints_them_and_the_table():
    p = policy("block_1")
    assert p.trainable_parameters == B1 + HEAD == 47
    assert p.frozen_parameters == STEM + B12 + B13 + CONVEX + 4 == 11112
    text = table(policy(("block_1", 0.1), bn="train"), 1e-3)
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == "block parameters trained learning rate BatchNorm".split()
    assert lines[1] == ["stem", "1", "frozen", "-", "-"]
    assert lines[2] == ["block_1_out", "18", "yes", "0.0001", "batch"]
    assert lines[7] == ["head", "33", "yes", "0.001", "-"]
    assert text.splitlines()[-3:] == [
        "Total params: 11,159",
        "Trainable params: 47",
        "Non-trainable params: 11,112",
    ]
