"""Layers as torchvision and timm have them: symmetric padding, exact GELU, LayerNorm, attention.

Each marks its output under its name, which is the module's path in timm (or, for the ResNets, in
torchvision) with underscores. As in timm, a normalisation that is followed by an activation is
marked after it in the networks that timm builds so.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlflax.backbones import layers
from tlflax.backbones.chain import Tap
from tlflax.ops.depthwise import depthwise_conv

# Defaults of torch.nn.BatchNorm2d; torch's momentum 0.1 is the share of the *new* value.
_EPSILON, _MOMENTUM = 1e-5, 0.9
# Both the ViT and the ConvNeXt authors set it; torch's own default is 1e-5.
_LAYER_NORM_EPSILON = 1e-6

Activation = Callable[[jax.Array], jax.Array]


def gelu(x: jax.Array) -> jax.Array:
    """GELU by the error function, not by the tanh approximation."""
    return nn.gelu(x, approximate=False)


def conv(
    x: jax.Array,
    tap: Tap,
    name: str,
    features: int,
    kernel: int = 3,
    stride: int = 1,
    bias: bool = False,
) -> jax.Array:
    """Convolution padded by ``(kernel - 1) // 2`` on all sides, whatever the stride and parity."""
    p = (kernel - 1) // 2
    return layers.conv(x, tap, name, features, kernel, stride, ((p, p), (p, p)), bias)


def patches(x: jax.Array, tap: Tap, name: str, features: int, side: int) -> jax.Array:
    """One vector per ``side x side`` pixels; a remainder at the edge is not seen, as in torch."""
    return layers.conv(x, tap, name, features, side, side, "VALID", bias=True)


class BiasedDepthwise(nn.Module):
    """Depthwise convolution with bias; kernel stored ``[k, k, 1, channels]``."""

    kernel: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[B, H, W, C] -> [B, H, W, C]``; symmetric padding and SAME are one for odd kernels."""
        shape = (self.kernel, self.kernel, 1, x.shape[-1])
        w = self.param("kernel", layers.kernel_init, shape, jnp.float32)
        b = self.param("bias", nn.initializers.zeros, shape[-1:], jnp.float32)
        # jax types a custom_vjp function by its own generics; it returns an array.
        y: Any = depthwise_conv(x, w, 1, "SAME")
        return y + b


def depthwise(x: jax.Array, tap: Tap, name: str, kernel: int, stride: int) -> jax.Array:
    """Depthwise convolution without bias, padded as `conv`."""
    p = (kernel - 1) // 2
    x = jnp.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))
    return layers.depthwise(x, tap, name, kernel, stride, "VALID")


def batch_norm(x: jax.Array, tap: Tap, name: str, activation: Activation | None = None):
    """Batch normalisation with torch's constants, marked behind its activation if it has one."""
    if activation is None:
        return layers.batch_norm(x, tap, name, _EPSILON, _MOMENTUM)
    silent = Tap(None, None)
    silent.live = tap.live
    return tap(name, activation(layers.batch_norm(x, silent, name, _EPSILON, _MOMENTUM)))


def layer_norm(x: jax.Array, tap: Tap, name: str) -> jax.Array:
    """Normalisation of each position over its channels."""
    # The fast variance (mean of squares minus squared mean) loses digits that torch keeps.
    return tap(name, nn.LayerNorm(_LAYER_NORM_EPSILON, use_fast_variance=False, name=name)(x))


def linear(x: jax.Array, tap: Tap, name: str, features: int) -> jax.Array:
    """Matrix product over the last axis, kernel stored ``[in, out]``."""
    return tap(name, nn.Dense(features, name=name)(x))


def perceptron(x: jax.Array, tap: Tap, prefix: str, hidden: int) -> jax.Array:
    """Two linear layers with GELU between."""
    y = linear(x, tap, f"{prefix}_mlp_fc1", hidden)
    y = tap(f"{prefix}_mlp_act", gelu(y))
    return linear(y, tap, f"{prefix}_mlp_fc2", x.shape[-1])


class Scale(nn.Module):
    """A learned factor per channel (LayerScale)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[..., C] -> [..., C]``."""
        # 1e-6 as published for ConvNeXt; only used from scratch.
        start = nn.initializers.constant(1e-6)
        return x * self.param("scale", start, x.shape[-1:], jnp.float32)


class InvertedResidual(nn.Module):
    """Expand (1x1), depthwise, optional gate, project (1x1, linear); added if shapes allow.

    Attributes:
      kernel: side of the depthwise kernel.
      expansion: factor of the expanded width; 1 for no expansion.
      features: channels of the output.
      stride: of the depthwise convolution.
      activation: after the first and the second normalisation.
      gated: whether there is squeeze and excitation, to a quarter of the *input's* channels.
    """

    kernel: int
    expansion: int
    features: int
    stride: int
    activation: Activation
    gated: bool

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, H, W, C] -> [B, H / stride, W / stride, features]``."""
        p, shortcut, norm, act = self.name, x, 1, self.activation
        if self.expansion != 1:
            x = conv(x, tap, f"{p}_conv_pw", self.expansion * x.shape[-1], 1)
            x = batch_norm(x, tap, f"{p}_bn1", act)
            norm = 2
        x = depthwise(x, tap, f"{p}_conv_dw", self.kernel, self.stride)
        x = batch_norm(x, tap, f"{p}_bn{norm}", act)
        if self.gated:
            gate = jnp.mean(x, axis=(1, 2), keepdims=True)
            squeezed = max(1, shortcut.shape[-1] // 4)
            gate = act(conv(gate, tap, f"{p}_se_conv_reduce", squeezed, 1, bias=True))
            gate = conv(gate, tap, f"{p}_se_conv_expand", x.shape[-1], 1, bias=True)
            x = tap(f"{p}_se", x * nn.sigmoid(gate))
        # timm calls the linear convolution pwl, but pw where nothing was expanded.
        x = conv(x, tap, f"{p}_conv_{'pw' if self.expansion == 1 else 'pwl'}", self.features, 1)
        x = batch_norm(x, tap, f"{p}_bn{norm + 1}")
        if self.stride == 1 and shortcut.shape[-1] == self.features:
            x = x + shortcut
        return tap(str(p), x)


class ConvNorm(nn.Module):
    """Convolution, BatchNorm, activation: the first and the last block, named after its norm."""

    conv_name: str
    features: int
    kernel: int
    stride: int
    activation: Activation

    @nn.compact
    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        """``[B, H, W, C] -> [B, H / stride, W / stride, features]``."""
        x = conv(x, tap, self.conv_name, self.features, self.kernel, self.stride)
        return batch_norm(x, tap, str(self.name), self.activation)
