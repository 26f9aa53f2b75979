"""Weights with torchvision's or timm's names and layouts, in both directions.

Layouts: convolutions ``[out, in, kh, kw]`` -> ``[kh, kw, in, out]`` (depthwise ones too, where
``in`` is 1), matrices ``[out, in]`` -> ``[in, out]``, all others as they are.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from tlflax import tree
from tlflax.convert.torch_names import source_names, styles
from tlflax.errors import ConvertError, listing, suggest

if TYPE_CHECKING:
    from tlflax.backbones.spec import Spec

# BatchNorm's step counter, which only matters to a momentum that torch's networks do not use.
_COUNTER = "num_batches_tracked"


def _in_top(name: str, spec: "Spec") -> bool:
    return any(name.startswith(f"{top}.") for top in spec.top_layers)


def counted(name: str, spec: "Spec") -> bool:
    """Whether the array belongs to the network without its classifier."""
    return not name.endswith(_COUNTER) and not _in_top(name, spec)


def _ours(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A source array in our layout."""
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    if array.ndim == 2:
        return array.T
    if array.ndim == 3 and len(shape) == 1 and array.shape[1:] == (1, 1):
        return array[:, 0, 0]  # torchvision's factor per channel, [C, 1, 1]
    return array


def _theirs(name: str, array: np.ndarray) -> np.ndarray:
    """The inverse of `_ours`."""
    if array.ndim == 4:
        array = array.transpose(3, 2, 0, 1)
    elif array.ndim == 2:
        array = array.T
    elif name.endswith(".layer_scale"):
        array = array[:, None, None]
    return np.ascontiguousarray(array, np.float32)


def _flat(variables: Mapping) -> dict:
    return {f"{c}/{p}": leaf for c in variables for p, leaf in tree.flatten(variables[c]).items()}


def convert(
    arrays: Mapping[str, np.ndarray], target: Mapping, spec: "Spec", what: str
) -> tuple[dict, list[str]]:
    """Converts torch arrays to the variables of a chain.

    Args:
      arrays: by torch's parameter names.
      target: abstract variables of the *whole* chain, ``{"params": ..., "batch_stats": ...}``.
      spec: the network; arrays below its ``top_layers`` are left out and returned, step counters
        of BatchNorm (``num_batches_tracked``) are passed over.
      what: description of the source for messages.

    Returns:
      Variables as nested dicts of float32 arrays, and the names left out.

    Raises:
      ConvertError: anything unused, unfilled, of another shape or not finite; both sides are
        listed.
    """
    wanted = _flat(target)
    by_style = {style: source_names(spec, style, wanted) for style in styles(spec)}
    # The style that most of the wanted names are found in.
    style = max(by_style, key=lambda s: sum(name in arrays for name in by_style[s].values()))
    names = by_style[style]
    dropped = [name for name in arrays if _in_top(name, spec)]
    filled: dict[str, np.ndarray] = {}
    missing, shapes, bad = [], [], []
    for path, leaf in wanted.items():
        name = names[path]
        if name not in arrays:
            missing.append(name)
            continue
        value = _ours(arrays[name], leaf.shape)
        if value.shape != leaf.shape:
            needed = _theirs(name, np.zeros(leaf.shape)).shape
            shapes.append(f"{name} is {arrays[name].shape}, needs {needed}")
        # float64 numbers may be too large for float32.
        with np.errstate(over="ignore"):
            filled[path] = np.ascontiguousarray(value, np.float32)
        if not np.isfinite(filled[path]).all():
            bad.append(name)
    known = {*names.values(), *dropped}
    unused = [n for n in arrays if n not in known and not n.endswith(_COUNTER)]
    parts = []
    if shapes:
        parts.append(f"wrong shape: {listing(shapes, 4)}")
    if missing:
        parts.append(f"{len(missing)} of {len(wanted)} arrays absent: {listing(missing, 4)}")
    if unused:
        hint = suggest(unused[0], missing or known)
        parts.append(f"{len(unused)} arrays not used: {listing(unused, 4)}{hint}")
    if parts:
        raise ConvertError(f"{what} does not fit the network {spec.name}: {'; '.join(parts)}")
    if bad:
        raise ConvertError(f"{what} has non-finite numbers in {listing(bad, 4)}")
    return tree.unflatten(filled), dropped


def to_source(variables: Mapping, spec: "Spec", style: str) -> dict[str, np.ndarray]:
    """Variables of a chain, or of its lower part, under the names and in the layout of a style.

    Args:
      variables: ``{"params": ..., "batch_stats": ...}`` without the ``backbone`` level.
      spec: the network.
      style: ``timm`` or ``torchvision``, if the network comes in it.

    Returns:
      Arrays by parameter name, which `load_state_dict` of the network without its classifier
      takes; step counters of BatchNorm are added as zeros.

    Raises:
      ConvertError: the network does not come in this style.
    """
    if style not in styles(spec):
        raise ConvertError(
            f"{spec.name} has no weights of style {style!r}{suggest(style, styles(spec))} "
            f"(it has {listing(styles(spec))})"
        )
    flat = _flat(variables)
    arrays = {}
    for path, name in source_names(spec, style, flat).items():
        arrays[name] = _theirs(name, np.asarray(flat[path]))
        if name.endswith(".running_mean"):
            arrays[f"{name.removesuffix('running_mean')}{_COUNTER}"] = np.array(0, np.int64)
    return arrays
