"""The classifier head that is put on a cut backbone."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlflax.errors import ConfigError, suggest

ACTIVATIONS = {
    "relu": nn.relu,
    "gelu": nn.gelu,
    "silu": nn.silu,
    "elu": nn.elu,
    "tanh": nn.tanh,
}
POOLS = ("gap", "flatten")
OUTPUTS = ("softmax", "sigmoid")


def check_head(pool: str, activation: str, dropout: float, output: str, classes: int) -> None:
    """Raises `ConfigError` where a head option has no meaning."""
    if output not in OUTPUTS:
        raise ConfigError(f"unknown output {output!r}{suggest(output, OUTPUTS)} (softmax, sigmoid)")
    if output == "sigmoid" and classes != 2:
        raise ConfigError(
            f"output='sigmoid' is one unit, for two classes; there are {classes}: set "
            "output='softmax'"
        )
    if pool not in POOLS:
        raise ConfigError(f"unknown head {pool!r}{suggest(pool, POOLS)} (gap or flatten)")
    if activation not in ACTIVATIONS:
        hint = suggest(activation, ACTIVATIONS)
        raise ConfigError(
            f"unknown activation {activation!r}{hint} (one of {', '.join(ACTIVATIONS)})"
        )
    if not 0 <= dropout < 1:
        raise ConfigError(f"dropout must be in [0, 1), got {dropout:g}")


def over_positions(x: jax.Array) -> jax.Array:
    """Mean over a map ``[B, H, W, C]`` or tokens ``[B, N, C]``; vectors ``[B, C]`` stay."""
    # float32 also of a bfloat16 map: the mean has digits that its terms have not.
    return x.mean(axis=tuple(range(1, x.ndim - 1)), dtype=jnp.float32) if x.ndim > 2 else x


class Head(nn.Module):
    """Pooling, optional hidden layers, dropout, logits.

    Attributes:
      classes: number of classes.
      pool: ``gap`` (mean over the map, or over tokens) or ``flatten``.
      hidden: widths of the hidden layers.
      dropout: rate, applied before the logits layer.
      activation: name in `ACTIVATIONS`, after each hidden layer.
      output: ``softmax``, one unit per class, or ``sigmoid``, one unit z for two classes: the
        logits are then (0, z), whose softmax is (1 - sigmoid(z), sigmoid(z)), and softmax cross
        entropy over them is binary cross entropy. Class 1 is the second name in sorted order, as
        in Keras' ``flow_from_directory``.
    """

    classes: int
    pool: str = "gap"
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    activation: str = "relu"
    output: str = "softmax"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """``[B, H, W, C]``, ``[B, N, C]`` or ``[B, C] -> [B, classes]`` logits.

        float32 from the pooling on, whatever the precision of the backbone.
        """
        if self.pool == "gap":
            x = over_positions(x)
        x = x.reshape(x.shape[0], -1).astype(jnp.float32)
        for i, width in enumerate(self.hidden):
            dense = nn.Dense(width, kernel_init=nn.initializers.he_normal(), name=f"hidden_{i}")
            x = ACTIVATIONS[self.activation](dense(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        # Zero logits at the start: the first steps do not push noise into the backbone.
        units = 1 if self.output == "sigmoid" else self.classes
        z = nn.Dense(units, kernel_init=nn.initializers.zeros, name="logits")(x)
        return jnp.concatenate([jnp.zeros_like(z), z], -1) if self.output == "sigmoid" else z
