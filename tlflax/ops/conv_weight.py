"""Kernel gradient of the plain 2-D convolution, written so that XLA's CPU backend runs it well.

Automatic differentiation makes a convolution with a kernel of the size of the map of it, which is
far from the machine's peak. The same sum is a few matrix products over slices; for 3x3 kernels
Winograd's transforms halve them.

The forms by shape, milliseconds at batch 16 on 2 cores (AVX2, jax 0.10.2, November 2026), the
machine otherwise quiet; the chosen form is bold. "crossed" was chosen before:

| 3x3 kernel gradient | taps | columns | crossed, 4 images | tiled columns | tiled shifted |
|---|---|---|---|---|---|
| 150x150x64->64 | 2673* | 4792* | 613 | 380 (2 images) | **327** (2 images) |
| 75x75x64->128 | - | - | 197 | **80** (2) | 109 (2) |
| 75x75x128->128 | 485 | 777 | 286 | 179 (2) | **144** (2) |
| 37x37x256->256 | 291 | 402 | 191 | 118 (2) | **122** (2) |
| 40x40x64->64 | 43 | 75 | 23 | 17 (4) | **16** (2) |
| 20x20x128->128 | 21 | 22 | 17 | **11** (8) | 12 (8) |
| 18x18x512->512 | 248 | 267 | 235 | **110** (8) | 122 (4) |
| 10x10x256->256 | 16 | 17 | 17 | **11** (all) | 12 (8) |
| 9x9x512->512 | 54 | 54 | - | **40** (all) | 48 (8) |
| 5x5x512->512 | 17 | **15** | - | 15 (all) | - |

(* beside other jobs.) Other kernels, in a busy run on AVX-512, so that only the ratios of a row
count: 7x7/2 166x166x3->64 native 168, taps 178, columns by image 152, 4 images at a time **124**;
1x1 40x40x256->64 native 75, taps **8.4**; 1x1 80x80x16->96 native 184, taps **7.1**.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from tlflax.ops import conv_forward, winograd
from tlflax.ops.winograd import TAPS, TILE

Pads = tuple[tuple[int, int], tuple[int, int]]
Strides = tuple[int, int]


# Every form: (x, g, w_shape, strides, padding) -> like w.


def weight_native(x, g, w_shape, strides, padding):
    """The convolution that `jax.vjp` makes of the forward one."""
    w = jax.ShapeDtypeStruct(w_shape, x.dtype)
    (dw,) = jax.linear_transpose(lambda w: conv_forward.native(x, w, strides, padding), w)(g)
    return dw


def _taps(x, out, w_shape, strides, padding):
    """The kh*kw slices of ``x``, ``[B, H', W', I]`` each, in the order of the kernel."""
    x = conv_forward.fit(x, padding)
    kh, kw = w_shape[:2]
    taps = []
    for i in range(kh):
        for j in range(kw):
            stop_h = i + (out[0] - 1) * strides[0] + 1
            stop_w = j + (out[1] - 1) * strides[1] + 1
            limit = (x.shape[0], stop_h, stop_w, x.shape[3])
            taps.append(lax.slice(x, (0, i, j, 0), limit, (1, *strides, 1)))
    return taps


def weight_taps(x, g, w_shape, strides, padding):
    """One matrix product ``slice(x)^T @ g`` for each place in the kernel."""
    g2 = g.reshape(-1, g.shape[-1])
    taps = _taps(x, g.shape[1:3], w_shape, strides, padding)
    return jnp.stack([t.reshape(-1, t.shape[-1]).T @ g2 for t in taps]).reshape(w_shape)


def weight_columns(x, g, w_shape, strides, padding):
    """One matrix product with all the slices side by side (im2col)."""
    taps = _taps(x, g.shape[1:3], w_shape, strides, padding)
    columns = lax.concatenate(taps, 3)
    return (columns.reshape(-1, columns.shape[-1]).T @ g.reshape(-1, g.shape[-1])).reshape(w_shape)


def weight_crossed(x, g, w_shape, strides, padding):
    """One matrix product of column slices of ``x`` with row slices of ``g``; stride 1 only.

    ``dw[i, j] = sum over r, c of x[r + i, c + j] g[r, c] = sum x[r, c + j] g[r - i, c]``: kw
    copies of ``x`` and kh of ``g`` replace the kh*kw copies of im2col, and both sides of the
    product are wide.
    """
    (kh, kw, channels, features), width = w_shape, g.shape[2]
    x = conv_forward.fit(x, padding)
    columns = [lax.slice_in_dim(x, j, j + width, axis=2) for j in range(kw)]
    rows = [conv_forward.fit(g, ((i, kh - 1 - i), (0, 0))) for i in range(kh)]
    left = lax.concatenate(columns, 3).reshape(-1, kw * channels)
    right = lax.concatenate(rows, 3).reshape(-1, kh * features)
    blocks = (left.T @ right).reshape(kw, channels, kh, features)
    return blocks.transpose(2, 0, 1, 3)


def weight_shifted(x, g, w_shape, strides, padding):
    """One matrix product of ``x`` with the shifted copies of ``g``; kernels of one row, stride 1.

    `weight_columns` copies ``x`` instead; the one with fewer channels is the cheaper to copy.
    """
    (_, kw, channels, features), x = w_shape, conv_forward.fit(x, padding)
    copies = [conv_forward.fit(g, ((0, 0), (j, kw - 1 - j))) for j in range(kw)]
    right = lax.concatenate(copies, 3).reshape(-1, kw * features)
    blocks = (x.reshape(-1, channels).T @ right).reshape(1, channels, kw, features)
    return blocks.transpose(0, 2, 1, 3)


def tiled(form: Callable) -> Callable:
    """Half the products for a 3x3 kernel, stride 1: `tlflax.ops.winograd` along the rows.

    Args:
      form: of the kernel gradients along the columns, whose kernels have one row.
    """

    def summed(x, g, w_shape, strides, padding):
        tiles = -(-g.shape[1] // TILE)
        top = padding[0][0]
        x = conv_forward.fit(x, ((top, TILE * (tiles + 1) - top - x.shape[1]), (0, 0)))
        g = conv_forward.fit(g, ((0, TILE * tiles - g.shape[1]), (0, 0)))
        rows = g.reshape(g.shape[0], tiles, TILE, *g.shape[2:])
        left = winograd.input_transform(winograd.cut(x))
        right = winograd.output_gradient([rows[:, :, i] for i in range(TILE)])
        # Without the barrier XLA would compute the sums again for each of the copies.
        left, right = lax.optimization_barrier((left, right))
        row = (1, *w_shape[1:])
        products = [
            form(a, b, row, strides, ((0, 0), padding[1]))[0]
            for a, b in zip(left, right, strict=True)
        ]
        return jnp.stack(winograd.kernel_gradient(products))

    return summed


def by_images(form: Callable, images: int = 1) -> Callable:
    """The same form over a few images at a time, so that its copies stay in the cache."""

    def summed(x, g, w_shape, strides, padding):
        steps, rest = divmod(x.shape[0], images)
        if steps < 2:
            return form(x, g, w_shape, strides, padding)

        def group(a):
            return a[: steps * images].reshape(steps, images, *a.shape[1:])

        def add(total, pair):
            return total + form(*pair, w_shape, strides, padding), None

        start = jnp.zeros(w_shape, jnp.result_type(x, g))
        total, _ = lax.scan(add, start, (group(x), group(g)))
        if rest:
            total = total + form(x[-rest:], g[-rest:], w_shape, strides, padding)
        return total

    return summed


# Images per product, for the forms that copy slices: the copies stay small, 140 MB for 150x150x64
# where all of a batch of 16 would be 560.
_GROUP = 4
# `tiled` copies less, and its products want about this many places of the map.
_PLACES, _LEAST_GROUP = 4096, 2
# Channels of the input and places in the map that separate the forms below.
_FEW, _MANY, SMALL_MAP, _LARGE_MAP = 4, 512, 64, 1024


def choose_weight(
    g_shape: tuple[int, ...], w_shape: tuple[int, ...], strides: Strides
) -> Callable[..., jax.Array]:
    """The form for a weight gradient of these shapes, from the table at the top."""
    (kh, kw, channels, features), places = w_shape, g_shape[1] * g_shape[2]
    if kh * kw == 1:
        return weight_taps
    if channels <= _FEW:
        return by_images(weight_columns, _GROUP)
    if places <= SMALL_MAP:
        return weight_columns
    if strides == (1, 1) and kh == TAPS and kw > 1:
        shifted = features <= channels and places >= _LARGE_MAP
        form = tiled(weight_shifted if shifted else weight_columns)
        return by_images(form, max(_LEAST_GROUP, _PLACES // places))
    if channels >= _MANY:
        return weight_taps
    if strides == (1, 1):
        return by_images(weight_crossed, _GROUP)
    return by_images(weight_columns, _GROUP)


def narrow(x: jax.Array) -> bool:
    """Whether sums of this type need a wider one, which the native convolution sees to."""
    return jnp.finfo(x.dtype).bits < 32


def weight_gradient(
    x: jax.Array, g: jax.Array, w_shape: tuple[int, ...], strides: Strides, padding: Pads
) -> jax.Array:
    """Gradient ``[kh, kw, I, O]`` of the kernel.

    Args:
      x: input of the convolution, ``[B, H, W, I]``.
      g: gradient of its output, ``[B, H', W', O]``.
      w_shape: shape of the kernel.
      strides: vertical and horizontal.
      padding: zeros at ((top, bottom), (left, right)).
    """
    shape = tuple(w_shape)
    form = weight_native if narrow(x) else choose_weight(g.shape, shape, strides)
    return form(x, g, shape, strides, padding)
