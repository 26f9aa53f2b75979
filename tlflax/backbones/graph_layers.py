"""The layers of a user's own network: one function per kind of graph node.

``LAYERS[kind](name, options, inputs, live)`` computes a node inside an ``nn.compact`` method; its
parameters land under the node's name. Options are those of `tlflax.convert.keras_layers`,
semantics those of Keras at inference.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from tlflax.backbones.chain import Tap
from tlflax.backbones.graph_functions import FUNCTIONS
from tlflax.backbones.layers import kernel_init, max_pool
from tlflax.ops.conv import conv_general_dilated
from tlflax.ops.depthwise import depthwise_conv

Options = Mapping[str, Any]
Layer = Callable[[str, Options, Sequence[jax.Array], bool], jax.Array]

# Keras' lower bound of a standard deviation in Normalization.
_EPSILON = 1e-7


def _activate(x: jax.Array, options: Options) -> jax.Array:
    name, settings = options["activation"]
    return FUNCTIONS[name](x, **settings)


def _conv(name: str, o: Options, xs: Sequence[jax.Array], live: bool) -> jax.Array:
    layer = nn.Conv(
        o["features"],
        tuple(o["kernel"]),
        strides=tuple(o["strides"]),
        padding=o["padding"],
        kernel_dilation=tuple(o["dilation"]),
        feature_group_count=o["groups"],
        use_bias=o["bias"],
        kernel_init=kernel_init,
        conv_general_dilated=conv_general_dilated,
        name=name,
    )
    return _activate(layer(xs[0]), o)


class Depthwise(nn.Module):
    """Depthwise convolution, kernel ``[kh, kw, 1, channels * multiplier]``.

    Output channel ``c * multiplier + m`` is the m-th of input channel ``c``, as in Keras.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    padding: str
    multiplier: int
    bias: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[B, H, W, C] -> [B, H', W', C * multiplier]``."""
        channels = x.shape[-1]
        shape = (*self.kernel, 1, channels * self.multiplier)
        w = self.param("kernel", kernel_init, shape, jnp.float32)
        square = self.strides[0] == self.strides[1]
        if square and self.dilation == (1, 1) and self.multiplier == 1:
            # jax types a custom_vjp function by its own generics; it returns an array.
            y: Any = depthwise_conv(x, w, self.strides[0], self.padding)
        else:
            y = lax.conv_general_dilated(
                x,
                w,
                self.strides,
                self.padding,
                rhs_dilation=self.dilation,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=channels,
            )
        if self.bias:
            y = y + self.param("bias", nn.initializers.zeros, shape[-1:], jnp.float32)
        return y


def _window(o: Options) -> dict[str, Any]:
    pairs = {k: tuple(o[k]) for k in ("kernel", "strides", "dilation")}
    return pairs | {"padding": o["padding"], "multiplier": o["multiplier"]}


def _depthwise(name: str, o: Options, xs: Sequence[jax.Array], live: bool) -> jax.Array:
    return _activate(Depthwise(**_window(o), bias=o["bias"], name=name)(xs[0]), o)


class Separable(nn.Module):
    """Depthwise, then 1x1 convolution; ``options`` are those of the node, by attribute."""

    window: tuple[tuple[str, Any], ...]
    features: int
    bias: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[B, H, W, C] -> [B, H', W', features]``."""
        x = Depthwise(**dict(self.window), bias=False, name="depthwise")(x)
        # The bias stays with the pointwise half, whose output it is added to.
        pointwise = nn.Conv(
            self.features,
            (1, 1),
            use_bias=self.bias,
            kernel_init=kernel_init,
            conv_general_dilated=conv_general_dilated,
            name="pointwise",
        )
        return pointwise(x)


def _separable(name: str, o: Options, xs: Sequence[jax.Array], live: bool) -> jax.Array:
    window = tuple(_window(o).items())
    return _activate(Separable(window, o["features"], o["bias"], name=name)(xs[0]), o)


def _dense(name: str, o: Options, xs: Sequence[jax.Array], live: bool) -> jax.Array:
    return _activate(nn.Dense(o["features"], use_bias=o["bias"], name=name)(xs[0]), o)


def _batch_norm(name: str, o: Options, xs: Sequence[jax.Array], live: bool) -> jax.Array:
    layer = nn.BatchNorm(
        use_running_average=not live,
        epsilon=o["epsilon"],
        momentum=o["momentum"],
        use_scale=o["scale"],
        use_bias=o["bias"],
        axis=o["axes"][0],
        name=name,
    )
    return layer(xs[0])


def _layer_norm(name: str, o: Options, xs: Sequence[jax.Array], live: bool) -> jax.Array:
    layer = nn.LayerNorm(
        epsilon=o["epsilon"],
        use_scale=o["scale"],
        use_bias=o["bias"],
        reduction_axes=tuple(o["axes"]),
        feature_axes=tuple(o["axes"]),
        use_fast_variance=False,
        name=name,
    )
    return layer(xs[0])


def _group_norm(name: str, o: Options, xs: Sequence[jax.Array], live: bool) -> jax.Array:
    x = xs[0]
    layer = nn.GroupNorm(
        x.shape[-1] if o["groups"] == -1 else o["groups"],
        epsilon=o["epsilon"],
        use_scale=o["scale"],
        use_bias=o["bias"],
        use_fast_variance=False,
        name=name,
    )
    return layer(x)


def _max_pool(name: str, o: Options, xs: Sequence[jax.Array], live: bool) -> jax.Array:
    return max_pool(xs[0], Tap(None, None), name, o["pool"], o["strides"], o["padding"])


