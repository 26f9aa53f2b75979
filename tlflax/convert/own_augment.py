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
    inner = config.get("config") or {}
    if isinstance(inner, Mapping) and "layers" not in inner:
        yield str(config.get("class_name")), str(inner.get("name", config.get("name")))
        return
    # Keras 1 kept a Sequential's layers as its config.
    for layer in inner["layers"] if isinstance(inner, Mapping) else inner:
        yield from _layers(layer)
