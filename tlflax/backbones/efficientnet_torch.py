"""EfficientNet-B0 (Tan and Le, arXiv:1905.11946) as torchvision and timm have it.

Unlike Keras' form, strided convolutions pad all sides alike and BatchNorm's epsilon is 1e-5.
Layers are called as in timm: a block is ``blocks_STAGE_UNIT``, the first ``bn1``, the last
``bn2``. The random dropping of whole branches in training is not applied.
"""

import flax.linen as nn

from tlflax.backbones.chain import BlockDef, Chain
from tlflax.backbones.spec import Contract
from tlflax.backbones.torch_layers import ConvNorm, InvertedResidual

# Table 1 of the paper, stages 2-8: kernel, expansion, output channels, repeats, first stride.
_TABLE = (
    (3, 1, 16, 1, 1),
    (3, 6, 24, 2, 2),
    (5, 6, 40, 2, 2),
    (3, 6, 80, 3, 2),
    (5, 6, 112, 3, 1),
    (5, 6, 192, 4, 2),
    (3, 6, 320, 1, 1),
)


def efficientnet_b0(contract: Contract) -> Chain:
    """Builds EfficientNet-B0 without classifier."""
    shared = {"activation": nn.silu}
    stem = {"conv_name": "conv_stem", "features": 32, "kernel": 3, "stride": 2}
    blocks = [BlockDef("bn1", ConvNorm, stem | shared)]
    for stage, (kernel, expansion, features, repeats, first_stride) in enumerate(_TABLE):
        for unit in range(repeats):
            fields = {"kernel": kernel, "expansion": expansion, "features": features}
            fields |= {"gated": True, "stride": first_stride if unit == 0 else 1}
            blocks.append(BlockDef(f"blocks_{stage}_{unit}", InvertedResidual, fields | shared))
    last = {"conv_name": "conv_head", "features": 1280, "kernel": 1, "stride": 1}
    blocks.append(BlockDef("bn2", ConvNorm, last | shared))
    return Chain(tuple(blocks), contract)