def _average_pool(name: str, o: Options, xs: Sequence[jax.Array], live: bool) -> jax.Array:
    size, strides = tuple(o["pool"]), tuple(o["strides"])
    # Keras averages over what is inside the image alone.
    y = nn.avg_pool(xs[0], size, strides, o["padding"], count_include_pad=False)
    # flax divides by float32 counts, which would lead out of bfloat16.
    return y.astype(xs[0].dtype)


def _prelu(name: str, o: Options, xs: Sequence[jax.Array], live: bool) -> jax.Array:
    return PRelu(tuple(o["shared_axes"]), name=name)(xs[0])


class PRelu(nn.Module):
    """A learned slope for negative values, one for all places along the shared axes."""

    shared_axes: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Same shape; axes count the batch as 0."""
        shape = [1 if i in self.shared_axes else n for i, n in enumerate(x.shape) if i]
        alpha = self.param("alpha", nn.initializers.zeros, tuple(shape), jnp.float32)
        return jnp.maximum(x, 0.0) + alpha * jnp.minimum(x, 0.0)


def _merge(function: Callable[[jax.Array, jax.Array], jax.Array]) -> Layer:
    def layer(name: str, o: Options, xs: Sequence[jax.Array], live: bool) -> jax.Array:
        rank = max(x.ndim for x in xs)
        # Keras puts missing axes behind the batch.
        full = [jnp.reshape(x, (x.shape[0], *(1,) * (rank - x.ndim), *x.shape[1:])) for x in xs]
        result = full[0]
        for x in full[1:]:
            result = function(result, x)
        return result

    return layer


def _average(name: str, o: Options, xs: Sequence[jax.Array], live: bool) -> jax.Array:
    return _merge(jnp.add)(name, o, xs, live) / len(xs)


def _pad(name: str, o: Options, xs: Sequence[jax.Array], live: bool) -> jax.Array:
    return jnp.pad(xs[0], ((0, 0), *map(tuple, o["borders"]), (0, 0)))


def _crop(name: str, o: Options, xs: Sequence[jax.Array], live: bool) -> jax.Array:
    (top, bottom), (left, right) = o["borders"]
    _, height, width, _ = xs[0].shape
    return xs[0][:, top : height - bottom, left : width - right]


def _center_crop(name: str, o: Options, xs: Sequence[jax.Array], live: bool) -> jax.Array:
    (height, width), (_, rows, columns, _) = o["size"], xs[0].shape
    top, left = (rows - height) // 2, (columns - width) // 2
    return xs[0][:, top : top + height, left : left + width]


def _resized(x: jax.Array, height: int, width: int, method: str) -> jax.Array:
    if (height, width) == x.shape[1:3]:
        return x
    shape = (x.shape[0], height, width, x.shape[3])
    return jax.image.resize(x, shape, method, antialias=False)


def _upsample(name: str, o: Options, xs: Sequence[jax.Array], live: bool) -> jax.Array:
    _, height, width, _ = xs[0].shape
    return _resized(xs[0], height * o["size"][0], width * o["size"][1], o["method"])


def _normalize(name: str, o: Options, xs: Sequence[jax.Array], live: bool) -> jax.Array:
    x, axes = xs[0], sorted(a % xs[0].ndim for a in o["axes"])
    shape = [n if i in axes else 1 for i, n in enumerate(x.shape)]
    mean, variance = (jnp.asarray(o[k], jnp.float32) for k in ("mean", "variance"))
    if mean.ndim == len(axes) and mean.size == math.prod(shape):
        mean, variance = mean.reshape(shape), variance.reshape(shape)
    deviation = jnp.maximum(jnp.sqrt(variance), _EPSILON)
    y = mean + x * deviation if o["invert"] else (x - mean) / deviation
    # The constants are float32: a bfloat16 network must not go on in float32 from here.
    return y.astype(x.dtype)


def _rescale(name: str, o: Options, xs: Sequence[jax.Array], live: bool) -> jax.Array:
    scale, offset = (jnp.asarray(o[k], jnp.float32) for k in ("scale", "offset"))
    return (xs[0] * scale + offset).astype(xs[0].dtype)


LAYERS: dict[str, Layer] = {
    "conv": _conv,
    "depthwise_conv": _depthwise,
    "separable_conv": _separable,
    "dense": _dense,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "max_pool": _max_pool,
    "average_pool": _average_pool,
    "global_average_pool": lambda n, o, xs, _: xs[0].mean((1, 2), keepdims=o["keepdims"]),
    "global_max_pool": lambda n, o, xs, _: xs[0].max((1, 2), keepdims=o["keepdims"]),
    "flatten": lambda n, o, xs, _: xs[0].reshape(xs[0].shape[0], -1),
    "reshape": lambda n, o, xs, _: xs[0].reshape(xs[0].shape[0], *o["shape"]),
    "permute": lambda n, o, xs, _: jnp.transpose(xs[0], (0, *o["dims"])),
    "identity": lambda n, o, xs, _: xs[0],
    "activation": lambda n, o, xs, _: _activate(xs[0], o),
    "prelu": _prelu,
    "add": _merge(jnp.add),
    "subtract": _merge(jnp.subtract),
    "multiply": _merge(jnp.multiply),
    "average": _average,
    "maximum": _merge(jnp.maximum),
    "minimum": _merge(jnp.minimum),
    "concatenate": lambda n, o, xs, _: jnp.concatenate(xs, o["axis"]),
    "zero_pad": _pad,
    "crop": _crop,
    "center_crop": _center_crop,
    "upsample": _upsample,
    "resize": lambda n, o, xs, _: _resized(xs[0], o["size"][0], o["size"][1], o["method"]),
    "rescale": _rescale,
    "normalize": _normalize,
}
