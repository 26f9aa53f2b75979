"""One Keras layer's configuration -> kind and options of a graph node (see `backbones.graph`).

Only what is listed here is understood; nothing in a configuration is ever executed.
"""

from collections.abc import Callable
from typing import Any

from tlflax.convert.keras_activations import (
    FUNCTIONS,
    Config,
    Translated,
    activation,
    axes,
    number,
)
from tlflax.errors import ConvertError, listing, suggest

# Training-time layers, which pass their input on at inference.
IDENTITY = frozenset(
    "Dropout SpatialDropout2D SpatialDropout1D GaussianNoise GaussianDropout AlphaDropout "
    "ActivityRegularization RandomFlip RandomRotation RandomZoom RandomTranslation RandomContrast "
    "RandomBrightness RandomHeight RandomWidth RandomShear RandomHue RandomSaturation "
    "RandomSharpness RandomColorJitter RandomColorDegeneration RandomGaussianBlur RandomErasing "
    "RandomPerspective RandomElasticTransform RandomGrayscale RandomInvert RandomPosterization "
    "RandAugment AugMix MixUp CutMix".split()
)
# Layers in which users write code of their own.
_CODE = frozenset({"Lambda", "TFOpLambda", "SlicingOpLambda", "ClassMethod", "TensorFlowOpLayer"})

# Keras 1 -> 2 names of options.
_RENAMED = {"nb_filter": "filters", "border_mode": "padding", "subsample": "strides"}
_RENAMED |= {"bias": "use_bias", "output_dim": "units", "dim_ordering": "data_format"}
_ORDERINGS = {"tf": "channels_last", "th": "channels_first"}


def translate(name: str, class_name: str, config: Config, version: str = "") -> Translated:
    """Kind and options of a layer.

    Args:
      name: layer name, for messages.
      class_name: Keras class.
      config: its configuration.
      version: Keras version that wrote the file.

    Raises:
      ConvertError: a layer, or an option of one, that has no equivalent here.
    """
    config = {_RENAMED.get(k, k): v for k, v in config.items()}
    if "nb_row" in config:
        config["kernel_size"] = [config["nb_row"], config["nb_col"]]
    order = config.get("data_format")
    if _ORDERINGS.get(str(order), order) == "channels_first":
        raise ConvertError(
            f"layer {name!r} ({class_name}) has data_format channels_first; save the model with "
            "channels_last, the order of every network here"
        )
    if class_name in IDENTITY:
        return "identity", {}
    if class_name not in _LAYERS:
        raise ConvertError(_refusal(name, class_name, config))
    old = version.split(".")[0] in ("1", "2")
    try:
        kind, options = _LAYERS[class_name](config)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConvertError(
            f"layer {name!r} ({class_name}): its configuration is not as Keras writes it "
            f"({type(error).__name__}: {error})"
        ) from error
    except ConvertError as error:
        raise ConvertError(f"layer {name!r} ({class_name}): {error}") from error
    function = options.get("activation", ["linear", {}])
    if old and function[0] in ("hard_sigmoid", "hard_silu"):
        # Keras 3 changed it from clip(0.2 x + 0.5) to relu6(x + 3) / 6.
        options["activation"] = [f"{function[0]}_2", {}]
    return kind, options


def _refusal(name: str, class_name: str, config: Config) -> str:
    if class_name in _CODE:
        # TFOpLambda records which function it calls.
        function = config.get("function")
        what = f" ({function})" if isinstance(function, str) and len(function) < 80 else ""
        return (
            f"layer {name!r} is a {class_name}{what}: code in a model file is never executed. "
            "Build the model with a Keras layer in its place (Rescaling, Normalization, "
            "Activation, Add, ...), copy the weights with set_weights, and save that"
        )
    near = suggest(class_name, _LAYERS)
    return (
        f"layer {name!r} is of class {class_name}, which has no equivalent here{near}; save the "
        f"part of the model before it, or build it from {listing(sorted(_LAYERS), 6)}"
    )


def _pair(value: Any) -> list[int]:
    pair = [value, value] if isinstance(value, int) else [int(v) for v in value]
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"{value} is no pair of sizes")
    return pair


def _padding(config: Config) -> str:
    padding = config.get("padding", "valid").upper()
    if padding not in ("SAME", "VALID"):
        raise ConvertError(f"padding {padding.lower()} is not supported")
    return padding


def _conv(c: Config) -> Translated:
    return "conv", {
        "features": int(c["filters"]),
        "kernel": _pair(c["kernel_size"]),
        "strides": _pair(c.get("strides", 1)),
        "dilation": _pair(c.get("dilation_rate", 1)),
        "groups": max(int(c.get("groups", 1)), 1),
        "padding": _padding(c),
        "bias": bool(c.get("use_bias", True)),
        "activation": activation(c.get("activation")),
    }


def _depthwise(c: Config) -> Translated:
    kind, options = _conv({**c, "filters": 1, "groups": 1})
    del options["features"], options["groups"]
    return f"depthwise_{kind}", options | {"multiplier": int(c.get("depth_multiplier", 1))}


def _separable(c: Config) -> Translated:
    _, options = _depthwise(c)
    return "separable_conv", options | {"features": int(c["filters"])}


def _dense(c: Config) -> Translated:
    bias = bool(c.get("use_bias", True))
    function = activation(c.get("activation"))
    return "dense", {"features": int(c["units"]), "bias": bias, "activation": function}


