"""MobileNet V1 (Howard et al., arXiv:1704.04861), all Keras widths, Keras layer names.

A block is a depthwise and a pointwise convolution, named after its last layer
(``conv_pw_13_relu``); ``conv_pw_13`` is a layer inside it.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlflax.backbones.chain import BlockDef, Chain, Tap
from tlflax.backbones.layers import activation, batch_norm, conv, depthwise
from tlflax.backbones.spec import Contract

# Table 1 of the paper: output channels at width 1.0 and stride of each separable convolution.
_TABLE = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (1024, 2),
    (1024, 1),
)


def _norm_relu6(x: jax.Array, tap: Tap, name: str) -> jax.Array:
    return activation(batch_norm(x, tap, f"{name}_bn"), tap, f"{name}_relu", nn.relu6)


class Stem(nn.Module):
    """3x3 convolution with stride 2, BatchNorm, ReLU6."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, H, W, 3] -> [B, ceil(H / 2), ceil(W / 2), features]``."""
        return _norm_relu6(conv(x, tap, "conv1", self.features, 3, 2), tap, "conv1")


class Separable(nn.Module):
    """Depthwise 3x3, then 1x1; BatchNorm and ReLU6 after either."""

    index: int
    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, H, W, C] -> [B, H // stride, W // stride, features]``."""
        each, point, padding = f"conv_dw_{self.index}", f"conv_pw_{self.index}", "SAME"
        if self.stride == 2:
            # One row below and one column to the right, for odd sides as well: there SAME would
            # pad all around and give one pixel more.
            x, padding = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0))), "VALID"
        x = _norm_relu6(depthwise(x, tap, each, 3, self.stride, padding), tap, each)
        return _norm_relu6(conv(x, tap, point, self.features, 1), tap, point)


def mobilenet(width: float, contract: Contract) -> Chain:
    """Builds MobileNet V1 without classifier.

    Args:
      width: channel multiplier (Keras' ``alpha``).
      contract: input contract.
    """
    blocks = [BlockDef("conv1_relu", Stem, {"features": int(32 * width)})]
    for index, (features, stride) in enumerate(_TABLE, start=1):
        fields = {"index": index, "features": int(features * width), "stride": stride}
        blocks.append(BlockDef(f"conv_pw_{index}_relu", Separable, fields))
    return Chain(tuple(blocks), contract)
