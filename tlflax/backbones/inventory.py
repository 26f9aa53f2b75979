"""What a chain contains, found by tracing it with abstract values: nothing is computed."""

import dataclasses
import functools
from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp

from tlflax import tree
from tlflax.backbones.chain import Chain


@dataclasses.dataclass(frozen=True)
class Block:
    """One link of the chain, measured.

    Attributes:
      name: endpoint name.
      shape: output shape without batch, ``(H, W, C)``.
      stride: input pixels per output pixel along one side, rounded.
      parameters: scalars in ``params``.
      statistics: scalars in ``batch_stats``.
      layers: names of the layers inside, in order, the block's own last.
      layer_shapes: their output shapes without batch.
    """

    name: str
    shape: tuple[int, ...]
    stride: int
    parameters: int
    statistics: int
    layers: tuple[str, ...]
    layer_shapes: tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True)
class _Question:
    """What to trace. Equal to another question only if the answer is the same."""

    key: Hashable
    size: int
    stop: str | None
    chain: Chain = dataclasses.field(compare=False)


def abstract_variables(chain: Chain, size: int, stop: str | None = None) -> dict:
    """Shapes of the variables up to ``stop``, for square images of ``size`` pixels."""
    return measure(chain, size, stop)[1]


def describe(chain: Chain, size: int, stop: str | None = None) -> list[Block]:
    """Lists the blocks up to ``stop`` with shapes, strides and parameter counts."""
    return measure(chain, size, stop)[0]


def measure(chain: Chain, size: int, stop: str | None = None) -> tuple[list[Block], dict]:
    """`describe` and `abstract_variables` from one trace.

    A trace takes a second for large chains, so the last ones are remembered: a run looks at its
    network in several places, a study at the same network in several runs.
    """
    question = _Question(_key(chain), size, stop, chain)
    try:
        hash(question)
    except TypeError:  # an option such as an array
        blocks, variables = _measured(question)
    else:
        blocks, variables = _remembered(question)
    # The caller's own, to change as it likes.
    return list(blocks), jax.tree.map(lambda leaf: leaf, variables)


def _key(chain: Chain) -> Hashable:
    """All that names and shapes depend on.

    Functions and classes count by identity: others of the same name may compute something else.
    """
    blocks = tuple((b.name, b.cls, _frozen(b.options)) for b in chain.blocks)
    # Of the values of a contract only their number says how many channels there are.
    contract = chain.contract.order, len(chain.contract.mean), len(chain.contract.std)
    return blocks, contract, chain.precision, chain.remat


def _frozen(value: Any) -> Hashable:
    if isinstance(value, dict):
        return dict, tuple((k, _frozen(v)) for k, v in value.items())
    if isinstance(value, list | tuple):
        return type(value), tuple(map(_frozen, value))
    # 1, 1.0 and True are equal.
    return type(value), value


def _measured(question: _Question) -> tuple[list[Block], dict]:
    chain, size, stop = question.chain, question.size, question.stop
    record: dict[str, tuple[int, ...]] = {}

    def trace(x):
        outputs: dict[str, jax.Array] = {}
        variables = chain.init(jax.random.key(0), x, stop=stop, record=outputs)
        record.update({k: v.shape[1:] for k, v in outputs.items()})
        return variables

    variables = jax.eval_shape(trace, jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8))
    blocks, pending = [], []
    names = list(chain)
    for layer, shape in record.items():
        pending.append(layer)
        if layer in names or layer == stop:
            name = layer if layer in names else names[len(blocks)]
            params = tree.flatten(variables.get("params", {}).get(name, {}))
            stats = tree.flatten(variables.get("batch_stats", {}).get(name, {}))
            stride = round(size / shape[0]) if len(shape) == 3 else size
            counts = tree.count(params), tree.count(stats)
            inside = tuple(pending), tuple(record[layer] for layer in pending)
            blocks.append(Block(name, shape, stride, *counts, *inside))
            pending = []
    return blocks, variables


# More than a study compares; an entry is some 100 kB.
_remembered = functools.lru_cache(maxsize=32)(_measured)


def layer_to_block(blocks: list[Block]) -> dict[str, str]:
    """Layer name -> name of the block that contains it."""
    return {layer: block.name for block in blocks for layer in block.layers}
