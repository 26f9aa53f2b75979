"""Gradients of the plain 2-D convolution, written so that XLA's CPU backend runs them well.

XLA:CPU's forward convolution is close to the machine's peak; the convolutions that automatic
differentiation makes of it are not: a weight gradient is a convolution with a kernel of the size
of the map, and the input gradient of a strided one reads a map full of inserted zeros. Each is
the same sum as a few matrix products, or forward convolutions, over slices.

The forms by shape, milliseconds at batch 16 on 2 cores with AVX-512. Each row is one interleaved
run on a busy machine, so that only its ratios count; the chosen form is bold:

| kernel gradient | native | taps | columns by image | crossed, 4 images at a time |
|---|---|---|---|---|
| 3x3, 150x150x64->64 | 1461 | 1174 | 1025 | **630** |
| 3x3, 75x75x128->128 | 1108 | 545 | 513 | **358** |
| 3x3, 37x37x256->256 | 995 | 339 | 302 | **242** |
| 3x3, 40x40x64->64 | 51 | 92 | 48 | **32** |
| 3x3, 20x20x128->128 | 30 | 33 | 29 | **22** |
| 3x3, 18x18x512->512 | 313 | **224** | 223 | 213 |
| 3x3, 9x9x512->512 | 57 | **50** | 59 | 61 |
| 3x3, 5x5x512->512 | 10.2 | 9.6 | **7.9** (all images) | |
| 7x7/2, 166x166x3->64 | 168 | 178 | 152, 4 images at a time **124** | |
| 1x1, 40x40x256->64 | 75 | **8.4** | | |
| 1x1, 80x80x16->96 | 184 | **7.1** | | |

| input gradient | native | matrix product |
|---|---|---|
| 1x1, 40x40x256->64 | 7.0 | **3.2** |
| 1x1, 80x80x16->96 | 32 | **12** |
| 3x3, stride 1 | a forward convolution, in one of its forms (`tlflax.ops.conv_forward`) | |

A strided 3x3 input gradient gains little from its phases (on a loaded machine, native and phases:
16x16x288->384 83 and 95, 40x40x128->128 96 and 81, 56x56x64->128 107 and 98): large maps only.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from tlflax.ops import conv_forward

Pads = tuple[tuple[int, int], tuple[int, int]]
Strides = tuple[int, int]


# Weight gradients: (x, g, w_shape, strides, padding) -> like w.


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


# Input gradients: (g, w, x_shape, strides, padding) -> like x.


def input_native(g, w, x_shape, strides, padding):
    """The convolution that `jax.vjp` makes of the forward one."""
    x = jax.ShapeDtypeStruct(x_shape, g.dtype)
    (dx,) = jax.linear_transpose(lambda x: conv_forward.native(x, w, strides, padding), x)(g)
    return dx


def input_matmul(g, w, x_shape, strides, padding):
    """``g @ w^T`` for a 1x1 kernel; with a stride the rest of the map is zero."""
    dx = (g.reshape(-1, g.shape[-1]) @ w[0, 0].T).reshape(*g.shape[:3], w.shape[2])
    config = []
    for axis in (0, 1):
        low = -padding[axis][0]
        spread = (g.shape[axis + 1] - 1) * strides[axis] + 1
        config.append((low, x_shape[axis + 1] - low - spread, strides[axis] - 1))
    return lax.pad(dx, dx.dtype.type(0), [(0, 0, 0), *config, (0, 0, 0)])


def _transposed(w):
    """Kernel of the transposed convolution: flipped in both directions, in and out swapped."""
    return lax.transpose(lax.rev(w, (0, 1)), (0, 1, 3, 2))


def input_forward(g, w, x_shape, strides, padding):
    """A forward convolution with the flipped kernel, in its best form; stride 1 only."""
    config = []
    for axis in (0, 1):
        low = w.shape[axis] - 1 - padding[axis][0]
        total = x_shape[axis + 1] + w.shape[axis] - 1 - g.shape[axis + 1]
        config.append((low, total - low))
    return conv_forward.convolution(g, _transposed(w), (1, 1), (config[0], config[1]))


def input_phases(g, w, x_shape, strides, padding):
    """One stride-1 convolution for each phase of the stride, interleaved afterwards.

    Row ``r`` of the padded input meets kernel rows ``i`` with ``r = i (mod stride)`` only, so
    each phase is the transposed convolution with a subsampled kernel, without inserted zeros.
    """
    sh, sw = strides
    # Rows of each phase of the padded input, enough to cover the part that x occupies.
    rows = [-(-(x_shape[a + 1] + padding[a][0]) // strides[a]) for a in (0, 1)]
    phases = []
    for p in range(sh):
        for q in range(sw):
            part = w[p::sh, q::sw]
            if 0 in part.shape:
                phases.append(jnp.zeros((g.shape[0], *rows, w.shape[2]), g.dtype))
                continue
            shape = (g.shape[0], *rows, w.shape[2])
            phases.append(input_forward(g, part, shape, (1, 1), ((0, 0), (0, 0))))
    grid = jnp.stack(phases, 3).reshape(g.shape[0], *rows, sh, sw, w.shape[2])
    whole = grid.transpose(0, 1, 3, 2, 4, 5).reshape(
        g.shape[0], rows[0] * sh, rows[1] * sw, w.shape[2]
    )
    crop = [(-padding[a][0], x_shape[a + 1] + padding[a][0] - rows[a] * strides[a]) for a in (0, 1)]
    return conv_forward.fit(whole, (crop[0], crop[1]))


# Images per product, for the forms that copy slices: the copies stay small, 140 MB for 150x150x64
# where all of a batch of 16 would be 560.
_GROUP = 4
# Channels of the input and places in the map that separate the forms below.
_FEW, _MANY, _SMALL_MAP = 4, 512, 64


def choose_weight(
    g_shape: tuple[int, ...], w_shape: tuple[int, ...], strides: Strides
) -> Callable[..., jax.Array]:
    """The form for a weight gradient of these shapes, from the table at the top."""
    (kh, kw, channels, _), places = w_shape, g_shape[1] * g_shape[2]
    if kh * kw == 1:
        return weight_taps
    if channels <= _FEW:
        return by_images(weight_columns, _GROUP)
    if places <= _SMALL_MAP:
        return weight_columns
    if channels >= _MANY:
        return weight_taps
    if strides == (1, 1):
        return by_images(weight_crossed, _GROUP)
    return by_images(weight_columns, _GROUP)


def choose_input(
    g_shape: tuple[int, ...], w_shape: tuple[int, ...], strides: Strides
) -> Callable[..., jax.Array]:
    """The form for an input gradient of these shapes, from the table at the top."""
    if w_shape[:2] == (1, 1):
        return input_matmul
    if strides == (1, 1):
        return input_forward
    return input_native if g_shape[1] * g_shape[2] <= _SMALL_MAP else input_phases


def _narrow(x: jax.Array) -> bool:
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
    form = weight_native if _narrow(x) else choose_weight(g.shape, shape, strides)
    return form(x, g, shape, strides, padding)


def input_gradient(
    g: jax.Array, w: jax.Array, x_shape: tuple[int, ...], strides: Strides, padding: Pads
) -> jax.Array:
    """Gradient ``[B, H, W, I]`` of the input.

    Args:
      g: gradient of the output, ``[B, H', W', O]``.
      w: kernel, ``[kh, kw, I, O]``.
      x_shape: shape of the input.
      strides: vertical and horizontal.
      padding: zeros at ((top, bottom), (left, right)).
    """
    shape = tuple(x_shape)
    form = input_native if _narrow(g) else choose_input(g.shape, w.shape, strides)
    return form(g, w, shape, strides, padding)
