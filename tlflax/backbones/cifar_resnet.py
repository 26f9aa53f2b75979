"""The CIFAR-10 ResNets of 6n+2 layers (He et al., arXiv:1512.03385, section 4.2).

As in github.com/akamaster/pytorch_resnet_cifar10, whose weights they take: shortcuts without
parameters ("option A"). The published files are whole classifiers; theirs are the last two
blocks here, ``avg_pool`` and ``linear`` (ten logits).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlflax.backbones.chain import BlockDef, Chain, Tap
from tlflax.backbones.layers import activation
from tlflax.backbones.spec import Contract
from tlflax.backbones.torch_layers import batch_norm, conv, linear

CLASSES = 10


class Stem(nn.Module):
    """3x3 convolution, BatchNorm, ReLU."""

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, H, W, 3] -> [B, H, W, 16]``."""
        x = conv(x, tap, "conv1", 16)
        return activation(batch_norm(x, tap, "bn1"), tap, "relu")


class Unit(nn.Module):
    """Two 3x3 convolutions added to the input, which is subsampled where they are; then ReLU."""

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
        if self.stride != 1:
            # The new channels are zeros, half of them before the old ones.
            new = (self.features - x.shape[-1]) // 2
            x = x[:, :: self.stride, :: self.stride]
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (new, new)))
        return activation(y + x, tap, str(p))


class Pool(nn.Module):
    """Mean over the map."""

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, H, W, C] -> [B, C]``."""
        return tap("avg_pool", x.mean(axis=(1, 2)))


class Classifier(nn.Module):
    """The published network's own logits."""

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, C] -> [B, 10]``."""
        return linear(x, tap, "linear", CLASSES)


def cifar_resnet(units: int, contract: Contract) -> Chain:
    """Builds a CIFAR ResNet with its classifier.

    Args:
      units: residual units in each of the three stages (n of 6n+2).
      contract: input contract.
    """
    blocks = [BlockDef("relu", Stem)]
    for stage in (1, 2, 3):
        for unit in range(units):
            fields = {"features": 8 * 2**stage, "stride": 2 if unit == 0 and stage > 1 else 1}
            blocks.append(BlockDef(f"layer{stage}_{unit}", Unit, fields))
    blocks += [BlockDef("avg_pool", Pool), BlockDef("linear", Classifier)]
    return Chain(tuple(blocks), contract)
