"""What a chain contains, found by tracing it with abstract values: nothing is computed."""

import dataclasses

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


def abstract_variables(chain: Chain, size: int, stop: str | None = None) -> dict:
    """Shapes of the variables up to ``stop``, for square images of ``size`` pixels."""
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
    return jax.eval_shape(lambda x: chain.init(jax.random.key(0), x, stop=stop), images)


def describe(chain: Chain, size: int, stop: str | None = None) -> list[Block]:
    """Lists the blocks up to ``stop`` with shapes, strides and parameter counts."""
    return measure(chain, size, stop)[0]


def measure(chain: Chain, size: int, stop: str | None = None) -> tuple[list[Block], dict]:
    """`describe` and `abstract_variables` from one trace, which takes a second for large chains."""
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
            params = tree.flatten(variables["params"].get(name, {}))
            stats = tree.flatten(variables.get("batch_stats", {}).get(name, {}))
            stride = round(size / shape[0]) if len(shape) == 3 else size
            counts = tree.count(params), tree.count(stats)
            inside = tuple(pending), tuple(record[layer] for layer in pending)
            blocks.append(Block(name, shape, stride, *counts, *inside))
            pending = []
    return blocks, variables


def layer_to_block(blocks: list[Block]) -> dict[str, str]:
    """Layer name -> name of the block that contains it."""
    return {layer: block.name for block in blocks for layer in block.layers}
