"""Shapes and weights of a graph's nodes, without jax: what sizes a user's own network accepts.

Shapes are those of one image: ``(H, W, C)``, or ``(n,)`` behind a Flatten.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Shape = tuple[int, ...]
Options = Mapping[str, Any]


class DoesNotFit(ValueError):
    """A node cannot be computed at this size."""


def _window(size: int, kernel: int, stride: int, dilation: int, padding: str) -> int:
    if padding == "SAME":
        return -(-size // stride)
    return (size - (kernel - 1) * dilation - 1) // stride + 1


def _windows(options: Options, shape: Shape, kernel: Sequence[int], features: int) -> Shape:
    strides, dilation = options["strides"], options.get("dilation", (1, 1))
    if len(shape) != 3:
        raise DoesNotFit(f"needs a map [H, W, C], gets {list(shape)}")
    rows, columns = (
        _window(shape[i], kernel[i], strides[i], dilation[i], options["padding"]) for i in (0, 1)
    )
    return rows, columns, features


def _conv(o: Options, s: Shape) -> Shape:
    features = o["features"] if "features" in o else s[-1] * o["multiplier"]
    return _windows(o, s, o["kernel"], features)


def _pool(o: Options, s: Shape) -> Shape:
    return _windows(o, s, o["pool"], s[-1])


def _global_pool(o: Options, s: Shape) -> Shape:
    return (1, 1, s[-1]) if o["keepdims"] else (s[-1],)


def _reshape(o: Options, s: Shape) -> Shape:
    known, size = math.prod(n for n in o["shape"] if n != -1), math.prod(s)
    target = tuple(size // max(known, 1) if n == -1 else n for n in o["shape"])
    if math.prod(target) != size:
        raise DoesNotFit(f"cannot reshape {list(s)} to {o['shape']}")
    return target


def _borders(sign: int) -> Callable[[Options, Shape], Shape]:
    def shape(o: Options, s: Shape) -> Shape:
        (top, bottom), (left, right) = o["borders"]
        return s[0] + sign * (top + bottom), s[1] + sign * (left + right), s[2]

    return shape


def _center_crop(o: Options, s: Shape) -> Shape:
    if s[0] < o["size"][0] or s[1] < o["size"][1]:
        raise DoesNotFit(f"cannot crop {list(s)} to {o['size']}")
    return (*o["size"], s[2])


_ONE: dict[str, Callable[[Options, Shape], Shape]] = {
    "conv": _conv,
    "depthwise_conv": _conv,
    "separable_conv": _conv,
    "dense": lambda o, s: (*s[:-1], o["features"]),
    "max_pool": _pool,
    "average_pool": _pool,
    "global_average_pool": _global_pool,
    "global_max_pool": _global_pool,
    "flatten": lambda o, s: (math.prod(s),),
    "reshape": _reshape,
    "permute": lambda o, s: tuple(s[d - 1] for d in o["dims"]),
    "zero_pad": _borders(1),
    "crop": _borders(-1),
    "center_crop": _center_crop,
    "upsample": lambda o, s: (s[0] * o["size"][0], s[1] * o["size"][1], s[2]),
    "resize": lambda o, s: (*o["size"], s[2]),
}


def node_shape(kind: str, options: Options, inputs: Sequence[Shape]) -> Shape:
    """Output shape of a node.

    Raises:
      DoesNotFit: it cannot be computed from these inputs.
    """
    if kind == "concatenate":
        axis = options["axis"] if options["axis"] < 0 else options["axis"] - 1
        result = list(inputs[0])
        result[axis] = sum(s[axis] for s in inputs)
        if any(s[:axis] + s[axis:][1:] != inputs[0][:axis] + inputs[0][axis:][1:] for s in inputs):
            raise DoesNotFit(f"cannot join {[list(s) for s in inputs]}")
        return tuple(result)
    if len(inputs) > 1:
        rank = max(map(len, inputs))
        # Keras puts the missing axes behind the batch.
        full = [(1,) * (rank - len(s)) + s for s in inputs]
        result = tuple(map(max, zip(*full, strict=True)))
        if any(n not in (1, m) for s in full for n, m in zip(s, result, strict=True)):
            raise DoesNotFit(f"cannot {kind} {[list(s) for s in inputs]}")
        return result
    shape = _ONE[kind](options, inputs[0]) if kind in _ONE else inputs[0]
    if min(shape, default=1) < 1:
        raise DoesNotFit(f"{kind} leaves nothing of {list(inputs[0])}")
    return shape


def node_weights(kind: str, options: Options, shape: Shape) -> dict[str, Shape]:
    """Weight leaves of a node, with their shapes.

    Args:
      kind: of the node.
      options: of the node.
      shape: of its input.
    """
    channels, found = shape[-1] if shape else 1, {}
    features = options.get("features", channels * options.get("multiplier", 1))
    if kind == "conv":
        found["kernel"] = (*options["kernel"], channels // options["groups"], features)
    elif kind == "depthwise_conv":
        found["kernel"] = (*options["kernel"], 1, features)
    elif kind == "separable_conv":
        between = channels * options["multiplier"]
        found["depthwise/kernel"] = (*options["kernel"], 1, between)
        found["pointwise/kernel"] = (1, 1, between, features)
        found |= {"pointwise/bias": (features,)} if options["bias"] else {}
        return found
    elif kind == "dense":
        found["kernel"] = (channels, features)
    elif kind == "prelu":
        axes = options["shared_axes"]
        found["alpha"] = tuple(1 if i + 1 in axes else n for i, n in enumerate(shape))
    elif kind in ("batch_norm", "layer_norm", "group_norm"):
        axes = sorted(a if a > 0 else a + 1 + len(shape) for a in options["axes"])
        features = tuple(shape[a - 1] for a in axes)
        found |= {leaf: features for leaf in ("scale", "bias") if options[leaf]}
        found |= {leaf: features for leaf in ("mean", "var") if kind == "batch_norm"}
        return found
    if options.get("bias"):
        found["bias"] = (features,)
    return found
