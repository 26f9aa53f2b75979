"""Weights of TensorFlow Hub's modules: a table of variable names per family of networks.

A family's module has one function, ``source_names(paths) -> {our path: variable name}``.
"""

import importlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from tlflax import tree
from tlflax.errors import ConvertError, listing, suggest

if TYPE_CHECKING:
    from tlflax.backbones.spec import Spec

# By the beginning of the zoo name.
_FAMILIES = {
    "hub_resnet": "tlflax.convert.hub_resnet_v2",
    "hub_efficientnet": "tlflax.convert.hub_efficientnet",
}


def _source_names(spec: "Spec", paths: Iterable[str]) -> dict[str, str]:
    module = next(m for prefix, m in _FAMILIES.items() if spec.name.startswith(prefix))
    return importlib.import_module(module).source_names(paths)


def _plain(name: str) -> str:
    """Without the output number that TensorFlow appends to tensors (`weights:0`)."""
    return name.removesuffix(":0")


def scope_of(names: Iterable[str], wanted: Iterable[str]) -> str:
    """The scope that a file's names have in front of the network's own.

    Modules are saved below ``module/``, ``hub_module/``, ``keras_layer/variables/`` or whatever
    their user called them; the scope below which most wanted names are found is the one.
    """
    expected, count = set(wanted), {"": 0}
    for name in map(_plain, names):
        parts = name.split("/")
        for i in range(len(parts)):
            if "/".join(parts[i:]) in expected:
                scope = "".join(f"{p}/" for p in parts[:i])
                count[scope] = count.get(scope, 0) + 1
    return max(count, key=lambda s: count[s])


def _fitted(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The array in our layout: depthwise ``[kh, kw, C, 1]`` -> ``[kh, kw, 1, C]``."""
    if array.ndim == len(shape) == 4 and array.shape[3] == shape[2] == 1:
        return array.transpose(0, 1, 3, 2)
    return array


def convert(
    arrays: Mapping[str, np.ndarray], target: Mapping, spec: "Spec", what: str
) -> tuple[dict, list[str]]:
    """Converts variables of a hub module to those of a chain.

    Args:
      arrays: by TensorFlow variable name.
      target: abstract variables of the *whole* chain, ``{"params": ..., "batch_stats": ...}``.
      spec: the network; arrays below its ``top_layers`` are left out and returned.
      what: description of the source for messages.

    Returns:
      Variables as nested dicts of float32 arrays, and the names left out.

    Raises:
      ConvertError: anything unused, unfilled, of another shape or not finite.
    """
    wanted = {f"{c}/{p}": leaf for c in target for p, leaf in tree.flatten(target[c]).items()}
    names = _source_names(spec, wanted)
    scope = scope_of(arrays, names.values())
    have = {_plain(name).removeprefix(scope): name for name in arrays}
    dropped = [name for short, name in have.items() if _in_top(short, spec)]
    filled: dict[str, np.ndarray] = {}
    missing, shapes, bad = [], [], []
    for path, leaf in wanted.items():
        name = have.get(names[path])
        if name is None:
            missing.append(names[path])
            continue
        value = _fitted(arrays[name], leaf.shape)
        if value.shape != leaf.shape:
            shapes.append(f"{name} is {arrays[name].shape}, needs {leaf.shape}")
        elif not np.isfinite(value).all():
            bad.append(name)
        filled[path] = np.ascontiguousarray(value, np.float32)
    known = set(names.values())
    unused = [n for short, n in have.items() if short not in known and n not in dropped]
    parts = []
    if shapes:
        parts.append(f"wrong shape: {listing(shapes, 4)}")
    if missing:
        parts.append(f"{len(missing)} of {len(wanted)} variables absent: {listing(missing, 4)}")
    if unused:
        hint = suggest(_plain(unused[0]), missing or known)
        parts.append(f"{len(unused)} variables not used: {listing(unused, 4)}{hint}")
    if parts:
        raise ConvertError(f"{what} does not fit the network {spec.name}: {'; '.join(parts)}")
    if bad:
        raise ConvertError(f"{what} has non-finite numbers in {listing(bad, 4)}")
    return tree.unflatten(filled), dropped


def _in_top(name: str, spec: "Spec") -> bool:
    return any(name == top or name.startswith(f"{top}/") for top in spec.top_layers)


def counted(name: str, spec: "Spec") -> bool:
    """Whether the variable belongs to the network without its classifier."""
    parts = _plain(name).split("/")
    # The scope in front is not known from one name alone.
    return not any(_in_top("/".join(parts[i:]), spec) for i in range(len(parts)))
