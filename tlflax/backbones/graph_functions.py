"""Keras' activation functions by name, for users' own networks."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp


def _relu(x, max_value=None, negative_slope=0.0, threshold=0.0):
    positive = jnp.where(x >= threshold, x, negative_slope * (x - threshold))
    return positive if max_value is None else jnp.where(x >= max_value, max_value, positive)


def _hard_sigmoid_2(x):
    """Keras 2's."""
    return jnp.clip(0.2 * x + 0.5, 0.0, 1.0)


FUNCTIONS: dict[str, Callable[..., jax.Array]] = {
    "linear": lambda x: x,
    "relu": _relu,
    "relu6": nn.relu6,
    "leaky_relu": lambda x, negative_slope=0.2: jnp.where(x >= 0, x, negative_slope * x),
    "threshold": lambda x, theta: jnp.where(x > theta, x, 0.0),
    "elu": lambda x, alpha=1.0: jnp.where(x > 0, x, alpha * jnp.expm1(jnp.minimum(x, 0.0))),
    "celu": nn.celu,
    "selu": nn.selu,
    "softplus": nn.softplus,
    "softsign": nn.soft_sign,
    "sigmoid": nn.sigmoid,
    "tanh": jnp.tanh,
    "exponential": jnp.exp,
    "silu": nn.silu,
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "mish": lambda x: x * jnp.tanh(nn.softplus(x)),
    "hard_sigmoid": nn.hard_sigmoid,
    "hard_silu": lambda x: x * nn.hard_sigmoid(x),
    "hard_sigmoid_2": _hard_sigmoid_2,
    "hard_silu_2": lambda x: x * _hard_sigmoid_2(x),
    "softmax": lambda x, axis=(-1,): jax.nn.softmax(x, tuple(axis)),
    "log_softmax": nn.log_softmax,
}
