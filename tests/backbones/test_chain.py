"""Running parts of a chain: every cut and every start equals the whole."""

import itertools

import jax
import numpy as np
import pytest
from keras_layout import draw_image
from network_checks import close, numbers

from tlflax.backbones.chain import preprocess
from tlflax.backbones.inventory import abstract_variables, describe, layer_to_block
from tlflax.backbones.spec import Contract
from tlflax.backbones.table import ZOO, get
from tlflax.errors import ConfigError
from tlflax.model import Architecture, Model


@pytest.mark.parametrize(
    ("name", "size", "inner"),
    [
        ("vgg16", 32, ()),
        ("glyph_cnn", 32, ("block2_conv1", "block3_bn2")),
        ("mobilenet_v2_0.35", 33, ("bn_Conv1", "block_13_expand_relu", "block_13_depthwise")),
        pytest.param("mobilenet_0.25", 33, ("conv_dw_6", "conv_pw_13"), marks=pytest.mark.slow),
        pytest.param(
            "resnet50",
            33,
            ("conv1_relu", "conv4_block2_add", "conv5_block1_0_bn"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "resnet50_v2",
            33,
            ("conv2_block3_preact_relu", "conv5_block3_3_conv", "post_bn"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "squeezenet_1.1", 48, ("conv1", "fire5_relu_expand1x1"), marks=pytest.mark.slow
        ),
    ],
)
def test_every_part_equals_the_whole(name, size, inner):
    spec = get(name)
    chain, variables, images = spec.chain(), numbers(spec, size), draw_image(size)
    blocks = list(chain)
    # Tracing a long network from each of its blocks takes long; its parts are tested one by one.
    ends = blocks if name in ("vgg16", "glyph_cnn") else blocks[3::9]

    def run(v, x):
        record, parts = {}, {}
        whole = chain.apply(v, x, record=record)
        for previous, block in zip([None, *blocks], blocks, strict=False):
            begin = x if previous is None else record[previous]
            parts["block", block] = chain.apply(v, begin, start=previous, stop=block)
        for block in ends:
            parts["from", block] = chain.apply(v, record[block], start=block)
            parts["to", block] = chain.apply(v, x, stop=block)
        for layer in inner:
            parts["inner", layer] = chain.apply(v, x, stop=layer)
        return whole, record, {"/".join(k): value for k, value in parts.items()}

    # Compiling takes most of the time; without optimisation it takes a third.
    compiled = jax.jit(run, compiler_options={"xla_backend_optimization_level": 0})
    whole, record, parts = compiled(variables, images)
    assert np.array_equal(whole, record[blocks[-1]])
    assert float(np.std(whole)) > 0
    for key, value in parts.items():
        kind, layer = key.split("/")
        close(value, whole if kind == "from" else record[layer])


def test_stop_at_start_returns_the_input():
    chain = get("glyph_cnn").chain()
    features = np.ones((1, 4, 4, 7), np.float32)
    assert chain.apply({}, features, start="block1_pool", stop="block1_pool") is features


def test_nothing_after_the_cut_is_built():
    spec = get("mobilenet_v2_0.35")
    cut = abstract_variables(spec.chain(), 32, "block_3_expand_BN")["params"]
    assert list(cut) == [
        "Conv1_relu",
        "block_1_project_BN",
        "block_2_add",
        "block_3_project_BN",
        "expanded_conv_project_BN",
    ]
    assert sorted(cut["block_3_project_BN"]) == ["block_3_expand", "block_3_expand_BN"]


@pytest.mark.parametrize(
    ("start", "stop", "said"),
    [
        ("block_99", None, "'block_99' is not a block"),
        ("block_3_expand", None, "'block_3_expand' is not a block"),
        (None, "block_99", "'block_99' is not a layer after the input"),
        ("block_3_project_BN", "Conv1_relu", "'Conv1_relu' is not a layer after block_3"),
    ],
)
def test_unknown_parts_are_refused(start, stop, said):
    chain = get("mobilenet_v2_0.35").chain()
    with pytest.raises(KeyError, match=said):
        jax.eval_shape(
            lambda x: chain.init(jax.random.key(0), x, start=start, stop=stop),
            jax.ShapeDtypeStruct((1, 32, 32, 3) if start is None else (1, 4, 4, 16), np.float32),
        )


_SLOW = (
    "convnext_tiny", "torch_efficientnet_b0", "efficientnet_b0", "torch_mobilenet_v2_1.0",
    "hub_resnet50_v2", "hub_efficientnet_b0", "vit_s16",
)  # fmt: skip


def one_of_a_family():
    """Every network; those that differ from a sister in width or depth alone are `slow`.

    So are some that take seconds each; their goldens are among the default tests.
    """
    seen = set()
    for name, spec in ZOO.items():
        slow = spec.build in seen or name in _SLOW
        yield pytest.param(name, marks=[pytest.mark.slow] if slow else [])
        seen.add(spec.build)


@pytest.mark.parametrize("name", list(one_of_a_family()))
def test_every_block_can_be_cut_at_and_started_from(name):
    spec = get(name)
    chain, side = spec.chain(), max(spec.min_size, 32)
    names = list(chain)

    def run(variables, images):
        record = {}
        chain.apply(variables, images, record=record)
        cuts = {names[0]: chain.apply(variables, images, stop=names[0])}
        for below, block in itertools.pairwise(names):
            cuts[block] = chain.apply(variables, record[below], start=below, stop=block)
        return {block: record[block] for block in names}, cuts

    # Without optimisation: compiling is what takes the time.
    compiled = jax.jit(run, compiler_options={"xla_backend_optimization_level": 0})
    whole, cuts = compiled(numbers(spec, side), draw_image(side))
    for block in names:
        assert np.std(whole[block]) > 0, f"{block} says nothing"
        close(np.asarray(cuts[block]), np.asarray(whole[block]))


@pytest.mark.parametrize("name", list(one_of_a_family()))
def test_smallest_size_works_and_a_smaller_one_is_refused(name):
    spec = get(name)
    blocks = describe(spec.chain(), spec.min_size)
    assert all(min(b.shape) >= 1 for b in blocks)
    total = sum(b.parameters + b.statistics for b in blocks)
    assert spec.parameters in (None, total)
    assert set(spec.aliases.values()) <= {b.name for b in blocks}
    model = Architecture(name, "auto", ("a", "b"), spec.min_size - 1)
    with pytest.raises(ConfigError, match=f"image_size {spec.min_size - 1} is too small"):
        Model(model)


def test_inventory_counts_and_strides():
    blocks = {b.name: b for b in describe(get("mobilenet_v2_1.0").chain(), 224)}
    assert len(blocks) == 19
    last = blocks["out_relu"]
    assert (last.shape, last.stride) == ((7, 7, 1280), 32)
    assert (last.parameters, last.statistics) == (320 * 1280 + 2 * 1280, 2 * 1280)
    assert blocks["block_13_project_BN"].shape == (7, 7, 160)
    assert blocks["block_12_add"].stride == 16
    of = layer_to_block(list(blocks.values()))
    assert of["block_13_expand_relu"] == "block_13_project_BN" and of["Conv_1"] == "out_relu"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [10, 20, 250]),
        ({"scale": 1 / 127.5, "mean": (1.0, 1.0, 1.0)}, [10 / 127.5 - 1, 20 / 127.5 - 1, 0.96078]),
        ({"order": "BGR", "mean": (103.939, 116.779, 123.68)}, [146.061, -96.779, -113.68]),
        ({"order": "L", "mean": (0.0,), "std": (2.0,)}, [(2.99 + 11.74 + 28.5) / 2]),
        ({"mean": (5.0, 6.0, 7.0), "std": (0.5, 1.0, 2.0)}, [10, 14, 121.5]),
    ],
)
def test_contract(fields, expected):
    images = np.array([10, 20, 250], np.uint8).reshape(1, 1, 1, 3)
    found = np.asarray(preprocess(images, Contract(**fields))).ravel()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
