"""Which tensors a functional Keras model's layers are called with, in all its serialisations."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from tlflax.errors import ConvertError

# Layer name, number of its call, number of the output tensor.
Reference = tuple[str, int, int]


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a layer.

    Attributes:
      layer: its name.
      index: 0 for the first call.
      inputs: tensors, in order.
      operand: where a tensor comes first and one number after it, as in ``x / 127.5``: the number.
    """

    layer: str
    index: int
    inputs: tuple[Reference, ...]
    operand: float | None = None


def calls(name: str, layer: Mapping[str, Any]) -> list[Call]:
    """The calls of a layer in a functional model's configuration.

    Raises:
      ConvertError: not as Keras writes them, or a layer that is called in training mode.
    """
    found = []
    for index, node in enumerate(layer.get("inbound_nodes") or []):
        if isinstance(node, Mapping):
            # Keras 3: the arguments, with tensors marked where they stand.
            options = node.get("kwargs") or {}
            inputs = [*_marked(node.get("args"))]
            if not inputs:
                inputs = [*_marked(options)]
            operand = _operand(node.get("args"), options)
        else:
            # Keras 1 and 2: [[layer, node, tensor, options], ...]
            inputs = references(node)
            options = {}
            for item in node if isinstance(node, list) else []:
                if isinstance(item, list) and len(item) > 3 and isinstance(item[3], Mapping):
                    options |= item[3]
            operand = _operand(inputs, options)
        if options.get("training") is True:
            raise ConvertError(
                f"layer {name!r} is called with training=True, so that it also trains when the "
                "model is used; call it without"
            )
        found.append(Call(name, index, tuple(inputs), operand))
    return found


def _operand(arguments: Any, options: Mapping[str, Any]) -> float | None:
    """The one number of a call ``f(tensor, number)`` or ``f(tensor, y=number)``."""
    arguments = arguments if isinstance(arguments, list) else []
    given = {k: v for k, v in options.items() if v is not None and k != "name"}
    rest = [*arguments[1:], *given.values()]
    if set(given) <= {"y", "x2"} and len(rest) == 1 and not [*_marked(rest), *references(rest)]:
        number = rest[0]
        if isinstance(number, int | float) and not isinstance(number, bool):
            return float(number) if math.isfinite(number) else None
    return None


def references(value: Any) -> list[Reference]:
    """Every ``[layer, node, tensor]`` in a nest of lists and dicts."""
    if isinstance(value, Mapping):
        return [r for v in value.values() for r in references(v)]
    if not isinstance(value, list):
        return []
    if (
        len(value) >= 3
        and isinstance(value[0], str)
        and all(isinstance(n, int) for n in value[1:3])
    ):
        return [(value[0], value[1], value[2])]
    return [r for v in value for r in references(v)]


def _marked(value: Any) -> Iterator[Reference]:
    if isinstance(value, Mapping):
        if value.get("class_name") == "__keras_tensor__":
            yield from references((value.get("config") or {}).get("keras_history"))
        else:
            for inner in value.values():
                yield from _marked(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _marked(inner)
