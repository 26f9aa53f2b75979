"""EfficientNet B0-B7 (Tan and Le, arXiv:1905.11946), Keras layer names.

A block is an inverted residual with squeeze and excitation, named after its last layer:
``block1a_project_bn`` or, with a shortcut, ``block2b_add``; ``block2b`` is accepted for either.

Keras begins these networks with Rescaling and Normalization layers; here they are the input
contract, as everywhere. In training the reference networks drop whole residual branches at random
(Keras' ``.._drop``, up to 20 %); that is not applied here, which changes nothing at inference.

TensorFlow Hub's modules of the family are the same network under other names.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlflax.backbones.chain import BlockDef, Chain, Tap
from tlflax.backbones.layers import activation, batch_norm, conv, depthwise
from tlflax.backbones.spec import Contract

# Table 1 of the paper, stages 2-8: kernel, repeats, output channels, expansion, first stride.
_TABLE = (
    (3, 1, 16, 1, 1),
    (3, 2, 24, 6, 2),
    (5, 2, 40, 6, 2),
    (3, 3, 80, 6, 2),
    (5, 3, 112, 6, 1),
    (5, 4, 192, 6, 2),
    (3, 1, 320, 6, 1),
)
# The squeezed width is this share of the block's input, not of the expanded map.
_SQUEEZE = 0.25
# Depth is counted up, width to a multiple of 8, as the reference networks do.
_DIVISOR = 8


def _channels(channels: int, width: float) -> int:
    """Scaled channels, rounded to a multiple of 8 without going below 90 %."""
    scaled = channels * width
    rounded = max(_DIVISOR, int(scaled + _DIVISOR / 2) // _DIVISOR * _DIVISOR)
    return rounded + _DIVISOR if rounded < 0.9 * scaled else rounded


def _norm_swish(x: jax.Array, tap: Tap, prefix: str) -> jax.Array:
    """BatchNorm (Keras' default epsilon and momentum, which Google's code shares) and swish."""
    return activation(batch_norm(x, tap, f"{prefix}bn"), tap, f"{prefix}activation", nn.swish)


class ConvNormSwish(nn.Module):
    """Convolution, BatchNorm, swish: the first and the last block."""

    prefix: str
    features: int
    kernel: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, H, W, C] -> [B, H / stride, W / stride, features]``."""
        x = conv(x, tap, f"{self.prefix}_conv", self.features, self.kernel, self.stride)
        return _norm_swish(x, tap, f"{self.prefix}_")


class MBConv(nn.Module):
    """Expand (1x1), depthwise, squeeze and excite, project (1x1, linear); added if shapes allow."""

    prefix: str
    kernel: int
    features: int
    expansion: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, H, W, C] -> [B, H / stride, W / stride, features]``."""
        p, shortcut = self.prefix, x
        if self.expansion != 1:
            x = conv(x, tap, f"{p}_expand_conv", self.expansion * x.shape[-1], kernel=1)
            x = _norm_swish(x, tap, f"{p}_expand_")
        # Keras pads the strided case explicitly, by the parity of the side: what SAME does.
        x = depthwise(x, tap, f"{p}_dwconv", self.kernel, self.stride)
        x = _norm_swish(x, tap, f"{p}_")
        x = self.excited(x, tap, max(1, int(shortcut.shape[-1] * _SQUEEZE)))
        x = conv(x, tap, f"{p}_project_conv", self.features, kernel=1)
        x = batch_norm(x, tap, f"{p}_project_bn")
        return tap(f"{p}_add", x + shortcut) if self.name == f"{p}_add" else x

    def excited(self, x: jax.Array, tap: Tap, squeezed: int) -> jax.Array:
        """Scales each channel by a gate in 0..1 computed from the means of all channels."""
        p, silent = self.prefix, Tap(None, None)
        gate = tap(f"{p}_se_squeeze", jnp.mean(x, axis=(1, 2)))
        gate = tap(f"{p}_se_reshape", gate[:, None, None, :])
        # Keras has the activation inside these layers: their names mean the output after it.
        gate = conv(gate, silent, f"{p}_se_reduce", squeezed, kernel=1, bias=True)
        gate = tap(f"{p}_se_reduce", nn.swish(gate))
        gate = conv(gate, silent, f"{p}_se_expand", x.shape[-1], kernel=1, bias=True)
        gate = tap(f"{p}_se_expand", nn.sigmoid(gate))
        return tap(f"{p}_se_excite", x * gate)


def efficientnet(width: float, depth: float, contract: Contract) -> Chain:
    """Builds an EfficientNet without classifier.

    Args:
      width: channel multiplier.
      depth: multiplier of the repeats.
      contract: input contract.
    """
    channels = _channels(32, width)
    options = {"prefix": "stem", "features": channels, "kernel": 3, "stride": 2}
    blocks = [BlockDef("stem_activation", ConvNormSwish, options)]
    for stage, (kernel, repeats, features, expansion, first_stride) in enumerate(_TABLE, start=1):
        features = _channels(features, width)
        for repeat in range(math.ceil(depth * repeats)):
            stride = first_stride if repeat == 0 else 1
            prefix = f"block{stage}{chr(ord('a') + repeat)}"
            last = "add" if stride == 1 and channels == features else "project_bn"
            options = {"prefix": prefix, "kernel": kernel, "features": features}
            options |= {"expansion": expansion, "stride": stride}
            blocks.append(BlockDef(f"{prefix}_{last}", MBConv, options))
            channels = features
    options = {"prefix": "top", "features": _channels(1280, width), "kernel": 1, "stride": 1}
    blocks.append(BlockDef("top_activation", ConvNormSwish, options))
    return Chain(tuple(blocks), contract)
