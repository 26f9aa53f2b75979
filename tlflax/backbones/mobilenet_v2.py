"""MobileNetV2 (Sandler et al., arXiv:1801.04381), all Keras widths, Keras layer names.

A block is an inverted residual, named after its last layer: ``block_1_project_BN`` or, with a
shortcut, ``block_2_add``; ``block_13`` is accepted for either.
"""

import flax.linen as nn
import jax

from tlflax.backbones.chain import BlockDef, Chain, Tap
from tlflax.backbones.layers import activation, batch_norm, conv, depthwise
from tlflax.backbones.spec import Contract

# Epsilon and momentum of keras.applications.MobileNetV2.
_EPSILON, _MOMENTUM = 1e-3, 0.999

# Table 2 of the paper: expansion, output channels at width 1.0, repeats, first stride.
TABLE = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def _divisible(channels: float, divisor: int = 8) -> int:
    """Rounds to a multiple of 8 without going below 90 %, as the reference networks do."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def _norm(x: jax.Array, tap: Tap, name: str) -> jax.Array:
    return batch_norm(x, tap, name, epsilon=_EPSILON, momentum=_MOMENTUM)


class ConvNormRelu(nn.Module):
    """Convolution, BatchNorm, ReLU6: the first and the last block."""

    features: int
    kernel: int
    stride: int
    names: tuple[str, str, str]

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, H, W, C] -> [B, H / stride, W / stride, features]``."""
        conv_name, norm_name, relu_name = self.names
        x = conv(x, tap, conv_name, self.features, self.kernel, self.stride)
        return activation(_norm(x, tap, norm_name), tap, relu_name, nn.relu6)


class InvertedResidual(nn.Module):
    """Expand (1x1), depthwise 3x3, project (1x1, linear); added to the input if shapes allow."""

    prefix: str
    expansion: int
    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, H, W, C] -> [B, H / stride, W / stride, features]``."""
        p, shortcut = self.prefix, x
        if self.expansion != 1:
            x = conv(x, tap, f"{p}_expand", self.expansion * x.shape[-1], kernel=1)
            x = activation(_norm(x, tap, f"{p}_expand_BN"), tap, f"{p}_expand_relu", nn.relu6)
        # Keras pads explicitly before the strided case; for 3x3 that is what SAME does.
        x = depthwise(x, tap, f"{p}_depthwise", stride=self.stride)
        x = activation(_norm(x, tap, f"{p}_depthwise_BN"), tap, f"{p}_depthwise_relu", nn.relu6)
        x = conv(x, tap, f"{p}_project", self.features, kernel=1)
        x = _norm(x, tap, f"{p}_project_BN")
        return tap(f"{p}_add", x + shortcut) if self.name == f"{p}_add" else x


def mobilenet_v2(width: float, contract: Contract) -> Chain:
    """Builds MobileNetV2 without classifier.

    Args:
      width: channel multiplier (Keras' ``alpha``).
      contract: input contract.
    """
    stem = _divisible(32 * width)
    names = ("Conv1", "bn_Conv1", "Conv1_relu")
    options = {"features": stem, "kernel": 3, "stride": 2, "names": names}
    blocks = [BlockDef("Conv1_relu", ConvNormRelu, options)]
    channels, index = stem, 0
    for expansion, features, repeats, first_stride in TABLE:
        features = _divisible(features * width)
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            prefix = f"block_{index}" if index else "expanded_conv"
            last = "add" if stride == 1 and channels == features else "project_BN"
            fields = {"prefix": prefix, "expansion": expansion}
            fields |= {"features": features, "stride": stride}
            blocks.append(BlockDef(f"{prefix}_{last}", InvertedResidual, fields))
            channels, index = features, index + 1
    # The paper widens only the last layer for multipliers above 1.
    options = {"features": _divisible(1280 * width) if width > 1.0 else 1280, "kernel": 1}
    options |= {"stride": 1, "names": ("Conv_1", "Conv_1_bn", "out_relu")}
    blocks.append(BlockDef("out_relu", ConvNormRelu, options))
    return Chain(tuple(blocks), contract)
