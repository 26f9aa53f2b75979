"""Winograd's minimal filtering F(4, 3) in one direction: transforms of maps, kernels, gradients.

Four rows of a 3-tap filter's output from six products instead of twelve (Lavin and Gray,
arXiv:1509.09308, with the points 0, 1, -1, 2, -2 and infinity): ``y = A^T [(G w) * (B^T d)]`` for
six rows ``d`` of the input. The filter's gradient is the transposed sum, from as few products:
``dw = G^T [(B^T d) * (A dy)]``. In one direction only, the transforms are cheap and lose little.

Every function takes and gives lists of arrays: rows of a tile, or taps of a kernel.
"""

import jax

TILE = 4
"""Output rows of one tile."""
TAPS = 3
"""Rows of the kernel."""


def cut(x: jax.Array) -> list[jax.Array]:
    """Six rows for each tile: ``[B, 4 (T + 1), W, C]`` to six ``[B, T, W, C]``."""
    grid = x.reshape(x.shape[0], -1, TILE, *x.shape[2:])
    return [grid[:, :-1, i] for i in range(TILE)] + [grid[:, 1:, i] for i in range(TAPS - 1)]


def input_transform(d: list[jax.Array]) -> list[jax.Array]:
    """``B^T d``: six rows to six."""
    odd, even = d[3] - 4 * d[1], d[4] - 4 * d[2]
    odd_2, even_2 = 2 * (d[3] - d[1]), d[4] - d[2]
    return [
        4 * d[0] - 5 * d[2] + d[4],
        even + odd,
        even - odd,
        even_2 + odd_2,
        even_2 - odd_2,
        4 * d[1] - 5 * d[3] + d[5],
    ]


def kernel_transform(w: jax.Array) -> list[jax.Array]:
    """``G w``: three taps to six."""
    outer, inner = (w[0] + w[2]) / 6, w[1] / 6
    outer_2, inner_2 = w[0] / 24 + w[2] / 6, w[1] / 12
    return [w[0] / 4, -outer - inner, inner - outer, outer_2 + inner_2, outer_2 - inner_2, w[2]]


def output_transform(m: list[jax.Array]) -> list[jax.Array]:
    """``A^T m``: six products to four rows."""
    total, difference = m[1] + m[2], m[1] - m[2]
    total_2, difference_2 = m[3] + m[4], m[3] - m[4]
    return [
        m[0] + total + total_2,
        difference + 2 * difference_2,
        total + 4 * total_2,
        difference + 8 * difference_2 + m[5],
    ]


def output_gradient(g: list[jax.Array]) -> list[jax.Array]:
    """``A g``, the transpose of `output_transform`: four rows to six."""
    even, odd = g[0] + g[2], g[1] + g[3]
    even_2, odd_2 = g[0] + 4 * g[2], 2 * g[1] + 8 * g[3]
    return [g[0], even + odd, even - odd, even_2 + odd_2, even_2 - odd_2, g[3]]


def kernel_gradient(m: list[jax.Array]) -> list[jax.Array]:
    """``G^T m``, the transpose of `kernel_transform`: six products to three taps."""
    total, difference = (m[1] + m[2]) / 6, (m[2] - m[1]) / 6
    total_2, difference_2 = m[3] + m[4], m[3] - m[4]
    return [
        m[0] / 4 - total + total_2 / 24,
        difference + difference_2 / 12,
        total_2 / 6 - total + m[5],
    ]
