import pytest

from tlflax.backbones.inventory import describe, layer_to_block
from tlflax.backbones.names import group, resolve_endpoint
from tlflax.backbones.table import get
from tlflax.errors import ConfigError

MOBILENET = describe(get("mobilenet_v2_0.35").chain(), 32)
VGG = describe(get("vgg16").chain(), 32)


def names(blocks):
    return [b.name for b in blocks]


# Near misses: a prefix ends at an underscore, digits are never cut.
@pytest.mark.parametrize(
    ("name", "blocks", "expected"),
    [
        ("block_1", MOBILENET, ["block_1_project_BN"]),
        ("block_13", MOBILENET, ["block_13_project_BN"]),
        ("block_2", MOBILENET, ["block_2_add"]),
        ("block_", MOBILENET, []),
        ("block_1_", MOBILENET, []),
        ("block_1_project", MOBILENET, ["block_1_project_BN"]),
        ("block_17", MOBILENET, []),
        ("Block_1", MOBILENET, []),
        ("expanded_conv", MOBILENET, ["expanded_conv_project_BN"]),
        ("expanded", MOBILENET, ["expanded_conv_project_BN"]),
        ("conv", MOBILENET, []),
        ("Conv1", MOBILENET, ["Conv1_relu"]),
        ("Conv", MOBILENET, []),
        ("out_relu", MOBILENET, ["out_relu"]),
        ("out", MOBILENET, ["out_relu"]),
        ("", MOBILENET, []),
        ("block5", VGG, ["block5_conv1", "block5_conv2", "block5_conv3", "block5_pool"]),
        ("block5_conv1", VGG, ["block5_conv1"]),
        ("block5_conv", VGG, []),
        ("block", VGG, []),
        ("block55", VGG, []),
    ],
)
def test_group(name, blocks, expected):
    assert group(name, names(blocks)) == expected


@pytest.mark.parametrize(
    ("name", "blocks", "expected"),
    [
        ("auto", MOBILENET, "out_relu"),
        ("last", VGG, "block5_pool"),
        ("", VGG, "block5_pool"),
        ("block_13", MOBILENET, "block_13_project_BN"),
        ("block_13_expand_relu", MOBILENET, "block_13_expand_relu"),
        ("block_13_expand", MOBILENET, "block_13_expand"),
        ("block_1", MOBILENET, "block_1_project_BN"),
        ("Conv_1", MOBILENET, "Conv_1"),
        ("expanded_conv", MOBILENET, "expanded_conv_project_BN"),
        ("block4", VGG, "block4_pool"),
        ("block4_conv3", VGG, "block4_conv3"),
        ("features.3", VGG, "block1_pool"),
    ],
)
def test_endpoint(name, blocks, expected):
    aliases = {"features.3": "block1_pool"}
    found = resolve_endpoint(name, names(blocks), layer_to_block(blocks), aliases, "net")
    assert found == expected


@pytest.mark.parametrize(
    ("name", "blocks", "near"),
    [
        ("block6_pool", VGG, "block5_pool"),
        ("block5-pool", VGG, "block5_pool"),
        ("BLOCK5_POOL", VGG, "block5_pool"),
        ("block_17_add", MOBILENET, "block_7_add"),
        ("block_13_expand_relu6", MOBILENET, "block_13_expand_relu"),
    ],
)
def test_unknown_endpoint_is_suggested(name, blocks, near):
    with pytest.raises(ConfigError) as raised:
        resolve_endpoint(name, names(blocks), layer_to_block(blocks), {}, "net")
    text = str(raised.value)
    begin = f"unknown endpoint '{name}' for net; did you mean "
    assert text.startswith(begin) and near in text.removeprefix(begin).split("?")[0].split(", ")
    assert "`python -m tlflax.zoo net`" in text
