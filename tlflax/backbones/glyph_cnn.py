"""The small CNN of the quickstart: 32x32 grey glyphs, three blocks of two 3x3 convolutions."""

import flax.linen as nn
import jax

from tlflax.backbones.chain import BlockDef, Chain, Tap
from tlflax.backbones.layers import activation, batch_norm, conv, max_pool
from tlflax.backbones.spec import Contract


class ConvBlock(nn.Module):
    """Two times convolution, BatchNorm, ReLU; then 2x2 max pooling."""

    prefix: str
    features: int

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, H, W, C] -> [B, H / 2, W / 2, features]``."""
        for i in (1, 2):
            x = conv(x, tap, f"{self.prefix}_conv{i}", self.features)
            x = batch_norm(x, tap, f"{self.prefix}_bn{i}", epsilon=1e-5, momentum=0.9)
            x = activation(x, tap, f"{self.prefix}_relu{i}")
        return max_pool(x, tap, f"{self.prefix}_pool")


def glyph_cnn(widths: tuple[int, ...], contract: Contract) -> Chain:
    """Builds the chain; one block per width."""
    blocks = (
        BlockDef(f"block{i}_pool", ConvBlock, {"prefix": f"block{i}", "features": width})
        for i, width in enumerate(widths, start=1)
    )
    return Chain(tuple(blocks), contract)
