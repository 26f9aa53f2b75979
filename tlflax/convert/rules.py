"""Conversion as a table: how one source weight becomes one leaf of ours.

The layers of a zoo chain carry their Keras names, so for Keras files the table only needs the
weight's kind. Formats with other naming add a table of their own beside this one.
"""

import dataclasses
import re
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Rule:
    """One row.

    Attributes:
      collection: ``params`` or ``batch_stats``.
      leaf: our name of the weight.
      transform: array -> array in our layout.
    """

    collection: str
    leaf: str
    transform: Callable[[np.ndarray], np.ndarray] = lambda a: a


def _depthwise(kernel: np.ndarray) -> np.ndarray:
    """Keras ``[kh, kw, channels, 1]`` -> ours ``[kh, kw, 1, channels]``."""
    return kernel.transpose(0, 1, 3, 2)


# Weight names as Keras writes them, for the layers that zoo networks use.
KERAS: dict[str, Rule] = {
    "kernel": Rule("params", "kernel"),
    "bias": Rule("params", "bias"),
    "depthwise_kernel": Rule("params", "kernel", _depthwise),
    "gamma": Rule("params", "scale"),
    "beta": Rule("params", "bias"),
    "moving_mean": Rule("batch_stats", "mean"),
    "moving_variance": Rule("batch_stats", "var"),
}
# The published VGG files, of 2016, call their weights block1_conv1_W_1 and block1_conv1_b_1.
KERAS_SUFFIXES: dict[str, Rule] = {"_W": KERAS["kernel"], "_b": KERAS["bias"]}


# The MobileNetV2 files that Keras publishes still have the layer names of their first author
# (github.com/JonathanCMitchell/mobilenet_v2_keras, which also dropped an index here and there);
# keras.applications loads them by position and so never sees the names.
_KIND = "(expand|depthwise|project)"
KERAS_LAYERS = (
    (re.compile(rf"mobl(\d+)_conv(?:_\d+)?_{_KIND}"), r"block_\1_\2"),
    (re.compile(rf"bn(\d+)_conv(?:_\d+)?_bn_{_KIND}"), r"block_\1_\2_BN"),
)


def keras_layer(name: str) -> str:
    """The layer's name in today's keras.applications, where a published file has an older one."""
    for pattern, today in KERAS_LAYERS:
        if found := pattern.fullmatch(name):
            return found.expand(today).replace("block_0_", "expanded_conv_")
    return name


def keras_rule(weight: str, shape: tuple[int, ...] = ()) -> Rule | None:
    """The row for a Keras weight name, ``None`` if there is none.

    Args:
      weight: name without its layer, e.g. ``kernel``.
      shape: of the array; Keras 3 calls a depthwise kernel ``kernel`` as well, and only
        ``[kh, kw, channels, 1]`` tells (no zoo network has a convolution with one output).
    """
    if weight == "kernel" and len(shape) == 4 and shape[3] == 1:
        return KERAS["depthwise_kernel"]
    if weight in KERAS:
        return KERAS[weight]
    stem = weight.rstrip("0123456789").removesuffix("_")
    for suffix, rule in KERAS_SUFFIXES.items():
        if stem.endswith(suffix):
            return rule
    return None
