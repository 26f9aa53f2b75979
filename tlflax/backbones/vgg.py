"""VGG16, VGG19 (Simonyan and Zisserman, arXiv:1409.1556) and their small sisters, Keras' names.

Every convolution is a block of its own, so that any of them can be the boundary.
"""

import flax.linen as nn
import jax

from tlflax.backbones.chain import BlockDef, Chain, Tap
from tlflax.backbones.layers import conv, max_pool
from tlflax.backbones.spec import Contract

_WIDTHS = (64, 128, 256, 512, 512)


class Conv(nn.Module):
    """3x3 convolution with bias and ReLU; the layer is called like the block, as in Keras."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, H, W, C] -> [B, H, W, features]``."""
        # conv() marks the linear output; the name users know means the output after ReLU.
        silent = Tap(None, None)
        assert self.name is not None
        return tap(self.name, nn.relu(conv(x, silent, self.name, self.features, bias=True)))


class Pool(nn.Module):
    """2x2 max pooling."""

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, H, W, C] -> [B, H // 2, W // 2, C]``."""
        assert self.name is not None
        return max_pool(x, tap, self.name)


def vgg(
    convolutions: tuple[int, ...], contract: Contract, widths: tuple[int, ...] = _WIDTHS
) -> Chain:
    """Builds a VGG chain without classifier.

    Args:
      convolutions: number of 3x3 convolutions in each group; a group ends with a pooling.
      contract: input contract.
      widths: channels of each group.
    """
    blocks = []
    for group, (count, width) in enumerate(zip(convolutions, widths, strict=True), start=1):
        for index in range(1, count + 1):
            blocks.append(BlockDef(f"block{group}_conv{index}", Conv, {"features": width}))
        blocks.append(BlockDef(f"block{group}_pool", Pool))
    return Chain(tuple(blocks), contract)
