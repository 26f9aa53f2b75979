"""torchvision beside a CPU build of torch.

The published torchvision wheel is for CUDA; beside torch's CPU build its C++ operators cannot be
loaded, and importing it fails where it describes two of them (`nms`, `qnms`). The networks and the
PIL transforms use none of them: a declaration of those two, without implementation, is enough.
"""

import sys

import torch

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_OPERATORS = ("nms", "qnms")


def _import():
    import torchvision

    return torchvision


try:
    torchvision = _import()
except RuntimeError as error:
    if not any(f"torchvision::{name} " in str(error) for name in _OPERATORS):
        raise
    # Kept: the declaration lives as long as this object.
    declared = torch.library.Library("torchvision", "DEF")
    for name in _OPERATORS:
        declared.define(name + _SIGNATURE)
    for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    torchvision = _import()
