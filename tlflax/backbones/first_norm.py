"""What the first BatchNorm of a network gets, beside what it got in training."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlflax.backbones.chain import Chain
from tlflax.backbones.spec import Contract


class Moments(NamedTuple):
    """Per channel ``[C]``: of what comes in now, and stored with the weights."""

    mean: jax.Array
    var: jax.Array
    stored_mean: jax.Array
    stored_var: jax.Array


class _Found(Exception):
    """Ends the pass at the first BatchNorm: nothing behind it is traced."""

    def __init__(self, moments: Moments):
        self.moments = moments


def _interceptor(next_function: Any, args: Any, kwargs: Any, context: Any) -> Any:
    if isinstance(context.module, nn.BatchNorm) and context.method_name == "__call__":
        stored = context.module.variables["batch_stats"]
        axes = tuple(range(args[0].ndim - 1))
        mean, var = jnp.mean(args[0], axes), jnp.var(args[0], axes)
        raise _Found(Moments(mean, var, stored["mean"], stored["var"]))
    return next_function(*args, **kwargs)


class FirstNorm:
    """``(variables, prepared) -> Moments``, compiled once; ``None`` if there is no BatchNorm.

    Args:
      chain: backbone.
      stop: layer behind which nothing is looked at.
    """

    def __init__(self, chain: Chain, stop: str):
        # The images come prepared, by one contract after the other. One-element tuples fit any
        # number of channels.
        neutral = Contract(mean=(0.0,), std=(1.0,))
        plain = Chain(chain.blocks, neutral)

        def run(variables: Mapping[str, Any], prepared: jax.Array) -> Moments | None:
            try:
                with nn.intercept_methods(_interceptor):
                    plain.apply(variables, prepared, stop=stop)
            except _Found as found:
                return found.moments
            return None

        self._run = jax.jit(run)

    def __call__(self, variables: Mapping[str, Any], prepared: jax.Array) -> Moments | None:
        """Moments of images ``[B, H, W, C]`` that the input contract has been applied to."""
        return self._run(variables, prepared)
