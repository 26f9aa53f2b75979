"""InceptionV3 (Szegedy et al., arXiv:1512.00567), Keras block names.

The blocks are Keras' ``mixed0`` .. ``mixed10`` and, before them, the stem. Keras leaves the names
of the 94 convolutions to a counter that depends on what was built before (``conv2d_60`` in one
session is ``conv2d_154`` in another); here they are called by block and branch, as the variables
in Keras' own source are: ``mixed7_branch7x7_2_conv``, ``.._bn``, ``.._relu``. They come in the
order in which Keras creates them, and by that order weights find their layers
(`tlflax.convert.rules.by_count`).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from tlflax.backbones.chain import BlockDef, Chain, Tap
from tlflax.backbones.layers import activation, batch_norm, conv, max_pool
from tlflax.backbones.spec import Contract

Kernel = int | tuple[int, int]

# Keras' defaults, which its InceptionV3 leaves as they are.
_EPSILON, _MOMENTUM = 1e-3, 0.99


def unit(
    x: jax.Array,
    tap: Tap,
    name: str,
    features: int,
    kernel: Kernel,
    stride: int = 1,
    padding: str = "SAME",
) -> jax.Array:
    """Convolution, BatchNorm without scale (the next kernel can take it over), ReLU."""
    x = conv(x, tap, f"{name}_conv", features, kernel, stride, padding)
    x = batch_norm(x, tap, f"{name}_bn", epsilon=_EPSILON, momentum=_MOMENTUM, scale=False)
    return activation(x, tap, f"{name}_relu")


def units(x: jax.Array, tap: Tap, name: str, *steps: tuple[int, Kernel]) -> jax.Array:
    """A branch of units ``(features, kernel)`` called ``name_1``, ``name_2``, ..."""
    for i, (features, kernel) in enumerate(steps, start=1):
        x = unit(x, tap, f"{name}_{i}", features, kernel)
    return x


def _sum_3x3(x: jax.Array) -> jax.Array:
    """Sums over 3x3 windows with zeros around ``[B, H, W, C]``, one axis after the other."""
    for axis in (1, 2):
        edges = [(1, 1, 0) if a == axis else (0, 0, 0) for a in range(4)]
        padded, size = lax.pad(x, x.dtype.type(0), edges), x.shape[axis]
        first, middle, last = (lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(3))
        x = first + middle + last
    return x


def _share(x: jax.Array) -> jax.Array:
    """One over the number of a window's pixels inside the map, ``[1, H, W, 1]``."""
    return 1 / _sum_3x3(jnp.ones((1, *x.shape[1:3], 1), x.dtype))


@jax.custom_vjp
def mean_3x3(x: jax.Array) -> jax.Array:
    """3x3 average with stride 1 over ``[B, H, W, C]``; at the border, of what lies inside.

    Shifted sums instead of a window reduction: two to four times faster on CPU, forward and,
    since a sum of neighbours is its own transpose, backward.
    """
    return _sum_3x3(x) * _share(x)


mean_3x3.defvjp(lambda x: (mean_3x3(x), None), lambda _, g: (_sum_3x3(g * _share(g)),))


class StemUnit(nn.Module):
    """One unit of the stem; the block is called ``prefix_relu``."""

    prefix: str
    features: int
    kernel: int
    stride: int = 1
    padding: str = "VALID"

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, H, W, C] -> [B, H', W', features]``."""
        return unit(x, tap, self.prefix, self.features, self.kernel, self.stride, self.padding)


class StemPool(nn.Module):
    """3x3 max pooling with stride 2."""

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, H, W, C] -> [B, (H - 1) // 2, (W - 1) // 2, C]``."""
        assert self.name is not None
        return max_pool(x, tap, self.name, window=3)


class Mixed(nn.Module):
    """Common parts of the inception modules; a subclass lists the branches in Keras' order."""

    def branch(self, kind: str) -> str:
        """Layer prefix of a branch, e.g. ``mixed7_branch7x7``."""
        return f"{self.name}_branch{kind}"

    def pooled(self, x: jax.Array, tap: Tap, features: int) -> jax.Array:
        """The branch of average pooling and 1x1 convolution."""
        x = tap(self.branch("_pool_mean"), mean_3x3(x))
        return unit(x, tap, self.branch("_pool"), features, 1)

    def joined(self, tap: Tap, *branches: jax.Array) -> jax.Array:
        """Concatenation along the channels, under the block's own name."""
        assert self.name is not None
        return tap(self.name, jnp.concatenate(branches, axis=-1))


