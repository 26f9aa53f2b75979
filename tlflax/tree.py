"""Names for the leaves of nested dicts: ``{'a': {'b': x}}`` <-> ``{'a/b': x}``.

Everything that is decided per parameter (freezing, learning rates, conversion, digests) is
decided on the flat form, because there a leaf has exactly one name and no framework type.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

Flat = dict[str, Any]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Flat:
    """Flattens a nested dict to slash-joined paths, in sorted order. Empty dicts vanish."""
    flat: Flat = {}
    for key in sorted(tree):
        value = tree[key]
        path = f"{prefix}/{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            flat.update(flatten(value, path))
        else:
            flat[path] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, leaf = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree


def count(flat: Mapping[str, Any]) -> int:
    """Number of scalars over all leaves (arrays or shape structs)."""
    return sum(int(np.prod(leaf.shape)) for leaf in flat.values())


def digest(flat: Mapping[str, Any]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes: equal if and only if the leaves are."""
    h = hashlib.sha256()
    for path in sorted(flat):
        array = np.asarray(flat[path])
        h.update(f"{path}|{array.dtype}|{array.shape}|".encode())
        h.update(np.ascontiguousarray(array).tobytes())
    return h.hexdigest()
