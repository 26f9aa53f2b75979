"""Total loading: every source array used, every target leaf filled, shapes equal."""

from collections.abc import Mapping

import numpy as np

from tlflax import tree
from tlflax.convert.rules import keras_layer, keras_rule
from tlflax.errors import ConvertError, listing, suggest


def convert_keras(
    arrays: Mapping[str, np.ndarray],
    target: Mapping,
    top_layers: tuple[str, ...] = (),
    what: str = "the file",
) -> tuple[dict, list[str]]:
    """Converts Keras arrays to the variables of a chain.

    Args:
      arrays: ``layer/weight -> array`` as the readers give them.
      target: abstract variables of the *whole* chain, ``{"params": ..., "batch_stats": ...}``.
      top_layers: layers of the source's classifier; their arrays are left out and returned.
      what: description of the source for messages.

    Returns:
      Variables as nested dicts of float32 arrays, and the names left out.

    Raises:
      ConvertError: anything unused, unfilled, or of another shape; both sides are listed.
    """
    wanted = {f"{c}/{p}": leaf for c in target for p, leaf in tree.flatten(target[c]).items()}
    # Layers have unique names, so layer and weight identify a leaf whatever block it is in.
    by_layer = {}
    for path in wanted:
        collection, *_, layer, leaf = path.split("/")
        by_layer[collection, layer, leaf] = path
    filled: dict[str, np.ndarray] = {}
    unused, dropped, shapes = [], [], []
    for name, array in arrays.items():
        layer, weight = name.rsplit("/", 1)
        if layer in top_layers:
            dropped.append(name)
            continue
        rule = keras_rule(weight, array.shape)
        path = by_layer.get((rule.collection, keras_layer(layer), rule.leaf)) if rule else None
        if rule is None or path is None or path in filled:
            unused.append(name)
            continue
        try:
            value = rule.transform(array)
        except ValueError:
            value = array
        if value.shape != wanted[path].shape:
            shapes.append(f"{name} is {value.shape}, needs {wanted[path].shape}")
        filled[path] = np.ascontiguousarray(value, np.float32)
    missing = [p for p in wanted if p not in filled]
    if unused or missing or shapes:
        raise ConvertError(_mismatch(what, unused, missing, shapes, wanted))
    bad = [p for p, v in filled.items() if not np.isfinite(v).all()]
    if bad:
        raise ConvertError(f"{what} has non-finite numbers in {listing(bad, 4)}")
    return tree.unflatten(filled), dropped


def _mismatch(what, unused, missing, shapes, wanted) -> str:
    parts = []
    if shapes:
        parts.append(f"wrong shape: {listing(shapes, 4)}")
    if missing:
        parts.append(f"{len(missing)} of {len(wanted)} leaves not filled: {listing(missing, 4)}")
    if unused:
        hint = suggest(unused[0].rsplit("/", 1)[0], {p.split("/")[-2] for p in wanted})
        parts.append(f"{len(unused)} arrays not used: {listing(unused, 4)}{hint}")
    return f"{what} does not fit the network: {'; '.join(parts)}"


def take(variables: Mapping, target: Mapping, what: str = "the weights") -> dict:
    """Cuts full variables down to ``target`` (a chain cut lower needs fewer leaves).

    Raises:
      ConvertError: a target leaf is absent or of another shape.
    """
    result = {}
    for collection in target:
        have = tree.flatten(variables.get(collection, {}))
        want = tree.flatten(target[collection])
        missing = [p for p in want if p not in have]
        wrong = [
            f"{p} is {have[p].shape}, needs {want[p].shape}"
            for p in want
            if p in have and tuple(have[p].shape) != tuple(want[p].shape)
        ]
        if missing or wrong:
            raise ConvertError(_mismatch(what, [], missing, wrong, want))
        result[collection] = tree.unflatten({p: have[p] for p in want})
    return result