class Mixed35(Mixed):
    """``mixed0`` .. ``mixed2``: 1x1, 5x5, two 3x3, pool; 35x35 for images of 299 pixels."""

    pool: int

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, H, W, C] -> [B, H, W, 224 + pool]``."""
        a = unit(x, tap, self.branch("1x1"), 64, 1)
        b = units(x, tap, self.branch("5x5"), (48, 1), (64, 5))
        c = units(x, tap, self.branch("3x3dbl"), (64, 1), (96, 3), (96, 3))
        return self.joined(tap, a, b, c, self.pooled(x, tap, self.pool))


class Reduce17(Mixed):
    """``mixed3``: halves the map."""

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, H, W, C] -> [B, (H - 1) // 2, (W - 1) // 2, C + 480]``."""
        a = unit(x, tap, self.branch("3x3"), 384, 3, 2, "VALID")
        b = units(x, tap, self.branch("3x3dbl"), (64, 1), (96, 3))
        b = unit(b, tap, self.branch("3x3dbl_3"), 96, 3, 2, "VALID")
        pool = max_pool(x, tap, self.branch("_pool_max"), window=3)
        return self.joined(tap, a, b, pool)


class Mixed17(Mixed):
    """``mixed4`` .. ``mixed7``: 1x1, 7x7 and two 7x7 as 1x7 and 7x1, pool; ``inner`` channels."""

    inner: int

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, H, W, 768] -> [B, H, W, 768]``."""
        n, wide, tall = self.inner, (1, 7), (7, 1)
        a = unit(x, tap, self.branch("1x1"), 192, 1)
        b = units(x, tap, self.branch("7x7"), (n, 1), (n, wide), (192, tall))
        steps = ((n, 1), (n, tall), (n, wide), (n, tall), (192, wide))
        c = units(x, tap, self.branch("7x7dbl"), *steps)
        return self.joined(tap, a, b, c, self.pooled(x, tap, 192))


class Reduce8(Mixed):
    """``mixed8``: halves the map."""

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, H, W, 768] -> [B, (H - 1) // 2, (W - 1) // 2, 1280]``."""
        a = units(x, tap, self.branch("3x3"), (192, 1))
        a = unit(a, tap, self.branch("3x3_2"), 320, 3, 2, "VALID")
        b = units(x, tap, self.branch("7x7x3"), (192, 1), (192, (1, 7)), (192, (7, 1)))
        b = unit(b, tap, self.branch("7x7x3_4"), 192, 3, 2, "VALID")
        pool = max_pool(x, tap, self.branch("_pool_max"), window=3)
        return self.joined(tap, a, b, pool)


class Mixed8(Mixed):
    """``mixed9`` and ``mixed10``: branches that end in 1x3 beside 3x1.

    Keras calls the inner concatenations ``mixed9_0`` (in ``mixed9``) and ``mixed9_1`` (in
    ``mixed10``); the other one of each block has no name there.
    """

    inner_name: str

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, H, W, C] -> [B, H, W, 2048]``."""
        a = unit(x, tap, self.branch("1x1"), 320, 1)
        b = units(x, tap, self.branch("3x3"), (384, 1))
        b = self.fork(b, tap, self.branch("3x3_2"), self.inner_name)
        c = units(x, tap, self.branch("3x3dbl"), (448, 1), (384, 3))
        c = self.fork(c, tap, self.branch("3x3dbl_3"), self.branch("3x3dbl"))
        return self.joined(tap, a, b, c, self.pooled(x, tap, 192))

    def fork(self, x: jax.Array, tap: Tap, name: str, joined: str) -> jax.Array:
        """1x3 beside 3x1, concatenated."""
        wide = unit(x, tap, f"{name}_1x3", 384, (1, 3))
        tall = unit(x, tap, f"{name}_3x1", 384, (3, 1))
        return tap(joined, jnp.concatenate([wide, tall], axis=-1))


def inception_v3(contract: Contract) -> Chain:
    """Builds InceptionV3 without classifier.

    Args:
      contract: input contract.
    """
    stem: list[tuple[int, int, dict]] = [
        (32, 3, {"stride": 2}),
        (32, 3, {}),
        (64, 3, {"padding": "SAME"}),
        (80, 1, {}),
        (192, 3, {}),
    ]
    blocks = []
    for i, (features, kernel, more) in enumerate(stem, start=1):
        fields = {"prefix": f"stem{i}", "features": features, "kernel": kernel} | more
        blocks.append(BlockDef(f"stem{i}_relu", StemUnit, fields))
        if i in (3, 5):
            blocks.append(BlockDef(f"stem{i}_pool", StemPool))
    mixed = [(Mixed35, {"pool": pool}) for pool in (32, 64, 64)]
    mixed += [(Reduce17, {})] + [(Mixed17, {"inner": n}) for n in (128, 160, 160, 192)]
    mixed += [(Reduce8, {})] + [(Mixed8, {"inner_name": n}) for n in ("mixed9_0", "mixed9_1")]
    blocks += [BlockDef(f"mixed{i}", cls, fields) for i, (cls, fields) in enumerate(mixed)]
    return Chain(tuple(blocks), contract)
