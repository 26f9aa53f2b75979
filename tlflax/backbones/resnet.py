"""ResNet50/101/152 and their pre-activation (V2) forms, Keras layer names.

He et al., arXiv:1512.03385 and arXiv:1603.05027. A block is one residual unit, named after its
last layer: ``conv5_block3_out``. Keras differs from the papers' networks in details that the
weights depend on: every convolution of V1 has a bias, V1 strides in the first 1x1 convolution of
a unit (torchvision in the 3x3), V2 in the *last* unit of a stage, and epsilon is 1.001e-5.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlflax.backbones.chain import BlockDef, Chain, Tap
from tlflax.backbones.layers import activation, batch_norm, conv, max_pool
from tlflax.backbones.spec import Contract

_EPSILON = 1.001e-5


def _norm(x: jax.Array, tap: Tap, name: str) -> jax.Array:
    return batch_norm(x, tap, name, epsilon=_EPSILON)


def _pad(x: jax.Array, pixels: int) -> jax.Array:
    """Zeros on all four sides: what comes next is a VALID window, whatever the parity."""
    return jnp.pad(x, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)))


class Stem(nn.Module):
    """7x7 convolution and 3x3 max pooling, each with stride 2."""

    normalised: bool

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, H, W, 3] -> [B, H / 4, W / 4, 64]``."""
        x = conv(_pad(x, 3), tap, "conv1_conv", 64, 7, 2, "VALID", bias=True)
        if self.normalised:
            x = activation(_norm(x, tap, "conv1_bn"), tap, "conv1_relu")
        # Zeros and not -inf, as in Keras: before a ReLU (V2) that makes a difference.
        return max_pool(_pad(x, 1), tap, "pool1_pool", window=3)


class Unit(nn.Module):
    """Bottleneck (1x1, 3x3, 1x1) added to its input, or to a projection of it; then ReLU."""

    prefix: str
    features: int
    stride: int
    project: bool

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, H, W, C] -> [B, H / stride, W / stride, 4 * features]``."""
        p, width, shortcut = self.prefix, self.features, x
        if self.project:
            shortcut = conv(x, tap, f"{p}_0_conv", 4 * width, 1, self.stride, bias=True)
            shortcut = _norm(shortcut, tap, f"{p}_0_bn")
        x = conv(x, tap, f"{p}_1_conv", width, 1, self.stride, bias=True)
        x = activation(_norm(x, tap, f"{p}_1_bn"), tap, f"{p}_1_relu")
        x = conv(x, tap, f"{p}_2_conv", width, bias=True)
        x = activation(_norm(x, tap, f"{p}_2_bn"), tap, f"{p}_2_relu")
        x = conv(x, tap, f"{p}_3_conv", 4 * width, 1, bias=True)
        x = _norm(x, tap, f"{p}_3_bn")
        return activation(tap(f"{p}_add", shortcut + x), tap, f"{p}_out")


class PreActivationUnit(nn.Module):
    """BatchNorm and ReLU first, then the bottleneck; nothing after the addition."""

    prefix: str
    features: int
    stride: int
    project: bool

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), 4 * features]``."""
        p, width, s = self.prefix, self.features, self.stride
        active = activation(_norm(x, tap, f"{p}_preact_bn"), tap, f"{p}_preact_relu")
        y = conv(active, tap, f"{p}_1_conv", width, 1)
        y = activation(_norm(y, tap, f"{p}_1_bn"), tap, f"{p}_1_relu")
        y = conv(_pad(y, 1), tap, f"{p}_2_conv", width, 3, s, "VALID")
        y = activation(_norm(y, tap, f"{p}_2_bn"), tap, f"{p}_2_relu")
        if self.project:
            shortcut = conv(active, tap, f"{p}_0_conv", 4 * width, 1, s, bias=True)
        else:
            # Keras pools with a window of one: a strided selection of pixels.
            shortcut = x[:, ::s, ::s]
        y = conv(y, tap, f"{p}_3_conv", 4 * width, 1, bias=True)
        return tap(f"{p}_out", shortcut + y)


class NormRelu(nn.Module):
    """BatchNorm and ReLU: the last block of V2."""

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, H, W, C] -> [B, H, W, C]``."""
        return activation(_norm(x, tap, "post_bn"), tap, "post_relu")


def resnet(units: tuple[int, ...], contract: Contract, preactivated: bool = False) -> Chain:
    """Builds a bottleneck ResNet without classifier.

    Args:
      units: residual units in each of the four stages.
      contract: input contract.
      preactivated: whether to build the V2 form.
    """
    blocks = [BlockDef("pool1_pool", Stem, {"normalised": not preactivated})]
    for stage, count in enumerate(units, start=2):
        for unit in range(1, count + 1):
            if preactivated:
                # The last stage of V2 does not stride: the stem and three stages make 32.
                stride = 2 if unit == count and stage < 1 + len(units) else 1
            else:
                stride = 2 if unit == 1 and stage > 2 else 1
            prefix = f"conv{stage}_block{unit}"
            fields = {"prefix": prefix, "features": 2 ** (stage + 4), "stride": stride}
            fields |= {"project": unit == 1}
            cls = PreActivationUnit if preactivated else Unit
            blocks.append(BlockDef(f"{prefix}_out", cls, fields))
    if preactivated:
        blocks.append(BlockDef("post_relu", NormRelu))
    return Chain(tuple(blocks), contract)
