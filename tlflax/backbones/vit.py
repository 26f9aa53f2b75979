"""Vision transformers (Dosovitskiy et al., arXiv:2010.11929) as timm and torchvision have them.

Endpoints: ``pos_embed`` (patches and class token with their positions, ``[B, 1 + N, C]``),
``blocks_0`` ..., ``norm`` (all tokens), and ``cls_token`` (``[B, C]``): the class token alone,
the features below the classifier.

Weights belong to one grid of patches. At another image size their positions are resampled as
timm does it (bicubic, antialiased); a size that is no multiple of the patch is refused, because
pixels at the edge would not be seen.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlflax.backbones.chain import BlockDef, Chain, Tap
from tlflax.backbones.spec import Contract
from tlflax.backbones.torch_layers import layer_norm, linear, patches, perceptron
from tlflax.errors import ConfigError


class Embedding(nn.Module):
    """Learned vectors that do not depend on the input."""

    shape: tuple[int, ...]

    @nn.compact
    def __call__(self) -> jax.Array:
        """The vectors."""
        init = nn.initializers.truncated_normal(0.02)  # as in the paper; from scratch only
        return self.param("embedding", init, self.shape, jnp.float32)


def resample(positions: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Position vectors ``[1, 1 + N, C]`` of a square grid, the class token's first, for ``grid``.

    jax's cubic kernel (Keys, a = -0.5) with antialiasing is what torch uses when it antialiases.
    """
    side = round((positions.shape[1] - 1) ** 0.5)
    if grid == (side, side):
        return positions
    token, rest = positions[:, :1], positions[:, 1:]
    rest = rest.reshape(1, side, side, -1)
    rest = jax.image.resize(rest, (1, *grid, rest.shape[-1]), "bicubic", antialias=True)
    return jnp.concatenate([token, rest.reshape(1, grid[0] * grid[1], -1)], axis=1)


class Embed(nn.Module):
    """Patches to vectors, class token in front, positions added.

    Attributes:
      features: width of the vectors.
      patch: side of a patch in pixels.
      grid: patches along a side for which there are positions.
    """

    features: int
    patch: int
    grid: int

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, H, W, 3] -> [B, 1 + H / patch * W / patch, features]``."""
        for side in x.shape[1:3]:
            if side % self.patch:
                lower = side // self.patch * self.patch
                near = f"{lower} or " if lower else ""
                raise ConfigError(
                    f"image size {side} is no multiple of the transformer's patch of {self.patch} "
                    f"pixels; use {near}{lower + self.patch}"
                )
        x = patches(x, tap, "patch_embed_proj", self.features, self.patch)
        batch, grid = x.shape[0], (x.shape[1], x.shape[2])
        x = x.reshape(batch, -1, self.features)
        token = Embedding((1, 1, self.features), name="cls_token")()
        positions = Embedding((1, 1 + self.grid**2, self.features), name="pos_embed")()
        x = jnp.concatenate([jnp.broadcast_to(token, (batch, 1, self.features)), x], axis=1)
        return tap("pos_embed", x + resample(positions, grid))


class Block(nn.Module):
    """Self-attention, then two linear layers, each normalised before and added to its input."""

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, N, C] -> [B, N, C]``."""
        p = str(self.name)
        x = x + self.attention(layer_norm(x, tap, f"{p}_norm1"), tap)
        y = perceptron(layer_norm(x, tap, f"{p}_norm2"), tap, p, 4 * x.shape[-1])
        return tap(p, x + y)

    def attention(self, x: jax.Array, tap: Tap) -> jax.Array:
        """Softmax attention of every token to every token, ``heads`` times side by side."""
        batch, tokens, width = x.shape
        each = width // self.heads
        qkv = linear(x, tap, f"{self.name}_attn_qkv", 3 * width)
        qkv = qkv.reshape(batch, tokens, 3, self.heads, each)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        weights = nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q * each**-0.5, k))
        y = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(batch, tokens, width)
        return linear(y, tap, f"{self.name}_attn_proj", width)


class Norm(nn.Module):
    """LayerNorm of all tokens."""

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, N, C] -> [B, N, C]``."""
        return layer_norm(x, tap, "norm")


class ClassToken(nn.Module):
    """The class token alone."""

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, N, C] -> [B, C]``."""
        return tap("cls_token", x[:, 0])


def vit(width: int, heads: int, contract: Contract) -> Chain:
    """Builds a vision transformer of 12 blocks on 16-pixel patches, without classifier.

    Args:
      width: of the token vectors.
      heads: of the attention.
      contract: input contract.
    """
    embed = {"features": width, "patch": 16, "grid": 14}
    blocks = [BlockDef("pos_embed", Embed, embed)]
    blocks += [BlockDef(f"blocks_{i}", Block, {"heads": heads}) for i in range(12)]
    blocks += [BlockDef("norm", Norm), BlockDef("cls_token", ClassToken)]
    return Chain(tuple(blocks), contract)
