"""A user's own network: a chain whose blocks interpret nodes instead of being written out.

The graph comes from `tlflax.convert.keras_graph` as JSON text, so that it is hashable, can be
kept in a file's metadata, and rebuilds the same chain from plain values anywhere.
"""

import functools
import json
import math
from typing import Any

import flax.linen as nn
import jax

from tlflax.backbones.chain import BlockDef, Chain, Tap
from tlflax.backbones.graph_layers import LAYERS
from tlflax.backbones.graph_shapes import DoesNotFit, Shape, node_shape, node_weights
from tlflax.backbones.spec import Contract, Spec
from tlflax.errors import ConvertError

# Taken where a model's input says nothing (None, None, 3): what ImageNet networks are trained at.
_SIZE = 224


class GraphBlock(nn.Module):
    """The nodes between two places where a single tensor is all that goes on.

    Attributes:
      nodes: list of nodes as JSON text.
      feed: name by which they call what comes in.
    """

    nodes: str
    feed: str

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """Computes the nodes in order; a node's name means its output after its activation."""
        values = {self.feed: x}
        for node in json.loads(self.nodes):
            inputs = [values[name] for name in node["inputs"]]
            name, options = node["name"], node["options"]
            try:
                y = LAYERS[node["kind"]](name, options, inputs, tap.live)
            except (TypeError, ValueError) as error:
                shapes = ", ".join(str(list(v.shape[1:])) for v in inputs)
                raise ConvertError(
                    f"layer {name!r} cannot be computed from {shapes}: the network does not take "
                    "images of this size"
                ) from error
            x = values[name] = tap(name, y)
        return x


def graph_chain(graph: str, contract: Contract) -> Chain:
    """Builds the chain.

    Args:
      graph: JSON text, see `tlflax.convert.keras_graph`.
      contract: input contract.
    """
    read = _read(graph)
    blocks, feed = [], read["start"]
    for block in read["blocks"]:
        options = {"nodes": json.dumps(block["nodes"]), "feed": feed}
        blocks.append(BlockDef(block["name"], GraphBlock, options))
        feed = block["name"]
    return Chain(tuple(blocks), contract)


def graph_spec(name: str, graph: str, contract: Contract) -> Spec:
    """What is known about a user's own network besides its layers.

    Args:
      name: by which it is called in messages and reports.
      graph: JSON text.
      contract: input contract.

    Raises:
      ConvertError: it cannot be computed at the size that it declares.
    """
    read = _read(graph)
    side = read["input"][0]
    size = side or _SIZE
    try:
        shapes = graph_shapes(read, size)
        top = top_layers(read, shapes)
    except (DoesNotFit, IndexError) as error:
        raise ConvertError(f"{name} does not take {size}x{size} images: {error}") from error
    endpoint = default_endpoint(read, top)
    counted = _parameters(read, shapes, endpoint)
    return Spec(
        name=name,
        build="tlflax.backbones.graph:graph_chain",
        options={"graph": graph, "contract": contract},
        contract=contract,
        size=size,
        min_size=_min_size(graph, size),
        form="graph",
        default_endpoint=endpoint,
        top_layers=top,
        licence="the file's own",
        parameters=counted,
        aliases=dict(read["aliases"]),
    )


def _read(graph: str) -> dict[str, Any]:
    try:
        read = json.loads(graph)
        assert {"input", "start", "blocks", "aliases"} <= set(read)
    except (ValueError, TypeError, AssertionError) as error:
        raise ConvertError("the description of the network is damaged; convert it again") from error
    return read


def nodes_of(graph: dict[str, Any]) -> list[dict[str, Any]]:
    """All nodes, in order."""
    return [node for block in graph["blocks"] for node in block["nodes"]]


def graph_shapes(graph: dict[str, Any], side: int) -> dict[str, Shape]:
    """Every node's output shape for square images of ``side`` pixels.

    Raises:
      DoesNotFit: a node cannot be computed then.
    """
    shapes: dict[str, Shape] = {graph["start"]: (side, side, graph["input"][2])}
    for node in nodes_of(graph):
        inputs = [shapes[name] for name in node["inputs"]]
        try:
            shapes[node["name"]] = node_shape(node["kind"], node["options"], inputs)
        except (DoesNotFit, IndexError) as error:
            raise DoesNotFit(f"layer {node['name']!r}: {error}") from error
    return shapes


def _weights(graph: dict[str, Any], shapes: dict[str, Shape]) -> dict[str, dict[str, Shape]]:
    """Node name -> its weights' shapes, for the nodes that have any."""
    every = {
        node["name"]: node_weights(node["kind"], node["options"], shapes[node["inputs"][0]])
        for node in nodes_of(graph)
    }
    return {name: found for name, found in every.items() if found}


def top_layers(graph: dict[str, Any], shapes: dict[str, Shape]) -> tuple[str, ...]:
    """The classifier: the last layer with weights and everything behind it.

    A Dense is one; a 1x1 convolution is, if nothing but pooling, reshaping and softmax makes a
    vector of it. A network that ends otherwise has none.
    """
    names = [node["name"] for node in nodes_of(graph)]
    weighted = list(_weights(graph, shapes))
    if not weighted:
        return ()
    start = names.index(weighted[-1])
    node = nodes_of(graph)[start]
    ends = len(shapes[names[-1]]) == 1
    linear = node["options"].get("activation", [""])[0] in ("linear", "softmax", "sigmoid")
    one = node["kind"] == "conv" and node["options"]["kernel"] == [1, 1] and linear and ends
    quiet = ("identity", "flatten", "reshape", "global_average_pool", "activation")
    behind = [(n["kind"], n["options"]) for n in nodes_of(graph)[start + 1 :]]
    one = one and all(
        kind in quiet and o.get("activation", ["softmax"])[0] in ("linear", "softmax", "sigmoid")
        for kind, o in behind
    )
    return tuple(names[start:]) if node["kind"] == "dense" or one else ()


def default_endpoint(graph: dict[str, Any], top: tuple[str, ...]) -> str:
    """The last block below the classifier.

    Raises:
      ConvertError: there is none.
    """
    below = []
    for block in graph["blocks"]:
        if top and any(node["name"] in top for node in block["nodes"]):
            break
        below.append(block["name"])
    if not below:
        raise ConvertError(
            f"the network is a classifier and nothing else ({top[0]!r} comes first): there is "
            "nothing to transfer"
        )
    return below[-1]


def _parameters(graph: dict[str, Any], shapes: dict[str, Shape], endpoint: str) -> int:
    """Numbers up to the endpoint, moving statistics included, as Keras counts them."""
    names = [block["name"] for block in graph["blocks"]]
    kept = graph["blocks"][: names.index(endpoint) + 1]
    weights = _weights(graph, shapes)
    inside = [node["name"] for block in kept for node in block["nodes"]]
    return sum(math.prod(s) for name in inside for s in weights.get(name, {}).values())


@functools.lru_cache(maxsize=16)
def _min_size(graph: str, size: int) -> int:
    """The smallest side at which every layer can be computed with the same weights."""
    read = _read(graph)
    wanted = _weights(read, graph_shapes(read, size))
    for side in range(1, size):
        try:
            if _weights(read, graph_shapes(read, side)) == wanted:
                return side
        except (DoesNotFit, ZeroDivisionError):
            continue
    return size
