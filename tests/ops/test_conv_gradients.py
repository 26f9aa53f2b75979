"""Each form of the convolution's gradients against XLA's own, and which form is chosen."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tlflax.ops import conv_input, conv_weight

SAME3 = ((1, 1), (1, 1))
NONE = ((0, 0), (0, 0))

# Map, kernel, strides, padding: odd maps, uneven padding, kernels of one row, strides that differ,
# rows beyond the last window, a map smaller than its kernel.
CASES = [
    ((7, 6), (3, 3), (2, 2), ((0, 1), (1, 1))),
    ((5, 8), (1, 7), (1, 1), ((0, 0), (3, 3))),
    ((2, 1), (3, 3), (1, 1), SAME3),
]
MORE = [
    ((8, 9), (3, 3), (1, 1), SAME3),
    ((7, 5), (1, 1), (2, 2), NONE),
    ((9, 9), (5, 3), (3, 2), NONE),
    *(
        (size, kernel, strides, padding)
        for size in ((7, 8), (2, 1))
        for kernel in ((1, 1), (3, 3), (2, 2), (7, 1))
        for strides in ((1, 1), (3, 2))
        for padding in (NONE, ((3, 3), (2, 3)))
        if all(n + sum(p) >= k for n, k, p in zip(size, kernel, padding, strict=True))
    ),
]


def native(x, w, strides, padding):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, w, strides, padding, dimension_numbers=numbers, precision="highest"
    )


def draw(size, kernel, strides, padding, batch=5, channels=(3, 4), dtype=np.float32):
    rng = np.random.default_rng(sum(size) + 10 * sum(kernel))
    x = jnp.asarray(rng.standard_normal((batch, *size, channels[0])), dtype)
    w = jnp.asarray(rng.standard_normal((*kernel, *channels)), dtype)
    shape = jax.eval_shape(lambda x, w: native(x, w, strides, padding), x, w).shape
    return x, w, jnp.asarray(rng.standard_normal(shape), dtype)


def close(a, b, tolerance=1e-5):
    # Sums of up to 5*8*9 products in another order: 1e-5 of the largest is what issue 4 allows.
    assert a.shape == b.shape and a.dtype == b.dtype
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


def weight_forms(kernel, strides):
    forms = [conv_weight.weight_native, conv_weight.weight_taps, conv_weight.weight_columns]
    if strides == (1, 1):
        forms.append(conv_weight.weight_crossed)
        if kernel[0] == 1:
            forms.append(conv_weight.weight_shifted)
        if kernel[0] == 3:
            one_row = (conv_weight.weight_columns, conv_weight.weight_shifted)
            forms += [conv_weight.tiled(form) for form in one_row]
    # Groups of one image, groups with a rest, and more than there are.
    return [*forms, *(conv_weight.by_images(forms[-1], n) for n in (1, 2, 8))]


def input_forms(kernel, strides):
    forms = [conv_input.input_native, conv_input.input_phases]
    if strides == (1, 1):
        forms.append(conv_input.input_forward)
    if kernel == (1, 1):
        forms.append(conv_input.input_matmul)
    return forms


def compare(size, kernel, strides, padding):
    x, w, g = draw(size, kernel, strides, padding)

    @jax.jit
    def both(x, w, g):
        dx, dw = jax.vjp(lambda x, w: native(x, w, strides, padding), x, w)[1](g)
        weights = weight_forms(kernel, strides)
        inputs = input_forms(kernel, strides)
        return (
            (dx, [form(g, w, x.shape, strides, padding) for form in inputs]),
            (dw, [form(x, g, w.shape, strides, padding) for form in weights]),
        )

    for exact, found in both(x, w, g):
        for gradient in found:
            close(gradient, exact)


@pytest.mark.parametrize(("size", "kernel", "strides", "padding"), CASES)
def test_every_form_is_the_same_sum(size, kernel, strides, padding):
    compare(size, kernel, strides, padding)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "kernel", "strides", "padding"), MORE)
def test_every_form_is_the_same_sum_on_more_shapes(size, kernel, strides, padding):
    compare(size, kernel, strides, padding)


def chosen(x, w, g, strides, padding):
    """Both gradients as the convolution's backward rule asks for them."""
    dx = conv_input.input_gradient(g, w, x.shape, strides, padding)
    return dx, conv_weight.weight_gradient(x, g, w.shape, strides, padding)


# One of each class of layer in the networks, with fewer images and channels.
LAYERS = {
    "first layer": ((20, 20), (3, 3), (2, 2), ((0, 1), (0, 1)), (3, 4)),
    "pointwise": ((9, 9), (1, 1), (1, 1), NONE, (8, 4)),
    "shortcut": ((9, 8), (1, 1), (2, 2), NONE, (8, 4)),
    "large map": ((24, 24), (3, 3), (1, 1), SAME3, (4, 8)),
    "small map": ((5, 5), (3, 3), (1, 1), SAME3, (8, 8)),
    "one row": ((12, 12), (1, 7), (1, 1), ((0, 0), (3, 3)), (8, 8)),
    "strided": ((19, 19), (3, 3), (2, 2), NONE, (8, 8)),
}
# Compiling costs half a second each; the others run with the slow tests.
DEFAULT = ("first layer", "large map")


@pytest.mark.parametrize(
    "layer",
    [pytest.param(n, marks=() if n in DEFAULT else pytest.mark.slow) for n in LAYERS],
)
def test_the_chosen_form(layer):
    size, kernel, strides, padding, channels = LAYERS[layer]
    x, w, g = draw(size, kernel, strides, padding, channels=channels)
    exact = jax.jit(lambda *a: jax.vjp(lambda x, w: native(x, w, strides, padding), *a[:2])[1](g))
    run = jax.jit(functools.partial(chosen, strides=strides, padding=padding))
    for a, b in zip(run(x, w, g), exact(x, w), strict=True):
        close(a, b)


def test_bfloat16_keeps_its_type():
    strides = (1, 1)
    x, w, g = draw((6, 6), (3, 3), strides, SAME3, dtype=jnp.bfloat16)
    run = jax.jit(functools.partial(chosen, strides=strides, padding=SAME3))
    found, exact = run(x, w, g), run(*(a.astype(jnp.float32) for a in (x, w, g)))
    for a, b in zip(found, exact, strict=True):
        assert a.dtype == jnp.bfloat16
        # 8 bits of mantissa: half an ulp is 2^-9 of the value.
        close(a.astype(jnp.float32), b, 0.01)


@pytest.mark.parametrize("layer", ["pointwise", "large map", "strided"])
def test_no_convolution_of_the_size_of_the_map(layer):
    # What makes XLA:CPU slow: a weight gradient as a convolution whose kernel is the map.
    size, kernel, strides, padding, channels = LAYERS[layer]
    x, w, g = draw(size, kernel, strides, padding, channels=channels)

    def weight(x, g):
        return conv_weight.weight_gradient(x, g, w.shape, strides, padding)

    def native_weight(x, g):
        return conv_weight.weight_native(x, g, w.shape, strides, padding)

    assert "convolution" not in jax.jit(weight).lower(x, g).as_text()
    assert "convolution" in jax.jit(native_weight).lower(x, g).as_text()
