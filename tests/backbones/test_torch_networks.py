"""What is particular to the networks in their torch form; test_torch_goldens compares the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from keras_layout import draw_image
from network_checks import close, numbers

from tlflax.backbones.chain import Chain
from tlflax.backbones.inventory import describe, layer_to_block
from tlflax.backbones.names import resolve_endpoint
from tlflax.backbones.table import get
from tlflax.backbones.vit import resample
from tlflax.errors import ConfigError
from tlflax.heads import Head


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "inner"),
    [
        ("cifar_resnet20", 17, ("conv1", "layer2_0_bn1")),
        ("resnet18", 33, ("layer2_0_downsample_0", "relu")),
        ("vit_s16", 32, ("patch_embed_proj", "blocks_7_attn_qkv")),
        # The slices of the depthwise kernels take long to compile.
        pytest.param(
            "torch_efficientnet_b0", 33, ("blocks_3_1_se", "conv_head"), marks=pytest.mark.slow
        ),
        pytest.param("torch_mobilenet_v2_1.0", 33, ("bn1",), marks=pytest.mark.slow),
        pytest.param("convnext_tiny", 32, ("stages_2_4_norm",), marks=pytest.mark.slow),
    ],
)
def test_every_part_equals_the_whole(name, size, inner):
    spec = get(name)
    chain, variables, images = spec.chain(), numbers(spec, size), draw_image(size)
    blocks = list(chain)

    def run(v, x):
        record, parts = {}, {}
        whole = chain.apply(v, x, record=record)
        for previous, block in zip([None, *blocks], blocks, strict=False):
            begin = x if previous is None else record[previous]
            parts["block", block] = chain.apply(v, begin, start=previous, stop=block)
        for block in blocks[6:7]:
            parts["from", block] = chain.apply(v, record[block], start=block)
            parts["to", block] = chain.apply(v, x, stop=block)
        for layer in inner:
            parts["inner", layer] = chain.apply(v, x, stop=layer)
        return whole, record, {"/".join(k): value for k, value in parts.items()}

    compiled = jax.jit(run, compiler_options={"xla_backend_optimization_level": 0})
    whole, record, parts = compiled(variables, images)
    assert np.array_equal(whole, record[blocks[-1]]) and float(np.std(whole)) > 0
    for key, value in parts.items():
        kind, layer = key.split("/")
        close(value, whole if kind == "from" else record[layer])


def test_batch_norm_is_live_in_the_named_block_alone():
    spec = get("torch_efficientnet_b0")
    chain, variables = spec.chain(), numbers(spec, 32)
    # The first blocks are enough, and quick to compile.
    chain = Chain(chain.blocks[:3], spec.contract, frozenset({"blocks_0_0"}))
    images = np.concatenate([draw_image(32), draw_image(32)[:, ::-1]])

    def run(v, x):
        _, new = chain.apply(v, x, train=True, mutable=["batch_stats"])
        # The convolution before the first norm of the live block sees nothing live.
        return new, chain.apply(v, x, stop="blocks_0_0_conv_dw")

    compiled = jax.jit(run, compiler_options={"xla_backend_optimization_level": 0})
    new, seen = compiled(variables, images)
    old = variables["batch_stats"]
    for block in ("bn1", "blocks_1_0"):
        for layer, stats in new["batch_stats"][block].items():
            np.testing.assert_array_equal(stats["mean"], old[block][layer]["mean"])
    average = np.asarray(seen).mean(axis=(0, 1, 2))
    expected = 0.9 * old["blocks_0_0"]["blocks_0_0_bn1"]["mean"] + 0.1 * average
    close(new["batch_stats"]["blocks_0_0"]["blocks_0_0_bn1"]["mean"], expected)


# (network, what users write, block)
FOREIGN = [
    ("resnet18", "layer4.1", "layer4_1"),
    ("resnet18", "layer4", "layer4_1"),
    ("resnet34", "layer3.5", "layer3_5"),
    ("torch_resnet50", "layer3", "layer3_5"),
    ("cifar_resnet20", "auto", "layer3_2"),
    ("cifar_resnet56", "auto", "layer3_8"),
    ("cifar_resnet20", "logits", "linear"),
    ("torch_mobilenet_v2_1.0", "features.18", "bn2"),
    ("torch_mobilenet_v2_1.0", "features.14", "blocks_5_0"),
    ("torch_mobilenet_v2_1.0", "blocks.5", "blocks_5_2"),
    ("torch_mobilenet_v2_1.0", "conv_head", "conv_head"),
    ("torch_efficientnet_b0", "blocks.6", "blocks_6_0"),
    ("torch_efficientnet_b0", "blocks_5", "blocks_5_3"),
    ("torch_efficientnet_b0", "features.6.3", "blocks_5_3"),
    ("torch_efficientnet_b0", "features.8", "bn2"),
    ("convnext_tiny", "stages.3.blocks.2", "stages_3_2"),
    ("convnext_tiny", "stages.2", "stages_2_8"),
    ("convnext_tiny", "features.5.8", "stages_2_8"),
    ("convnext_tiny", "features.6", "stages_3_downsample"),
    ("convnext_tiny", "auto", "head_norm"),
    ("vit_s16", "blocks.11", "blocks_11"),
    ("vit_s16", "auto", "cls_token"),
    ("torch_vit_b16", "encoder.layers.encoder_layer_3", "blocks_3"),
]


@pytest.mark.parametrize(("name", "written", "block"), FOREIGN)
def test_names_of_either_library(name, written, block):
    spec = get(name)
    blocks = describe(spec.chain(), spec.min_size)
    found = resolve_endpoint(
        written,
        [b.name for b in blocks],
        layer_to_block(blocks),
        spec.aliases,
        name,
        spec.default_endpoint,
    )
    assert found == block


@pytest.mark.parametrize(
    ("written", "ours"),
    [
        ("ResNet18", "resnet18"),
        ("vit_small_patch16_224", "vit_s16"),
        ("vit_b_16", "torch_vit_b16"),
        ("resnet20", "cifar_resnet20"),
    ],
)
def test_foreign_names_of_networks_are_suggested(written, ours):
    with pytest.raises(ConfigError, match=f"here it is called {ours} "):
        get(written)


def test_odd_sides_are_padded_alike_on_both_sides():
    """torch pads the strided convolution in front and behind; Keras' form would move by one."""
    spec = get("torch_mobilenet_v2_1.0")
    variables = numbers(spec, 32)
    images = np.zeros((1, 32, 32, 3), np.uint8)
    images[0, 0, 0] = 255
    stem = np.asarray(spec.chain().apply(variables, images, stop="conv_stem"))[0]
    assert stem.shape == (16, 16, 32)
    plain = np.asarray(spec.chain().apply(variables, 0 * images, stop="conv_stem"))[0]
    # The corner pixel is under the middle of the first window, and under no other.
    kernel = variables["params"]["bn1"]["conv_stem"]["kernel"]
    step = (1 / 255) / np.array(spec.contract.std) * 255
    close(stem[0, 0] - plain[0, 0], np.einsum("i,io->o", step, kernel[1, 1]))
    assert np.abs(stem - plain).max(axis=2).astype(bool).sum() == 1


