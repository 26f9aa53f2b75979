"""Which stored array is which weight of which layer, in whole Keras models.

Two naming schemes: HDF5 files have a group per outermost layer, in which every weight carries
its layer's name; Keras-3 files have a path of class names (``layers/conv2d_1/vars/0``), counted
in the order of the model's configuration.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tlflax.convert import hdf5
from tlflax.errors import ConvertError, listing

Layered = dict[str, dict[str, np.ndarray]]

MODELS = ("Sequential", "Functional", "Model")
# Deeper nesting is no network.
_DEPTH = 16
# Where Keras keeps a model's layers; the second is that of Keras 2.12 to 2.15.
_CONTAINERS = ("layers", "_layer_checkpoint_dependencies")
# State of random generators, which some versions store beside the weights.
_STATE = re.compile(r"(statevar|state_var|seed_generator_state|rng_state)(_\d+)?", re.I)

_PLAIN = {"Conv2D": "kernel", "Convolution2D": "kernel", "Dense": "kernel"}
_PLAIN |= {"DepthwiseConv2D": "depthwise_kernel", "SeparableConv2D": "depthwise_kernel"}
_CONSTANT: tuple[str, ...] = ("mean", "variance", "count")
_NORMS = ("BatchNormalization", "LayerNormalization", "GroupNormalization")


def snake(class_name: str) -> str:
    """A class name as in Keras' paths: ``Conv2D`` -> ``conv2d``, ``PReLU`` -> ``p_re_lu``."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", class_name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def kinds(class_name: str, config: Mapping[str, Any]) -> list[str]:
    """A layer's weights, in the order in which Keras stores them."""
    found: list[str] = []
    if class_name in _PLAIN:
        found = [_PLAIN[class_name]]
        found += ["pointwise_kernel"] * (class_name == "SeparableConv2D")
        found += ["bias"] * bool(config.get("use_bias", config.get("bias", True)))
    elif class_name in _NORMS:
        found = [w for w, o in (("gamma", "scale"), ("beta", "center")) if config.get(o, True)]
        found += ["moving_mean", "moving_variance"] * (class_name == _NORMS[0])
    elif class_name == "PReLU":
        found = ["alpha"]
    elif class_name == "Normalization" and config.get("mean") is None:
        found = list(_CONSTANT)
    return found


