"""Arithmetic with a number in a model's code, such as ``preprocess_input(x)``, as a layer.

Keras 2 records ``x / 127.5 - 1`` as TFOpLambda layers with the names of TensorFlow's functions,
Keras 3 as operations of `keras.ops`. With a number on the right they are a Rescaling.
"""

from collections.abc import Mapping
from typing import Any

# Last part of the function's or operation's name -> scale and offset.
_RESCALING = {
    "add": lambda n: (1.0, n),
    "sub": lambda n: (1.0, -n),
    "subtract": lambda n: (1.0, -n),
    "mul": lambda n: (n, 0.0),
    "multiply": lambda n: (n, 0.0),
    "divide": lambda n: (1.0 / n, 0.0),
    "truediv": lambda n: (1.0 / n, 0.0),
    "truedivide": lambda n: (1.0 / n, 0.0),
}


def as_layer(
    class_name: str, config: Mapping[str, Any], operand: float | None
) -> tuple[str, Mapping[str, Any]]:
    """The layer that computes the same as an operation, or the operation as it was.

    Args:
      class_name: ``TFOpLambda`` for operations.
      config: its ``function``, e.g. ``math.truediv`` or ``keras.ops Subtract``.
      operand: the number on the right, ``None`` if there is no single one.
    """
    function = str(config.get("function", "")).replace(" ", ".").split(".")[-1].lower()
    if class_name != "TFOpLambda" or operand is None or function not in _RESCALING:
        return class_name, config
    if operand == 0 and function in ("divide", "truediv", "truedivide"):
        return class_name, config
    scale, offset = _RESCALING[function](operand)
    return "Rescaling", {"scale": scale, "offset": offset}
