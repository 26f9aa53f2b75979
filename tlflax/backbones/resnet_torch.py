"""ResNet18/34/50 as torchvision and timm have them (He et al., arXiv:1512.03385).

A block is one residual unit under its module's path: ``layer4_1``. Unlike Keras' ResNets, no
convolution has a bias, a bottleneck strides in its 3x3 convolution ("v1.5"), and the constants
of BatchNorm are torch's.
"""

import flax.linen as nn
import jax

from tlflax.backbones.chain import BlockDef, Chain, Tap
from tlflax.backbones.layers import activation, max_pool
from tlflax.backbones.spec import Contract
from tlflax.backbones.torch_layers import batch_norm, conv


class Stem(nn.Module):
    """7x7 convolution and 3x3 max pooling, each with stride 2."""

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, H, W, 3] -> [B, H / 4, W / 4, 64]``."""
        x = conv(x, tap, "conv1", 64, 7, 2)
        x = activation(batch_norm(x, tap, "bn1"), tap, "relu")
        return max_pool(x, tap, "maxpool", 3, 2, ((1, 1), (1, 1)))


class BasicUnit(nn.Module):
    """Two 3x3 convolutions added to the input, or to a projection of it; then ReLU."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, H, W, C] -> [B, H / stride, W / stride, features]``."""
        p = self.name
        y = conv(x, tap, f"{p}_conv1", self.features, 3, self.stride)
        y = nn.relu(batch_norm(y, tap, f"{p}_bn1"))
        y = conv(y, tap, f"{p}_conv2", self.features)
        y = batch_norm(y, tap, f"{p}_bn2")
        return activation(y + _shortcut(x, tap, p, self.features, self.stride), tap, str(p))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 to four times the width, added as in `BasicUnit`."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, H, W, C] -> [B, H / stride, W / stride, 4 * features]``."""
        p, width = self.name, self.features
        y = conv(x, tap, f"{p}_conv1", width, 1)
        y = nn.relu(batch_norm(y, tap, f"{p}_bn1"))
        y = conv(y, tap, f"{p}_conv2", width, 3, self.stride)
        y = nn.relu(batch_norm(y, tap, f"{p}_bn2"))
        y = conv(y, tap, f"{p}_conv3", 4 * width, 1)
        y = batch_norm(y, tap, f"{p}_bn3")
        return activation(y + _shortcut(x, tap, p, 4 * width, self.stride), tap, str(p))


def _shortcut(x: jax.Array, tap: Tap, prefix: str | None, features: int, stride: int) -> jax.Array:
    if stride == 1 and x.shape[-1] == features:
        return x
    x = conv(x, tap, f"{prefix}_downsample_0", features, 1, stride)
    return batch_norm(x, tap, f"{prefix}_downsample_1")


def resnet(units: tuple[int, ...], contract: Contract, bottleneck: bool = False) -> Chain:
    """Builds a ResNet without classifier.

    Args:
      units: residual units in each of the four stages.
      contract: input contract.
      bottleneck: whether units have three convolutions (depth 50 and more).
    """
    blocks = [BlockDef("maxpool", Stem)]
    cls = Bottleneck if bottleneck else BasicUnit
    for stage, count in enumerate(units, start=1):
        for unit in range(count):
            stride = 2 if unit == 0 and stage > 1 else 1
            fields = {"features": 32 * 2**stage, "stride": stride}
            blocks.append(BlockDef(f"layer{stage}_{unit}", cls, fields))
    return Chain(tuple(blocks), contract)
