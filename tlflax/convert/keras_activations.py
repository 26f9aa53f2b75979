"""Activations in a Keras configuration: a string, a function, a layer, or a layer as a string."""

from collections.abc import Callable, Mapping
from typing import Any

from tlflax.errors import ConvertError, suggest

Config = Mapping[str, Any]
Translated = tuple[str, dict[str, Any]]

_ACTIVATIONS = frozenset(
    "linear relu relu6 elu celu selu softplus softsign sigmoid tanh exponential swish silu gelu "
    "mish hard_sigmoid hard_silu hard_swish leaky_relu softmax log_softmax".split()
)
_SYNONYMS = {"swish": "silu", "hard_swish": "hard_silu"}


def number(value: Any) -> Any:
    """A number; Keras 2 wrapped some as ``{"type": "ndarray", "value": 0.3}``."""
    while isinstance(value, Mapping):
        value = value["value"] if "value" in value else value["config"]
    return value


def axes(value: Any) -> list[int]:
    """Axes as Keras gives them: one, or a list."""
    return [value] if isinstance(value, int) else [int(v) for v in value]


def activation(value: Any) -> list[Any]:
    """An activation's configuration as ``[name, options]``.

    Raises:
      ConvertError: unknown, or a function of the user's own.
    """
    if value is None:
        return ["linear", {}]
    if isinstance(value, Mapping):
        class_name, config = str(value.get("class_name")), value.get("config")
        if class_name != "function" and isinstance(config, Mapping):
            if class_name in FUNCTIONS:
                kind, options = FUNCTIONS[class_name](config)
                if kind == "activation":
                    return options["activation"]
            value = class_name
        else:
            value = config
    name = _SYNONYMS.get(str(value), str(value))
    if name not in _ACTIVATIONS:
        raise ConvertError(
            f"its activation {str(value)[:60]!r} is none of Keras' own"
            f"{suggest(name, _ACTIVATIONS)}; code in a model file is never executed"
        )
    return [name, {}]


def _function(name: str, *options: tuple[str, Any]) -> Callable[[Config], Translated]:
    """An activation layer; ``options`` are (our name, default), looked up by Keras' names."""
    keys = {"negative_slope": ("negative_slope", "alpha")}

    def make(c: Config) -> Translated:
        found = {}
        for option, default in options:
            names = [k for k in keys.get(option, (option,)) if k in c]
            value = number(c[names[0]]) if names else default
            found[option] = value if value is None else float(value)
        return "activation", {"activation": [name, found]}

    return make


def _softmax(c: Config) -> Translated:
    return "activation", {"activation": ["softmax", {"axis": axes(c.get("axis", -1))}]}


FUNCTIONS: dict[str, Callable[[Config], Translated]] = {
    "Activation": lambda c: ("activation", {"activation": activation(c["activation"])}),
    "ReLU": _function("relu", ("max_value", None), ("negative_slope", 0.0), ("threshold", 0.0)),
    "LeakyReLU": _function("leaky_relu", ("negative_slope", 0.3)),
    "ThresholdedReLU": _function("threshold", ("theta", 1.0)),
    "ELU": _function("elu", ("alpha", 1.0)),
    "Softmax": _softmax,
}
