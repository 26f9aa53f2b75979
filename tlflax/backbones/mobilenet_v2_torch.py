"""MobileNetV2 (Sandler et al., arXiv:1801.04381) as torchvision and timm have it.

Unlike Keras' form, strided convolutions pad all sides alike and the constants of BatchNorm are
torch's. Layers are called as in timm: a block is ``blocks_STAGE_UNIT``, the first ``bn1``, the
last ``bn2``.
"""

import flax.linen as nn

from tlflax.backbones.chain import BlockDef, Chain
from tlflax.backbones.mobilenet_v2 import TABLE
from tlflax.backbones.spec import Contract
from tlflax.backbones.torch_layers import ConvNorm, InvertedResidual


def mobilenet_v2(contract: Contract) -> Chain:
    """Builds MobileNetV2 of width 1.0 without classifier."""
    shared = {"activation": nn.relu6}
    stem = {"conv_name": "conv_stem", "features": 32, "kernel": 3, "stride": 2}
    blocks = [BlockDef("bn1", ConvNorm, stem | shared)]
    for stage, (expansion, features, repeats, first_stride) in enumerate(TABLE):
        for unit in range(repeats):
            fields = {"kernel": 3, "expansion": expansion, "features": features, "gated": False}
            fields |= {"stride": first_stride if unit == 0 else 1}
            blocks.append(BlockDef(f"blocks_{stage}_{unit}", InvertedResidual, fields | shared))
    last = {"conv_name": "conv_head", "features": 1280, "kernel": 1, "stride": 1}
    blocks.append(BlockDef("bn2", ConvNorm, last | shared))
    return Chain(tuple(blocks), contract)
