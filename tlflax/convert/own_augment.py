"""Augmentation layers of a user's own Keras network, in the wrong place."""

from collections.abc import Iterator, Mapping
from typing import Any

# Layers in which an image ends up as features.
_COMPUTING = ("Conv", "Dense", "SeparableConv", "DepthwiseConv")


def misplaced_augmentation(config: Mapping[str, Any]) -> str:
    """What to say of augmentation layers that come after layers with weights, or nothing.

    They get features or probabilities in place of images there, and augment nothing.

    Args:
      config: ``{"class_name": ..., "config": ...}`` as Keras serialises a model.
    """
    computing = ""
    for kind, name in _layers(config):
        if kind.startswith(_COMPUTING):
            computing = computing or name
        elif computing and kind.startswith("Random"):
            return (
                f"its augmentation layer {name!r} ({kind}) comes after {computing!r}, where no "
                "image passes: it never augmented one; here augmentation is a stage's "
                "augment='keras_layers(...)', before the network"
            )
    return ""


def _layers(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Class and name of every layer, inner models' in their place."""
    inner: Any = config.get("config")
    # Keras 1 kept a Sequential's layers as its config.
    options: dict[str, Any] = inner if isinstance(inner, dict) else {"layers": inner}
    layers = options.get("layers")
    if layers is None:
        yield str(config.get("class_name")), str(options.get("name", config.get("name")))
        return
    for layer in layers:
        yield from _layers(layer)
