"""Names of EfficientNet's variables in TensorFlow Hub's modules ``tensorflow/efficientnet/*``.

The modules were exported from TensorFlow's model garden (tensorflow/models, official/vision/
image_classification/efficientnet: tfhub_export.py saves what efficientnet_model.py builds).

stem_conv/kernel               stem_conv2d/kernel
block2b_expand_bn/scale        stack_1/block_1/expand_bn/gamma
block2b_dwconv/kernel          stack_1/block_1/depthwise_conv2d/depthwise_kernel
block2b_bn/mean                stack_1/block_1/depthwise_bn/moving_mean
block2b_se_reduce/bias         stack_1/block_1/se_reduce_conv2d/bias
"""

import re
from collections.abc import Iterable

_NORM = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}
_BLOCK = re.compile(r"block(\d)([a-z])_(.+)")
# Our layer inside a block -> theirs.
_LAYERS = {
    "expand_conv": "expand_conv2d",
    "expand_bn": "expand_bn",
    "dwconv": "depthwise_conv2d",
    "bn": "depthwise_bn",
    "se_reduce": "se_reduce_conv2d",
    "se_expand": "se_expand_conv2d",
    "project_conv": "project_conv2d",
    "project_bn": "project_bn",
}
_ENDS = {
    "stem_conv": "stem_conv2d",
    "stem_bn": "stem_bn",
    "top_conv": "top_conv2d",
    "top_bn": "top_bn",
}


def _scope(layer: str) -> str:
    """The garden's name of one of our layers."""
    if layer in _ENDS:
        return _ENDS[layer]
    found = _BLOCK.fullmatch(layer)
    assert found and found[3] in _LAYERS, f"{layer} is no layer of an EfficientNet"
    # Stacks and their blocks are counted from 0 there.
    return f"stack_{int(found[1]) - 1}/block_{ord(found[2]) - ord('a')}/{_LAYERS[found[3]]}"


def source_names(paths: Iterable[str]) -> dict[str, str]:
    """TensorFlow's variable name for each of our leaves.

    Args:
      paths: ``params/block/layer/leaf`` and ``batch_stats/block/layer/leaf``.
    """
    names = {}
    for path in paths:
        *_, layer, leaf = path.split("/")
        if layer.endswith("bn"):
            leaf = _NORM[leaf]
        elif layer.endswith("_dwconv"):
            leaf = f"depthwise_{leaf}"
        names[path] = f"{_scope(layer)}/{leaf}"
    return names
