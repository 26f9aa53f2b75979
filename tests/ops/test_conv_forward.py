"""Each form of the forward convolution against XLA's own, and the function nn.Conv is given."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tlflax.ops import conv_forward, conv_measured
from tlflax.ops.conv import conv_general_dilated, convolve
from tlflax.ops.conv_forward import choose, columns, matmul, native, tiled

SAME, NONE = ((1, 1), (1, 1)), ((0, 0), (0, 0))
LAYOUT = ("NHWC", "HWIO", "NHWC")
# float32 rounds to 6e-8; sums of up to a thousand terms, and for `tiled` transforms that enlarge
# what is rounded by 4: 2e-6 was the largest error found.
TOLERANCE = 1e-5


@pytest.fixture
def tiled_when_small(monkeypatch):
    monkeypatch.setattr(conv_measured, "TILED_WORK", 1_000_000)


def draw(x_shape, w_shape, dtype: Any = np.float32):
    rng = np.random.default_rng(sum(x_shape) * 10 + sum(w_shape))
    x, w = rng.standard_normal(x_shape), rng.standard_normal(w_shape)
    return jnp.asarray(x, dtype), jnp.asarray(w, dtype)


def exact(x, w, strides, padding, **options):
    options = {"dimension_numbers": LAYOUT, "precision": "highest"} | options
    return lax.conv_general_dilated(x, w, strides, padding, **options)


def close(found, expected, tolerance=TOLERANCE):
    assert found.shape == expected.shape and found.dtype == expected.dtype
    found, expected = (np.asarray(a, np.float64) for a in (found, expected))
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def check(form, x_shape, w_shape, strides, padding):
    x, w = draw(x_shape, w_shape)
    run = jax.jit(lambda f, x, w: f(x, w, strides, padding), static_argnums=0)
    close(run(form, x, w), run(exact, x, w))


@pytest.mark.parametrize("height", [4, 6, 7])
def test_tiled_whatever_remains_of_the_last_tile(height):
    check(tiled, (2, height, 5, 6), (3, 3, 6, 5), (1, 1), SAME)


@pytest.mark.parametrize("padding", [NONE, ((2, 1), (0, 3)), ((-1, 1), (1, -1))])
def test_tiled_under_any_padding(padding):
    check(tiled, (1, 9, 7, 4), (3, 3, 4, 8), (1, 1), padding)


def test_tiled_on_the_smallest_map():
    check(tiled, (3, 1, 1, 4), (3, 3, 4, 4), (1, 1), SAME)
    check(tiled, (1, 3, 3, 4), (3, 3, 4, 4), (1, 1), NONE)


def test_tiled_with_many_channels_keeps_its_digits():
    check(tiled, (1, 12, 12, 256), (3, 3, 256, 32), (1, 1), SAME)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (1, 2), (3, 1)])
@pytest.mark.parametrize("padding", [NONE, SAME, ((0, 1), (2, 0))])
def test_columns(strides, padding):
    check(columns, (2, 7, 6, 3), (3, 2, 3, 5), strides, padding)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (1, 3)])
@pytest.mark.parametrize("padding", [NONE, ((1, 0), (0, 2))])
def test_matmul(strides, padding):
    check(matmul, (2, 7, 6, 8), (1, 1, 8, 5), strides, padding)


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "strides", "padding", "form"),
    [
        # VGG16 at 150: the first layers, then those with enough channels, then the small map.
        ((16, 150, 150, 3), (3, 3, 3, 64), (1, 1), SAME, native),
        ((16, 150, 150, 64), (3, 3, 64, 64), (1, 1), SAME, native),
        ((16, 75, 75, 64), (3, 3, 64, 128), (1, 1), SAME, tiled),
        ((16, 18, 18, 512), (3, 3, 512, 512), (1, 1), SAME, tiled),
        ((16, 9, 9, 512), (3, 3, 512, 512), (1, 1), SAME, tiled),
        # InceptionV3.
        ((32, 74, 74, 32), (3, 3, 32, 32), (1, 1), NONE, native),
        ((32, 16, 16, 288), (3, 3, 288, 384), (2, 2), NONE, columns),
        ((32, 35, 35, 80), (3, 3, 80, 192), (1, 1), NONE, tiled),
        ((32, 7, 7, 160), (1, 7, 160, 160), (1, 1), ((0, 0), (3, 3)), native),
        # ResNet50.
        ((32, 10, 10, 1024), (1, 1, 1024, 2048), (2, 2), NONE, matmul),
        ((32, 20, 20, 128), (3, 3, 128, 128), (1, 1), SAME, native),
        ((32, 40, 40, 64), (1, 1, 64, 256), (1, 1), NONE, native),
        # Maps smaller than the kernel.
        ((2, 1, 1, 512), (3, 3, 512, 512), (1, 1), SAME, native),
        ((2, 2, 9, 512), (7, 7, 512, 8), (2, 2), ((3, 3), (3, 3)), native),
    ],
)
def test_choice(x_shape, w_shape, strides, padding, form):
    assert choose(x_shape, w_shape, strides, padding) is form
    one = choose((1, *x_shape[1:]), w_shape, strides, padding)
    assert one is form, "an image's features must not depend on the batch it is in"


# Shapes small enough for a test at which `choose` takes each form; the oracle is differentiated.
@pytest.mark.parametrize(
    ("x_shape", "w_shape", "strides", "padding"),
    [
        ((2, 12, 12, 64), (3, 3, 64, 128), 1, "SAME"),
        ((1, 4, 5, 512), (3, 3, 512, 8), 1, "SAME"),
        ((1, 7, 6, 256), (3, 3, 256, 8), 2, "VALID"),
        ((2, 5, 4, 256), (1, 1, 256, 8), 2, "SAME"),
        ((1, 8, 7, 4), (1, 7, 4, 8), 1, "SAME"),
        ((2, 2, 2, 4), (5, 5, 4, 3), 2, "SAME"),
        ((1, 9, 9, 3), (3, 3, 3, 4), 2, ((1, 1), (0, 2))),
    ],
)
def test_nn_conv_with_it_has_the_same_value_and_gradients(
    tiled_when_small, x_shape, w_shape, strides, padding
):
    x, w = draw(x_shape, w_shape)

    def run(function, x, w):
        layer = nn.Conv(
            w_shape[3],
            w_shape[:2],
            strides=strides,
            padding=padding,
            use_bias=False,
            precision=None if function is conv_general_dilated else "highest",
            conv_general_dilated=function,
        )

        def value(x, w) -> Any:
            return layer.apply({"params": {"kernel": w}}, x)

        y, pull = jax.vjp(value, x, w)
        # A weight that differs from place to place, so that shifted or flipped gradients show.
        return y, *pull(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))

    found, expected = jax.jit(lambda: [run(f, x, w) for f in (conv_general_dilated, None)])()
    for a, b in zip(found, expected, strict=True):
        close(a, b)


def jaxpr_has_the_rewritten_form(function, *arguments):
    return "custom_vjp" in str(jax.make_jaxpr(function)(*arguments))


@pytest.mark.parametrize("w_shape", [(3, 3, 4, 4), (1, 1, 4, 4)])
def test_what_the_forms_cover_is_rewritten(w_shape):
    run = functools.partial(conv_general_dilated, dimension_numbers=LAYOUT)
    x, w = draw((1, 6, 7, 4), w_shape)
    assert jaxpr_has_the_rewritten_form(lambda x, w: run(x, w, (1, 1), "SAME"), x, w)


@pytest.mark.parametrize(
    "options",
    [
        {"feature_group_count": 2},
        {"rhs_dilation": (2, 1)},
        {"lhs_dilation": (1, 2), "padding": ((1, 1), (1, 1))},
        {"precision": "highest"},
        {"dimension_numbers": ("NHWC", "WHIO", "NHWC")},
        {"dimension_numbers": ("NHWC", "HWIO", "NWHC")},
        # A kernel larger than the map: nothing comes out.
        {"padding": ((0, 0), (-5, 0))},
    ],
)
def test_what_the_forms_do_not_cover_is_native(options):
    groups = options.get("feature_group_count", 1)
    x, w = draw((1, 6, 7, 4), (3, 3, 4 // groups, 4))
    call = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": LAYOUT} | options
    run = functools.partial(conv_general_dilated, **call)
    assert not jaxpr_has_the_rewritten_form(run, x, w)
    expected = lax.conv_general_dilated(x, w, **call)
    assert run(x, w).shape == expected.shape
    np.testing.assert_array_equal(run(x, w), expected)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_other_dtypes_are_native(dtype):
    x, w = draw((1, 6, 7, 256), (1, 1, 256, 4), dtype)
    run = functools.partial(conv_general_dilated, dimension_numbers=LAYOUT)
    assert not jaxpr_has_the_rewritten_form(lambda x, w: run(x, w, (1, 1), "SAME"), x, w)
    assert run(x, w, (1, 1), "SAME").dtype == dtype


def test_float64_is_native():
    with jax.enable_x64(True):
        x, w = draw((1, 12, 12, 64), (3, 3, 64, 128), np.float64)
        run = functools.partial(conv_general_dilated, dimension_numbers=LAYOUT)
        found = run(x, w, (1, 1), "SAME")
        assert found.dtype == jnp.float64
        # Far below what float32 could give.
        close(found, exact(x, w, (1, 1), "SAME"), 1e-12)


def test_errors_are_those_of_jax():
    x, w = draw((1, 6, 7, 4), (3, 3, 5, 4))
    with pytest.raises((TypeError, ValueError), match="feature"):
        conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=LAYOUT)


@pytest.mark.slow
def test_under_vmap_and_in_a_second_derivative(tiled_when_small):
    x, w = draw((4, 12, 12, 64), (3, 3, 64, 128))
    images = x[:, None]

    def value(function, image):
        # Arguments of the sine around one: it must not enlarge what was rounded.
        return jnp.sum(jnp.sin(function(image, w / 24, (1, 1), SAME)))

    found, expected = (
        jax.jit(jax.vmap(jax.grad(functools.partial(value, f))))(images) for f in (convolve, exact)
    )
    close(found, expected)

    def slope(function, scale):
        return jax.grad(lambda s: value(function, s * x[:1] / 100))(scale)

    twice = [jax.jit(jax.grad(functools.partial(slope, f)))(1.0) for f in (convolve, exact)]
    # A sum of 18,432 numbers of both signs.
    assert twice[0] == pytest.approx(float(twice[1]), rel=1e-4)


def test_a_frozen_kernel_has_no_gradient_computed(tiled_when_small):
    x, w = draw((2, 16, 16, 64), (3, 3, 64, 128))

    def loss(x, w):
        return jnp.sum(conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=LAYOUT) ** 2)

    def flops(argnums):
        costs: Any = jax.jit(jax.grad(loss, argnums)).lower(x, w).compile().cost_analysis()
        return costs["flops"]

    both, input_only, kernel_only = flops((0, 1)), flops(0), flops(1)
    costs: Any = jax.jit(loss).lower(x, w).compile().cost_analysis()
    forward = costs["flops"]
    # Native products; each gradient costs more than half of the direct sum.
    direct = 2 * 2 * 16 * 16 * 9 * 64 * 128
    assert both - input_only > 0.4 * direct
    assert both - kernel_only > 0.4 * direct
    assert forward < 1.1 * direct


def test_other_platforms_keep_the_native_convolution(tiled_when_small):
    x, w = draw((1, 16, 16, 64), (3, 3, 64, 128))

    def count(platform):
        run = jax.jit(lambda x, w: convolve(x, w, (1, 1), SAME)).trace(x, w)
        return run.lower(lowering_platforms=(platform,)).as_text().count("stablehlo.convolution")

    assert count("cpu") == 6
    assert count("cuda") == count("tpu") == 1


def test_shapes_of_images_that_are_not_known_yet(tiled_when_small):
    run = jax.jit(functools.partial(convolve, strides=(1, 1), padding=SAME))
    (batch,) = jax.export.symbolic_shape("b")
    shape = jax.ShapeDtypeStruct((batch, 12, 12, 64), jnp.float32)
    x, w = draw((3, 12, 12, 64), (3, 3, 64, 128))
    exported = jax.export.export(run)(shape, jax.ShapeDtypeStruct(w.shape, w.dtype))
    close(exported.call(x, w), exact(x, w, (1, 1), SAME))


def test_convolution_takes_the_chosen_form():
    x, w = draw((1, 5, 4, 256), (1, 1, 256, 8))
    run = jax.jit(lambda x, w: conv_forward.convolution(x, w, (1, 1), NONE))
    text = run.lower(x, w).as_text()
    assert "dot_general" in text and "convolution" not in text
