"""Conversion as a table: how one source weight becomes one leaf of ours.

The layers of a zoo chain carry their Keras names, so for Keras files the table only needs the
weight's kind. Formats with other naming add a table of their own beside this one.
"""

import dataclasses
import re
from collections.abc import Callable, Collection, Iterable

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
# Files of Keras 1 (VGG of 2016: block1_conv1_W_1, block1_conv1_b_1; SqueezeNet: uniform1, after
# the function that initialised it, beside conv1_b).
KERAS_SUFFIXES: dict[str, Rule] = {
    "_W": KERAS["kernel"],
    "uniform": KERAS["kernel"],
    "_b": KERAS["bias"],
}


# The MobileNetV2 files that Keras publishes still have the layer names of their first author
# (github.com/JonathanCMitchell/mobilenet_v2_keras, which also dropped an index here and there);
# keras.applications loads them by position and so never sees the names.
_KIND = "(expand|depthwise|project)"
KERAS_LAYERS = (
    (re.compile(rf"mobl(\d+)_conv(?:_\d+)?_{_KIND}"), r"block_\1_\2"),
    (re.compile(rf"bn(\d+)_conv(?:_\d+)?_bn_{_KIND}"), r"block_\1_\2_BN"),
    # SqueezeNet's Caffe names; Keras 3 allows no slash, and a slash would be a level of ours.
    (re.compile(r"(fire\d+)/(\w+)"), r"\1_\2"),
)


def keras_layer(name: str) -> str:
    """The layer's name in today's keras.applications, where a published file has an older one."""
    for pattern, today in KERAS_LAYERS:
        if found := pattern.fullmatch(name):
            return found.expand(today).replace("block_0_", "expanded_conv_")
    return name


# InceptionV3 leaves its layers to Keras' counters (conv2d, conv2d_1, ...). Kind -> our layers that
# Keras counts by it.
_INSIDE = r"(?:stem\d|mixed\d+_branch\w+)"
KERAS_COUNTED = {
    "conv2d": rf"{_INSIDE}_conv",
    "batch_normalization": rf"{_INSIDE}_bn",
    "activation": rf"{_INSIDE}_relu",
    "max_pooling2d": r"stem\d_pool|mixed\d+_branch_pool_max",
    "average_pooling2d": r"mixed\d+_branch_pool_mean",
    "concatenate": r"mixed\d+_branch3x3dbl",
}


def is_counted(layer: str) -> bool:
    """Whether a layer's name comes from one of Keras' counters in `KERAS_COUNTED`."""
    return re.sub(r"_\d+$", "", layer) in KERAS_COUNTED


def by_count(theirs: Collection[str], ours: Iterable[str]) -> dict[str, str]:
    """Names from Keras' counters -> ours.

    The counters run on through a session: the first convolution of a network may be ``conv2d``,
    ``conv2d_1`` (the published InceptionV3 file) or ``conv2d_94``. Only their order tells.

    Args:
      theirs: layer names of a file or a model, in any order.
      ours: layer names of the chain, in the order in which Keras creates the layers.
    """
    ours, found = list(ours), {}
    for kind, pattern in KERAS_COUNTED.items():
        mine = [name for name in ours if re.fullmatch(pattern, name)]
        numbers = {}
        for name in theirs:
            if counted := re.fullmatch(rf"{kind}(?:_(\d+))?", name):
                numbers[int(counted[1] or 0)] = name
        first = min(numbers, default=0)
        # Not by rank: a layer that is missing from the file must not move those after it.
        found |= {name: mine[n - first] for n, name in numbers.items() if n - first < len(mine)}
    return found


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