def test_positions_are_resampled_for_another_grid():
    rng = np.random.default_rng(0)
    positions = rng.standard_normal((1, 1 + 14 * 14, 8)).astype(np.float32)
    assert resample(jnp.asarray(positions), (14, 14)).shape == positions.shape
    np.testing.assert_array_equal(resample(positions, (14, 14)), positions)
    small = np.asarray(resample(positions, (7, 5)))
    assert small.shape == (1, 36, 8)
    np.testing.assert_array_equal(small[:, 0], positions[:, 0])
    # A plane stays a plane away from its edges, in both directions.
    plane = np.add.outer(np.arange(14.0), 100 * np.arange(14.0)).reshape(1, 196, 1)
    plane = np.concatenate([np.zeros((1, 1, 1)), plane], axis=1).astype(np.float32)
    half = np.asarray(resample(plane, (7, 7)))[0, 1:, 0].reshape(7, 7)
    np.testing.assert_allclose(np.diff(half, axis=0)[2:4], 2.0, rtol=1e-3)
    np.testing.assert_allclose(np.diff(half, axis=1)[:, 2:4], 200.0, rtol=1e-3)


def test_a_head_takes_maps_tokens_and_vectors():
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((2, 6, 5)).astype(np.float32)
    head = Head(3)
    variables = {"params": {"logits": {"kernel": rng.standard_normal((5, 3)), "bias": np.zeros(3)}}}
    vector = head.apply(variables, tokens.mean(1))
    np.testing.assert_allclose(head.apply(variables, tokens), vector, rtol=1e-5)
    np.testing.assert_allclose(head.apply(variables, tokens.reshape(2, 2, 3, 5)), vector, rtol=1e-5)
