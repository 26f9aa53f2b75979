"""Names of TF-Slim's ResNet V2, as in its checkpoints and in TensorFlow Hub's modules.

conv5_block3_2_conv/kernel   resnet_v2_50/block4/unit_3/bottleneck_v2/conv2/weights
conv5_block3_2_bn/scale      resnet_v2_50/block4/unit_3/bottleneck_v2/conv2/BatchNorm/gamma
conv2_block1_0_conv/bias     resnet_v2_50/block1/unit_1/bottleneck_v2/shortcut/biases
post_bn/mean                 resnet_v2_50/postnorm/moving_mean
"""

import re
from collections.abc import Iterable

_LEAVES = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}
_UNIT = re.compile(r"conv(\d)_block(\d+)_(preact|\d)_(bn|conv)")


def _scope(layer: str) -> str:
    """Slim's scope of one of our layers."""
    if layer == "conv1_conv":
        return "conv1"
    if layer == "post_bn":
        return "postnorm"
    found = _UNIT.fullmatch(layer)
    assert found, f"{layer} is no layer of a slim ResNet"
    stage, unit, part, kind = found.groups()
    inner = {"preact": "preact", "0": "shortcut"}.get(part, f"conv{part}")
    # A convolution's own BatchNorm has a scope below it; `preact` is one itself.
    norm = "/BatchNorm" if kind == "bn" and part != "preact" else ""
    return f"block{int(stage) - 1}/unit_{unit}/bottleneck_v2/{inner}{norm}"


def source_names(paths: Iterable[str], depth: int = 50) -> dict[str, str]:
    """TensorFlow's variable name for each of our leaves.

    Args:
      paths: ``params/block/layer/leaf`` and ``batch_stats/block/layer/leaf``.
      depth: in the name of the network's scope.
    """
    names = {}
    for path in paths:
        *_, layer, leaf = path.split("/")
        if layer.endswith("_conv"):
            leaf = {"kernel": "weights", "bias": "biases"}[leaf]
        else:
            leaf = _LEAVES[leaf]
        names[path] = f"resnet_v2_{depth}/{_scope(layer)}/{leaf}"
    return names
