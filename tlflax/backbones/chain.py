"""A backbone is an ordered chain of named blocks; each name is an endpoint.

The name of a block is the (Keras) name of its last layer. It is where users cut, where freezing
starts, what a learning rate is attached to, and the first part of every parameter path below
``backbone/``. Layers inside a block have names too and can be asked for as ``stop``.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlflax.backbones.spec import Contract


@dataclasses.dataclass(frozen=True)
class BlockDef:
    """One link: its name, the Linen class that computes it, and that class's fields."""

    name: str
    cls: type[nn.Module]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


class _Reached(Exception):
    """Raised by a tap at the requested layer, so that nothing after it is built or computed."""

    def __init__(self, value: jax.Array):
        self.value = value


class Tap:
    """Handed to every block: marks layer outputs and says in which mode BatchNorm runs.

    Attributes:
      stop: layer name at which the pass ends, or ``None``.
      live: whether BatchNorm in the current block uses (and updates) batch statistics.
      record: if a dict, receives every marked output by layer name.
      shift: what is added to the outputs of some layers.
    """

    def __init__(
        self,
        stop: str | None,
        record: dict[str, jax.Array] | None,
        shift: Mapping[str, jax.Array] | None = None,
    ):
        self.stop = stop
        self.record = record
        self.shift = shift or {}
        self.live = False

    def __call__(self, name: str, x: jax.Array) -> jax.Array:
        """Marks ``x`` as the output of layer ``name``."""
        if name in self.shift:
            x = x + self.shift[name].astype(x.dtype)
        if self.record is not None:
            self.record[name] = x
        if name == self.stop:
            raise _Reached(x)
        return x


def preprocess(images: jax.Array, contract: Contract) -> jax.Array:
    """Applies the input contract to RGB ``images [B, H, W, 3]`` in 0..255 (uint8 or float)."""
    x = images.astype(jnp.float32)
    if contract.order == "BGR":
        x = x[..., ::-1]
    elif contract.order == "L":
        # ITU-R 601-2 luma, the formula of PIL's convert("L").
        x = (x @ jnp.array([0.299, 0.587, 0.114], jnp.float32))[..., None]
    x = x * contract.scale - jnp.array(contract.mean, jnp.float32)
    return x / jnp.array(contract.std, jnp.float32)


class Chain(nn.Module):
    """Runs the blocks from after ``start`` up to and including ``stop``.

    Attributes:
      blocks: the links, in order.
      contract: how pixels are prepared; applied only when the pass starts at the images.
      live: names of the blocks whose BatchNorm uses batch statistics when ``train`` is true.
      precision: dtype of the activations from the prepared pixels on. Parameters are computed
        with as they are given: for ``bfloat16`` the caller casts them (not the statistics).
      remat: whether the backward pass computes each block's inside again from the block's input
        instead of keeping it from the forward pass: less memory for a second forward pass.
    """

    blocks: tuple[BlockDef, ...]
    contract: Contract
    live: frozenset[str] = frozenset()
    precision: str = "float32"
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        start: str | None = None,
        stop: str | None = None,
        train: bool = False,
        record: dict[str, jax.Array] | None = None,
        shift: Mapping[str, jax.Array] | None = None,
    ) -> jax.Array:
        """Runs part of the chain.

        Args:
          x: RGB images ``[B, H, W, 3]`` in 0..255 if ``start`` is ``None``, else the output of
            block ``start``.
          start: block whose output ``x`` is.
          stop: block or inner layer to stop at (inclusive); ``None`` runs to the end.
          train: whether blocks named in ``live`` use batch statistics.
          record: if given, filled with every layer output on the way, by name.
          shift: added to the outputs of the layers it names. The derivative with respect to a
            shift of zeros is the derivative with respect to that layer's output.

        Returns:
          Output of ``stop``.

        Raises:
          KeyError: ``start`` is no block or ``stop`` no layer after it.
        """
        names = [b.name for b in self.blocks]
        if start is not None and start not in names:
            raise KeyError(f"{start!r} is not a block of this chain")
        if start is None:
            x = preprocess(x, self.contract)
        elif start == stop:
            return x
        # Only now: 0..255 minus a mean loses digits in bfloat16 that the network was trained on.
        x = x.astype(self.precision)
        tap = Tap(stop, record, shift)
        # Recorded values must outlive the block, and a recomputed one's do not.
        remat = self.remat and record is None
        try:
            for block in self.blocks[names.index(start) + 1 if start is not None else 0 :]:
                tap.live = train and block.name in self.live
                x = _recomputed(self, block, x, tap) if remat else _built(self, block)(x, tap)
        except _Reached as reached:
            return reached.value
        if stop is not None:
            raise KeyError(f"{stop!r} is not a layer after {start or 'the input'}")
        return x

    def __iter__(self) -> Iterator[str]:
        """Iterates over the block names."""
        return iter(b.name for b in self.blocks)


def _built(chain: Chain, block: BlockDef) -> Any:
    return block.cls(**block.options, name=block.name, parent=chain)


def _recomputed(chain: Chain, block: BlockDef, x: jax.Array, tap: Tap) -> jax.Array:
    """Applies a block whose inside is computed again in the backward pass."""
    ended = False

    def inside(chain: Chain, x: jax.Array) -> jax.Array:
        nonlocal ended
        try:
            return _built(chain, block)(x, tap)
        except _Reached as reached:
            # A value must not leave a rematerialised function other than by its return.
            ended = True
            return reached.value

    y = nn.remat(inside)(chain, x)
    if ended:
        raise _Reached(y)
    return y
