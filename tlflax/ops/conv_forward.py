"""Forward 2-D convolution for XLA's CPU backend: which way to compute it, by shape.

XLA computes every convolution directly, or hands it to a library that does (see
`tlflax.train.compiler`). The forms below compute the same sum; `choose` picks one.
`scripts/measure_convolutions.py` compares them on any machine; `tlflax.ops.conv_measured` holds
what it found here and says where the limits come from.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from tlflax.ops import conv_measured as limits
from tlflax.ops import winograd
from tlflax.ops.winograd import TAPS, TILE

Pads = tuple[tuple[int, int], tuple[int, int]]
Strides = tuple[int, int]
Form = Callable[[jax.Array, jax.Array, Strides, Pads], jax.Array]


def native(x: jax.Array, w: jax.Array, strides: Strides, padding: Pads) -> jax.Array:
    """XLA's own convolution."""
    return lax.conv_general_dilated(
        x, w, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def fit(x: jax.Array, padding: Pads) -> jax.Array:
    """Pads both map axes with zeros; negative amounts crop."""
    if not any(amount for pair in padding for amount in pair):
        return x
    return lax.pad(x, x.dtype.type(0), [(0, 0, 0), *((a, b, 0) for a, b in padding), (0, 0, 0)])


def out_size(x: jax.Array, w: jax.Array, strides: Strides, padding: Pads) -> tuple[int, int]:
    """Height and width of the output."""
    height, width = (
        (x.shape[a + 1] + sum(padding[a]) - w.shape[a]) // strides[a] + 1 for a in (0, 1)
    )
    return height, width


def matmul(x: jax.Array, w: jax.Array, strides: Strides, padding: Pads) -> jax.Array:
    """A 1x1 kernel is a matrix product over the pixels that the stride selects."""
    x = fit(x, padding)[:, :: strides[0], :: strides[1]]
    return (x.reshape(-1, x.shape[3]) @ w[0, 0]).reshape(*x.shape[:3], w.shape[3])


def columns(x: jax.Array, w: jax.Array, strides: Strides, padding: Pads) -> jax.Array:
    """One matrix product with the kh*kw shifted slices side by side (im2col)."""
    height, width = out_size(x, w, strides, padding)
    x = fit(x, padding)
    parts = []
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            end = (i + (height - 1) * strides[0] + 1, j + (width - 1) * strides[1] + 1)
            limit = (x.shape[0], *end, x.shape[3])
            parts.append(lax.slice(x, (0, i, j, 0), limit, (1, *strides, 1)))
    rows = lax.concatenate(parts, 3).reshape(-1, math.prod(w.shape[:3]))
    return (rows @ w.reshape(-1, w.shape[3])).reshape(x.shape[0], height, width, w.shape[3])


def tiled(x: jax.Array, w: jax.Array, strides: Strides, padding: Pads) -> jax.Array:
    """3x3 kernel, stride 1: four rows from six products instead of twelve.

    `tlflax.ops.winograd` along the rows, and an ordinary convolution with a 1x3 kernel along the
    columns. The error is about 2e-6 of the largest output where that of the direct sum is 0.5e-6.
    """
    height, _ = out_size(x, w, strides, padding)
    tiles = -(-height // TILE)
    top = padding[0][0]
    x = fit(x, ((top, TILE * (tiles + 1) - top - x.shape[1]), (0, 0)))
    # Without the barrier XLA would compute the sums again for each of the convolutions' copies.
    inputs = [lax.optimization_barrier(v) for v in winograd.input_transform(winograd.cut(x))]
    kernels = [g[None] for g in winograd.kernel_transform(w)]
    sums = [
        native(v, g, (1, 1), ((0, 0), padding[1])) for v, g in zip(inputs, kernels, strict=True)
    ]
    y = jnp.stack(winograd.output_transform(sums), 2)
    return y.reshape(y.shape[0], TILE * tiles, *y.shape[3:])[:, :height]


def choose(
    x_shape: tuple[int, ...], w_shape: tuple[int, ...], strides: Strides, padding: Pads
) -> Form:
    """The form for these shapes.

    It does not depend on the number of images: an image has the same features, to the last
    digits, in a batch of any size (but for what XLA itself does with it).
    """
    _, height, width, channels = x_shape
    kernel, features = w_shape[:2], w_shape[3]
    if kernel == (1, 1):
        return matmul if channels >= limits.MATMUL_CHANNELS else native
    if min(height, width) < max(kernel):
        return native
    if strides == (1, 1):
        rows = height + sum(padding[0]) - 2
        area = rows * (width + sum(padding[1]) - 2)
        wasted = -(-rows // TILE) * TILE / max(rows, 1)
        if (
            kernel == (TAPS, TAPS)
            and channels * features >= limits.TILED_PRODUCT
            and area * channels * features >= limits.TILED_WORK
            and channels >= limits.TILED_CHANNELS
            and area >= limits.TILED_AREA
            and wasted <= limits.TILED_WASTE
        ):
            return tiled
        return native
    if channels >= limits.COLUMNS_CHANNELS and height * width <= limits.COLUMNS_AREA:
        return columns
    return native


@functools.wraps(native, assigned=())
def convolution(x: jax.Array, w: jax.Array, strides: Strides, padding: Pads) -> jax.Array:
    """The convolution in the form that `choose` names for its shapes."""
    form = choose(x.shape, w.shape, strides, padding)
    return form(x, w, strides, padding)
