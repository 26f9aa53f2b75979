"""The layers that are written in a form of their own, against flax' and XLA's."""

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


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
@pytest.mark.parametrize(("size", "window", "stride", "padding"), CASES)
def test_max_pool_and_its_gradient_are_those_of_a_window_reduction(
    size, window, stride, padding, dtype
):
    # All different, so that each window has one largest number; some windows are all negative.
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.permutation(2 * size[0] * size[1] * 3).reshape(2, *size, 3) - 150.0)
    x = (x / 2).astype(dtype) if dtype == np.float32 else x.clip(-150, 105).astype(dtype)
    pair = [(n, n) if isinstance(n, int) else n for n in (window, stride)]

    def ours(x):
        return max_pool(x, Tap(None, None), "pool", window, stride, padding)

    def theirs(x):
        return nn.max_pool(x, pair[0], pair[1], padding)

    y, back = jax.vjp(ours, x)
    expected, expected_back = jax.vjp(theirs, x)
    assert y.dtype == dtype and np.array_equal(y, expected)
    if dtype == np.float32:
        g = jnp.asarray(rng.normal(size=y.shape), dtype)
        # Sums of up to nine numbers in another order.
        np.testing.assert_allclose(back(g)[0], expected_back(g)[0], rtol=1e-5, atol=1e-6)