def _norm(kind: str) -> Callable[[Config], Translated]:
    def make(c: Config) -> Translated:
        if c.get("renorm") or c.get("rms_scaling") or c.get("mode"):
            raise ConvertError("renorm, rms_scaling and Keras 1 modes are not supported")
        options = {"axes": axes(c.get("axis", -1)), "epsilon": float(c.get("epsilon", 1e-3))}
        options |= {"scale": bool(c.get("scale", True)), "bias": bool(c.get("center", True))}
        if kind == "batch_norm":
            options["momentum"] = float(c.get("momentum", 0.99))
        if kind == "group_norm":
            if options["axes"] not in ([-1], [3]):
                raise ConvertError(f"axis {options['axes'][0]} is not supported, only the last")
            options["groups"] = int(c.get("groups", 32))
        return kind, options

    return make


def _pool(kind: str) -> Callable[[Config], Translated]:
    def make(c: Config) -> Translated:
        size = _pair(c.get("pool_size", 2))
        strides = _pair(c["strides"]) if c.get("strides") else size
        return kind, {"pool": size, "strides": strides, "padding": _padding(c)}

    return make


def _global(kind: str) -> Callable[[Config], Translated]:
    return lambda c: (kind, {"keepdims": bool(c.get("keepdims", False))})


def _prelu(c: Config) -> Translated:
    return "prelu", {"shared_axes": axes(c.get("shared_axes") or [])}


def _borders(kind: str) -> Callable[[Config], Translated]:
    def make(c: Config) -> Translated:
        given = c.get("padding" if kind == "zero_pad" else "cropping", 1)
        sides = [given, given] if isinstance(given, int) else list(given)
        pairs = [[s, s] if isinstance(s, int) else [int(v) for v in s] for s in sides]
        if len(pairs) != 2 or any(len(p) != 2 or min(p) < 0 for p in pairs):
            raise ValueError(f"{given} is no border")
        return kind, {"borders": pairs}

    return make


def _upsample(c: Config) -> Translated:
    method = c.get("interpolation", "nearest")
    if method not in ("nearest", "bilinear"):
        raise ConvertError(f"interpolation {method} is not supported (nearest, bilinear)")
    return "upsample", {"size": _pair(c.get("size", 2)), "method": method}


def _resize(c: Config) -> Translated:
    method = str(c.get("interpolation", "bilinear")).lower()
    for option in ("crop_to_aspect_ratio", "pad_to_aspect_ratio", "antialias"):
        if c.get(option):
            raise ConvertError(f"{option} is not supported")
    if method not in ("nearest", "bilinear"):
        raise ConvertError(f"interpolation {method} is not supported (nearest, bilinear)")
    return "resize", {"size": [int(c["height"]), int(c["width"])], "method": method}


def _numbers(value: Any) -> Any:
    value = number(value)
    return [_numbers(v) for v in value] if isinstance(value, list | tuple) else float(value)


def _rescale(c: Config) -> Translated:
    offset = c.get("offset", 0.0)
    return "rescale", {"scale": _numbers(c["scale"]), "offset": _numbers(offset)}


def _normalize(c: Config) -> Translated:
    # Without numbers in the configuration they are among the weights.
    given = c.get("mean") is not None
    options = {n: _numbers(c[n]) if given else None for n in ("mean", "variance")}
    axis = c.get("axis", -1)
    kept = [] if axis is None else axes(axis)
    return "normalize", {"axes": kept, "invert": bool(c.get("invert", False))} | options


def _merge(kind: str) -> Callable[[Config], Translated]:
    return lambda c: (kind, {})


def _merge_1(c: Config) -> Translated:
    modes = {"sum": "add", "mul": "multiply", "ave": "average", "max": "maximum"}
    if c.get("mode") == "concat":
        return "concatenate", {"axis": int(c.get("concat_axis", -1))}
    return modes[c["mode"]], {}


_LAYERS: dict[str, Callable[[Config], Translated]] = {
    "Conv2D": _conv,
    "Convolution2D": _conv,
    "DepthwiseConv2D": _depthwise,
    "SeparableConv2D": _separable,
    "Dense": _dense,
    "BatchNormalization": _norm("batch_norm"),
    "LayerNormalization": _norm("layer_norm"),
    "GroupNormalization": _norm("group_norm"),
    "MaxPooling2D": _pool("max_pool"),
    "AveragePooling2D": _pool("average_pool"),
    "GlobalAveragePooling2D": _global("global_average_pool"),
    "GlobalMaxPooling2D": _global("global_max_pool"),
    "Flatten": lambda c: ("flatten", {}),
    "Reshape": lambda c: ("reshape", {"shape": [int(n) for n in c["target_shape"]]}),
    "Permute": lambda c: ("permute", {"dims": [int(d) for d in c["dims"]]}),
    **FUNCTIONS,
    "PReLU": _prelu,
    "Add": _merge("add"),
    "Subtract": _merge("subtract"),
    "Multiply": _merge("multiply"),
    "Average": _merge("average"),
    "Maximum": _merge("maximum"),
    "Minimum": _merge("minimum"),
    "Concatenate": lambda c: ("concatenate", {"axis": int(c.get("axis", -1))}),
    "Merge": _merge_1,
    "ZeroPadding2D": _borders("zero_pad"),
    "Cropping2D": _borders("crop"),
    "UpSampling2D": _upsample,
    "CenterCrop": lambda c: ("center_crop", {"size": [int(c["height"]), int(c["width"])]}),
    "Resizing": _resize,
    "Rescaling": _rescale,
    "Normalization": _normalize,
}
