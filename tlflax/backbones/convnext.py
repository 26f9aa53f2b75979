"""ConvNeXt (Liu et al., arXiv:2201.03545) as timm and torchvision have it.

A block is ``stages_STAGE_UNIT`` (timm's ``stages.STAGE.blocks.UNIT``), between the stages
``stages_STAGE_downsample``. The last block, ``head_norm``, is the mean over the map, normalised:
the features below the classifier.
"""

import flax.linen as nn
import jax

from tlflax.backbones.chain import BlockDef, Chain, Tap
from tlflax.backbones.spec import Contract
from tlflax.backbones.torch_layers import (
    BiasedDepthwise,
    Scale,
    layer_norm,
    patches,
    perceptron,
)


class Stem(nn.Module):
    """4x4 patches to vectors, normalised."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, H, W, 3] -> [B, H / 4, W / 4, features]``."""
        x = patches(x, tap, "stem_0", self.features, 4)
        return tap("stem", layer_norm(x, tap, "stem_1"))


class Downsample(nn.Module):
    """Normalisation, then 2x2 patches to vectors."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, H, W, C] -> [B, H / 2, W / 2, features]``."""
        x = layer_norm(x, tap, f"{self.name}_0")
        return tap(str(self.name), patches(x, tap, f"{self.name}_1", self.features, 2))


class Unit(nn.Module):
    """Depthwise 7x7, LayerNorm, two linear layers, a factor per channel; added to the input."""

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, H, W, C] -> [B, H, W, C]``."""
        p = self.name
        y = BiasedDepthwise(7, name=f"{p}_conv_dw")(x)
        y = layer_norm(tap(f"{p}_conv_dw", y), tap, f"{p}_norm")
        y = perceptron(y, tap, str(p), 4 * x.shape[-1])
        y = tap(f"{p}_gamma", Scale(name=f"{p}_gamma")(y))
        return tap(str(p), x + y)


class PooledNorm(nn.Module):
    """Mean over the map, then LayerNorm."""

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, H, W, C] -> [B, C]``."""
        return layer_norm(x.mean(axis=(1, 2)), tap, "head_norm")


def convnext(depths: tuple[int, ...], widths: tuple[int, ...], contract: Contract) -> Chain:
    """Builds a ConvNeXt without classifier.

    Args:
      depths: units in each stage.
      widths: channels in each stage.
      contract: input contract.
    """
    blocks = [BlockDef("stem", Stem, {"features": widths[0]})]
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        if stage:
            blocks.append(BlockDef(f"stages_{stage}_downsample", Downsample, {"features": width}))
        blocks += [BlockDef(f"stages_{stage}_{unit}", Unit) for unit in range(depth)]
    blocks.append(BlockDef("head_norm", PooledNorm))
    return Chain(tuple(blocks), contract)
