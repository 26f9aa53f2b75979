"""SqueezeNet 1.1 (Iandola et al., arXiv:1602.07360; version 1.1 of its authors' Caffe model).

Layer names are those of keras-squeezenet and Caffe with ``_`` for ``/``: ``fire2/concat`` there
is ``fire2_concat`` here. A block is a fire module (``fire9_concat``), a pooling (``pool5``) or
the first convolution (``relu_conv1``). As in Caffe, whose ReLUs work in place, the name of a
convolution means its output after the ReLU: ``conv1`` and ``relu_conv1`` are the same.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlflax.backbones.chain import BlockDef, Chain, Tap
from tlflax.backbones.layers import activation, conv, max_pool
from tlflax.backbones.spec import Contract

# Fire modules 2 to 9: channels of the 1x1 squeeze; each of the two expansions has four times as
# many. A pooling stands before the modules of _POOLED.
_SQUEEZED = {2: 16, 3: 16, 4: 32, 5: 32, 6: 48, 7: 48, 8: 64, 9: 64}
_POOLED = {2: "pool1", 4: "pool3", 6: "pool5"}


def _conv_relu(
    x: jax.Array, tap: Tap, prefix: str, name: str, features: int, kernel: int, *window
) -> jax.Array:
    """Convolution with bias and ReLU, marked under the names of both."""
    # conv() marks the linear output, which has no name of its own here.
    x = conv(x, Tap(None, None), f"{prefix}{name}", features, kernel, *window, bias=True)
    return tap(f"{prefix}relu_{name}", activation(x, tap, f"{prefix}{name}"))


class Stem(nn.Module):
    """3x3 convolution with stride 2 and ReLU."""

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, H, W, 3] -> [B, (H - 1) // 2, (W - 1) // 2, 64]``."""
        return _conv_relu(x, tap, "", "conv1", 64, 3, 2, "VALID")


class Pool(nn.Module):
    """3x3 max pooling with stride 2."""

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, H, W, C] -> [B, (H - 1) // 2, (W - 1) // 2, C]``."""
        assert self.name is not None
        return max_pool(x, tap, self.name, window=3)


class Fire(nn.Module):
    """Squeeze (1x1), then expand by 1x1 and by 3x3, side by side; ReLU after each."""

    prefix: str
    squeezed: int

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, H, W, C] -> [B, H, W, 8 * squeezed]``."""
        p, expanded = f"{self.prefix}_", 4 * self.squeezed
        x = _conv_relu(x, tap, p, "squeeze1x1", self.squeezed, 1)
        small = _conv_relu(x, tap, p, "expand1x1", expanded, 1)
        large = _conv_relu(x, tap, p, "expand3x3", expanded, 3)
        return tap(f"{p}concat", jnp.concatenate([small, large], axis=-1))


def squeezenet(contract: Contract) -> Chain:
    """Builds SqueezeNet 1.1 without classifier.

    Args:
      contract: input contract.
    """
    blocks = [BlockDef("relu_conv1", Stem)]
    for index, squeezed in _SQUEEZED.items():
        if index in _POOLED:
            blocks.append(BlockDef(_POOLED[index], Pool))
        fields = {"prefix": f"fire{index}", "squeezed": squeezed}
        blocks.append(BlockDef(f"fire{index}_concat", Fire, fields))
    return Chain(tuple(blocks), contract)