def sublayers(model: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The layers of a model's configuration; a Sequential's was once the list itself.

    Raises:
      ConvertError: it has none.
    """
    config = model["config"]
    layers = config if isinstance(config, list) else config.get("layers")
    good = isinstance(layers, list) and all(map(_is_layer, layers))
    if not good:
        raise ConvertError(
            f"the model {name_of(model)!r} (class {model.get('class_name')}) does not list its "
            "layers: only Sequential and functional models can be read"
        )
    return layers


def _is_layer(layer: Any) -> bool:
    if not isinstance(layer, dict) or not isinstance(layer.get("class_name"), str):
        return False
    config = layer.get("config")
    return isinstance(config, dict) or (
        layer["class_name"] == "Sequential" and isinstance(config, list)
    )


def name_of(layer: Mapping[str, Any]) -> str:
    """A layer's name in its configuration."""
    config = layer.get("config")
    inner = config.get("name") if isinstance(config, dict) else None
    return str(inner or layer.get("name") or layer.get("class_name"))


def leaves(
    model: Mapping[str, Any], prefix: str = "", depth: int = 0
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Path and configuration of every layer that is no model, in order."""
    if depth > _DEPTH:
        raise ConvertError(f"models are nested more than {_DEPTH} deep at {prefix[:80]}")
    for layer in sublayers(model):
        path = f"{prefix}{name_of(layer)}"
        if layer.get("class_name") in MODELS:
            yield from leaves(layer, f"{path}/", depth + 1)
        else:
            yield path, layer


def expected(model: Mapping[str, Any], prefix: str = "") -> dict[str, list[str]]:
    """Layer path -> weights it must have, for the layers that have any."""
    found = {p: kinds(str(d["class_name"]), d["config"]) for p, d in leaves(model, prefix)}
    return {p: k for p, k in found.items() if k}


def by_layer_group(model: Mapping[str, Any], root: Any, what: str) -> Layered:
    """Weights from the group ``model_weights`` of an HDF5 file.

    Raises:
      ConvertError: a weight lacks, is left over, or its layer cannot be told.
    """
    wanted, found = expected(model), {}
    configs = {name_of(layer): layer for layer in sublayers(model)}
    for layer in hdf5.names(root, "layer_names"):
        group = hdf5.member(root, layer)
        stored = [s for s in hdf5.names(group, "weight_names") if not _STATE.fullmatch(_kind(s))]
        config = configs.get(layer, {})
        if config.get("class_name") in MODELS:
            assigned = _of_nested_model(layer, config, f"{layer}/", stored, what)
        else:
            assigned = _of_one_layer(layer, wanted.get(layer, []), stored, what)
        for name, (path, kind) in assigned.items():
            found.setdefault(path, {})[kind] = hdf5.array(group, name)
    _check_complete(wanted, found, what)
    return found


def _kind(stored: str) -> str:
    return stored.rsplit("/", 1)[-1].split(":")[0]


def _of_one_layer(
    layer: str, wanted: list[str], stored: list[str], what: str
) -> dict[str, tuple[str, str]]:
    if wanted[-1:] == ["count"] and len(stored) == len(wanted) - 1:
        wanted = wanted[:-1]
    if len(stored) != len(wanted):
        raise ConvertError(
            f"{what}: layer {layer!r} has the weights {listing(stored)}, its configuration needs "
            f"{listing(wanted) or 'none'}"
        )
    # Only the order is common to all versions (Keras 1 says conv1_W, Keras 3 kernel for all).
    return {s: (layer, k) for s, k in zip(stored, wanted, strict=True)}


def _of_nested_model(
    outer: str, model: Mapping[str, Any], prefix: str, stored: list[str], what: str
) -> dict[str, tuple[str, str]]:
    """Tells inner layers by the names in front of the weights, from the right; else by order."""
    wanted = {p: k for p, k in expected(model, prefix).items() if k}
    assigned: dict[str, tuple[str, str]] = {}
    for name in stored:
        parts, kind = name.split("/")[:-1], _kind(name)
        scores = {p: _common_end(p.split("/"), parts) for p in wanted}
        best = max(scores.values(), default=0)
        paths = [p for p, s in scores.items() if s == best > 0]
        if len(paths) == 1 and "depthwise_kernel" in wanted[paths[0]] and kind == "kernel":
            kind = "depthwise_kernel"
        if len(paths) == 1 and kind in wanted[paths[0]]:
            assigned[name] = (paths[0], kind)
    if len(set(assigned.values())) == len(stored):
        return assigned
    # TensorFlow 1 put a number behind the names of a model that had been loaded before.
    order = _stored_order(model, prefix)
    told = [re.sub(r"_\d+$", "", _kind(name)) for name in stored]
    if told == [kind for _, kind in order]:
        return dict(zip(stored, order, strict=True))
    lost = next((n for n in stored if n not in assigned), stored[0])
    raise ConvertError(
        f"{what}: cannot tell to which layer of {outer!r} the weight {lost!r} belongs; save that "
        "inner model alone, or the whole model as .keras"
    )


def _stored_order(model: Mapping[str, Any], prefix: str) -> list[tuple[str, str]]:
    """Path and kind of a nested model's weights in HDF5's order: trainable ones first."""
    trained: list[tuple[str, str]] = []
    others: list[tuple[str, str]] = []

    def visit(inner: Mapping[str, Any], prefix: str, frozen: bool) -> None:
        for layer in sublayers(inner):
            path, config = f"{prefix}{name_of(layer)}", layer["config"]
            still = frozen or (isinstance(config, dict) and config.get("trainable") is False)
            if layer.get("class_name") in MODELS:
                visit(layer, f"{path}/", still)
                continue
            for kind in kinds(str(layer["class_name"]), config):
                fixed = still or kind in ("moving_mean", "moving_variance", *_CONSTANT)
                (others if fixed else trained).append((path, kind))

    config = model["config"]
    visit(model, prefix, isinstance(config, dict) and config.get("trainable") is False)
    return trained + others


def _common_end(a: list[str], b: list[str]) -> int:
    same = 0
    while same < min(len(a), len(b)) and a[-1 - same] == b[-1 - same]:
        same += 1
    return same


def _check_complete(wanted: dict[str, list[str]], found: Layered, what: str) -> None:
    missing = [
        f"{p}/{k}" for p, ks in wanted.items() for k in ks
        if k not in found.get(p, {}) and k != "count"
    ]  # fmt: skip
    if missing:
        raise ConvertError(f"{what} lacks {len(missing)} weights: {listing(missing, 4)}")


def by_class_path(model: Mapping[str, Any], arrays: Mapping[str, Any], what: str) -> Layered:
    """Weights from the ``model.weights.h5`` of a `.keras` file.

    Args:
      model: configuration.
      arrays: path -> dataset, as `hdf5.arrays_below` gives them.
      what: file name for messages.

    Raises:
      ConvertError: a weight lacks, is left over, or its layer cannot be told.
    """
    found: Layered = {}
    used: set[str] = set()
    _fill(model, "", "", arrays, found, used, what)
    _check_complete(expected(model), found, what)
    left = [p for p in arrays if p not in used and "seed_generator" not in p]
    if left:
        raise ConvertError(
            f"{what} has {len(left)} arrays that no layer of its configuration has: "
            f"{listing(left, 4)}"
        )
    return found


def _fill(model, prefix, where, arrays, found, used, what) -> None:
    """Places the arrays below ``where``, which belong to the model at layer path ``prefix``."""
    for (path, layer), group in _children(model, prefix, where, arrays, what):
        if layer["class_name"] in MODELS:
            _fill(layer, f"{path}/", f"{group}/", arrays, found, used, what)
            continue
        for index, kind in enumerate(kinds(str(layer["class_name"]), layer["config"])):
            key = f"{group}/vars/{index}"
            if key in arrays:
                found.setdefault(path, {})[kind] = hdf5.array(arrays[key].parent, str(index), key)
                used.add(key)


def _children(model, prefix, where, arrays, what) -> Iterator[tuple[tuple[str, dict], str]]:
    """Pairs the layers that can have weights with the groups that have some.

    Keras counts the layers of each class: the first Conv2D is ``conv2d``, the next ``conv2d_1``.
    Keras 2.13 counts those with weights twice, and files by layer name have been seen: where
    the count is no other, the order decides, then the name.
    """
    groups: dict[str, str] = {}
    for path in arrays:
        for container in _CONTAINERS:
            if path.startswith(f"{where}{container}/"):
                child = path[len(f"{where}{container}/") :].split("/")[0]
                groups[child] = f"{where}{container}/{child}"
    wanted: dict[str, list[tuple[str, dict]]] = {}
    every: dict[str, int] = {}
    counted: dict[str, str] = {}
    for layer in sublayers(model):
        path, plain = f"{prefix}{name_of(layer)}", snake(str(layer["class_name"]))
        counter = every.get(plain, 0)
        every[plain] = counter + 1
        has = layer["class_name"] in MODELS and expected(layer)
        if has or kinds(str(layer["class_name"]), layer["config"]):
            wanted.setdefault(plain, []).append((path, layer))
            counted[path] = f"{plain}_{counter}" if counter else plain
    for plain, layers in wanted.items():
        named = [name_of(layer) for _, layer in layers]
        present = sorted(
            (g for g in groups if re.fullmatch(rf"{plain}(_\d+)?", g)),
            key=lambda g: int(g.removeprefix(plain).strip("_") or 0),
        )
        if all(counted[path] in groups for path, _ in layers):
            chosen = [counted[path] for path, _ in layers]
        elif all(n in groups for n in named):
            chosen = named
        elif len(present) == len(layers):
            chosen = present
        else:
            raise ConvertError(
                f"{what} has weights for {len(present)} layers of class {plain} below "
                f"{where or '/'}, its configuration has {len(layers)}: {listing(named, 6)}"
            )
        yield from zip(layers, (groups[c] for c in chosen), strict=True)
