"""Input gradient of the plain 2-D convolution, written so that XLA's CPU backend runs it well.

Automatic differentiation makes a forward convolution of it, which for a stride reads a map full of
inserted zeros. Milliseconds at batch 16 on 2 cores with AVX-512, the chosen form is bold:

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
from tlflax.ops.conv_weight import SMALL_MAP, narrow

Pads = tuple[tuple[int, int], tuple[int, int]]
Strides = tuple[int, int]


# Every form: (g, w, x_shape, strides, padding) -> like x.


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


def choose_input(
    g_shape: tuple[int, ...], w_shape: tuple[int, ...], strides: Strides
) -> Callable[..., jax.Array]:
    """The form for an input gradient of these shapes, from the table at the top."""
    if w_shape[:2] == (1, 1):
        return input_matmul
    if strides == (1, 1):
        return input_forward
    return input_native if g_shape[1] * g_shape[2] <= SMALL_MAP else input_phases


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
    form = input_native if narrow(g) else choose_input(g.shape, w.shape, strides)
    return form(g, w, shape, strides, padding)
