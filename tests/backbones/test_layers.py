"""The layers that are written in a form of their own, against flax' and XLA's."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlflax.backbones.chain import Tap
from tlflax.backbones.layers import max_pool

CASES = [
    ((9, 8), 2, 2, "VALID"),
    ((9, 8), 3, 2, "SAME"),
    ((16, 16), 3, 2, ((1, 1), (1, 1))),
    ((7, 9), (3, 2), (1, 3), ((0, 2), (1, 0))),
    ((6, 6), 3, 1, "SAME"),
    ((5, 4), 5, 5, "SAME"),
]


def drawn(size, dtype):
    # All different, so that each window has one largest number; some windows are all negative.
    rng = np.random.default_rng(0)
    x = rng.permutation(2 * size[0] * size[1] * 3).reshape(2, *size, 3) - 150.0
    return jnp.asarray(x / 2 if dtype == np.float32 else x.clip(-150, 105), dtype)


def results(x, window, stride, padding):
    """Values and gradients of ours and theirs."""
    pair = [(n, n) if isinstance(n, int) else n for n in (window, stride)]

    def ours(x):
        return max_pool(x, Tap(None, None), "pool", window, stride, padding)

    def theirs(x):
        return nn.max_pool(x, pair[0], pair[1], padding)

    found = []
    for function in (ours, theirs):
        y, back = jax.vjp(function, x)
        g = np.random.default_rng(1).normal(size=y.shape)
        # Of bfloat16 windows several numbers may be the largest.
        found.append((y, back(jnp.asarray(g, y.dtype))[0] if y.dtype == np.float32 else None))
    return found


@functools.cache
def computed(dtype):
    """All cases from one program: each would compile dozens of single operations."""
    inputs = [drawn(case[0], dtype) for case in CASES]
    run = jax.jit(lambda xs: [results(x, *case[1:]) for x, case in zip(xs, CASES, strict=True)])
    return run(inputs)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_max_pool_and_its_gradient_are_those_of_a_window_reduction(case, dtype):
    (y, gradient), (expected, expected_gradient) = computed(dtype)[CASES.index(case)]
    assert y.dtype == dtype and np.array_equal(y, expected)
    if dtype == np.float32:
        # Sums of up to nine numbers in another order.
        np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-6)
