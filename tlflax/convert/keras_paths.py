"""Weights that Keras 3 stores by class: ``layers/conv2d_1/vars/0`` in `.weights.h5` files.

Since Keras 3.7 such a group also carries its layer's name. Older files do not: the n-th Conv2D of
the file is the n-th of the network, which can only be told for a network that is known.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tlflax import tree
from tlflax.convert import hdf5
from tlflax.errors import ConvertError, listing

if TYPE_CHECKING:
    from tlflax.backbones.spec import Spec

_GROUP = re.compile(r"(?:.*/)?([a-z0-9_]+?)(?:_(\d+))?/vars")
# A layer's weights in the order in which Keras stores them, by class and number. Of the networks
# here, those with BatchNormalization of three weights (InceptionV3) have no gamma.
_KINDS = {
    "conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "depthwise_conv2d": ("depthwise_kernel", "bias"),
    "separable_conv2d": ("depthwise_kernel", "pointwise_kernel", "bias"),
    "layer_normalization": ("gamma", "beta"),
    "normalization": ("mean", "variance", "count"),
    "p_re_lu": ("alpha",),
}
_NORM = ("gamma", "beta", "moving_mean", "moving_variance")


def is_class_path(name: str) -> bool:
    """Whether an array is still called by its class instead of its layer."""
    return "/vars/" in name and _GROUP.fullmatch(name.rsplit("/", 1)[0]) is not None


def read_class_paths(file: Any, what: str) -> dict[str, np.ndarray]:
    """Reads an open ``.weights.h5``.

    Returns:
      ``layer/weight -> array`` where the file has the layers' names, else by the stored paths.

    Raises:
      ConvertError: hostile, or not a file of this kind.
    """
    stored = hdf5.arrays_below(file, skip=("optimizer",))
    groups: dict[str, list[str]] = {}
    for path in stored:
        if "seed_generator" not in path:
            groups.setdefault(path.rsplit("/", 1)[0], []).append(path)
    if not groups or not all(_GROUP.fullmatch(group) for group in groups):
        raise ConvertError(f"{what} is HDF5 but not a Keras weight file: it has no 'layer_names'")
    arrays: dict[str, np.ndarray] = {}
    for group, paths in groups.items():
        name = stored[paths[0]].parent.attrs.get("name")
        kinds = _kinds(group, len(paths))
        for path in paths:
            index = path.rsplit("/", 1)[1]
            key = path
            if name is not None and index.isdigit() and int(index) < len(kinds):
                key = f"{hdf5.text(name)}/{kinds[int(index)]}"
            if key in arrays:
                raise ConvertError(f"{what} has two layers {key.rsplit('/', 1)[0]!r}")
            # Below its own group: the path here has its backslashes turned.
            arrays[key] = hdf5.array(stored[path].parent, stored[path].name.rsplit("/", 1)[1], path)
    return arrays


def _kinds(group: str, count: int) -> Sequence[str]:
    found = _GROUP.fullmatch(group)
    plain = found[1] if found else ""
    if plain == "batch_normalization":
        return _NORM[-count:] if count <= 4 else ()
    return _KINDS.get(plain, ())[:count]


def by_order(
    arrays: Mapping[str, np.ndarray], target: Mapping, spec: "Spec", what: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Gives arrays that are called by class the names of the network's layers.

    Args:
      arrays: as a reader found them.
      target: abstract variables of the whole chain.
      spec: the network.
      what: file name for messages.

    Returns:
      ``layer/weight -> array``, and names of arrays that belong to the source's classifier.

    Raises:
      ConvertError: the order does not fit the network.
    """
    if not any(is_class_path(name) for name in arrays):
        return dict(arrays), []
    theirs: dict[str, dict[int, dict[str, np.ndarray]]] = {}
    for name, array in arrays.items():
        group, index = name.rsplit("/", 1)
        found = _GROUP.fullmatch(group)
        if found is None:
            raise ConvertError(f"{what}: {name} is not named like the rest of the file")
        layer = theirs.setdefault(found[1], {}).setdefault(int(found[2] or 0), {})
        layer[index] = array
    reasons = []
    for ours in _orders(target, spec, "depthwise_conv2d" in theirs):
        try:
            return _paired(theirs, ours, spec)
        except ValueError as error:
            reasons.append(str(error))
    raise ConvertError(
        f"{what} does not fit the network: {reasons[0]}. It has no layer names; if it is of "
        f"{spec.name}, save it again with Keras 3.7 or later, or as .h5, which keep them"
    )


def _paired(theirs, ours, spec) -> tuple[dict[str, np.ndarray], list[str]]:
    placed: dict[str, np.ndarray] = {}
    left: list[str] = []
    for plain in sorted({*theirs, *ours}):
        layers = [theirs.get(plain, {})[n] for n in sorted(theirs.get(plain, {}))]
        mine = ours.get(plain, [])
        if plain == "normalization":  # the contract here, see keras_form
            mine = [(plain, sorted(a.size for a in w.values())) for w in layers]
        if len(layers) < len(mine) or (len(layers) > len(mine) and not spec.top_layers):
            raise ValueError(f"it has {len(layers)} layers of class {plain}, not {len(mine)}")
        for weights, (layer, sizes) in zip(layers, mine, strict=False):
            kinds = _kinds(f"{plain}/vars", len(weights))
            found = {k: weights[str(i)] for i, k in enumerate(kinds) if str(i) in weights}
            if len(found) != len(weights) or sorted(a.size for a in found.values()) != sizes:
                raise ValueError(
                    f"{layer} has sizes {listing(sizes, 4)}, the file "
                    f"{listing(sorted(a.size for a in weights.values()), 4)} in its place"
                )
            placed |= {f"{layer}/{kind}": array for kind, array in found.items()}
        # A classifier comes last.
        left += [f"{plain}_{n}" for n in sorted(theirs.get(plain, {}))[len(mine) :]]
    return placed, left


def _orders(target: Mapping, spec: "Spec", depthwise: bool):
    """Our layers by Keras class, with their weights' sizes, in the orders that Keras may have.

    Keras sorts by depth: in the first blocks of a ResNet the shortcut, beside three convolutions,
    comes before the last of them.
    """
    from tlflax.backbones.inventory import describe

    weights: dict[str, dict[str, tuple[int, ...]]] = {}
    for collection in target:
        for path, leaf in tree.flatten(target[collection]).items():
            *_, layer, name = path.split("/")
            weights.setdefault(layer, {})[name] = tuple(leaf.shape)
    blocks = describe(spec.chain(), max(spec.min_size, 64))
    plain = [layer for block in blocks for layer in block.layers if layer in weights]
    moved = list(plain)
    for layer in plain:
        last = re.sub(r"_0_(conv|bn)$", r"_3_\1", layer)
        if last != layer and last in moved:
            moved.remove(layer)
            moved.insert(moved.index(last), layer)
    for order in (plain, moved):
        found: dict[str, list[tuple[str, list[int]]]] = {}
        for layer in order:
            sizes = sorted(int(np.prod(s)) for s in weights[layer].values())
            kind = _class(weights[layer], depthwise)
            found.setdefault(kind, []).append((layer, sizes))
        yield found


def _class(leaves: Mapping[str, tuple[int, ...]], depthwise: bool) -> str:
    if "mean" in leaves:
        return "batch_normalization"
    if "kernel" not in leaves:
        return "layer_normalization"
    if len(leaves["kernel"]) == 2:
        return "dense"
    return "depthwise_conv2d" if depthwise and leaves["kernel"][-2] == 1 else "conv2d"
