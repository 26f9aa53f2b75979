"""ResNet V2 as TF-Slim and TensorFlow Hub have it, under the Keras names.

It is Keras' network (`tlflax.backbones.resnet`) but for one layer, and the weights know the
difference: the stem's max pooling pads below and right only and with nothing (``SAME``), where
Keras pads all sides with zeros. Slim asks for epsilon 1e-5; the fused BatchNorm it runs raises
that to 1.001e-5, the number Keras has. Sources: tensorflow/models, research/slim/nets,
resnet_v2.py and resnet_utils.py; hub modules train BatchNorm with momentum 0.99.
"""

import flax.linen as nn
import jax

from tlflax.backbones.chain import BlockDef, Chain, Tap
from tlflax.backbones.layers import conv, max_pool
from tlflax.backbones.resnet import resnet
from tlflax.backbones.spec import Contract


class SlimStem(nn.Module):
    """7x7 convolution and 3x3 max pooling, each with stride 2."""

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, H, W, 3] -> [B, H / 4, W / 4, 64]``."""
        # Slim's conv2d_same: the same zeros on all sides, whatever the parity of the side.
        x = conv(x, tap, "conv1_conv", 64, 7, 2, ((3, 3), (3, 3)), bias=True)
        return max_pool(x, tap, "pool1_pool", window=3, padding="SAME")


def resnet_v2_slim(units: tuple[int, ...], contract: Contract) -> Chain:
    """Builds a slim ResNet V2 without classifier.

    Args:
      units: residual units in each of the four stages.
      contract: input contract.
    """
    blocks = resnet(units, contract, preactivated=True).blocks
    return Chain((BlockDef("pool1_pool", SlimStem), *blocks[1:]), contract)
