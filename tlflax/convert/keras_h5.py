"""Reader for Keras weight files in HDF5 (`*_no_top.h5`, `model.save_weights("x.h5")`).

Layout (Keras 1 and 2): the root, or the group ``model_weights`` of a whole-model file, has the
attribute ``layer_names``; every layer group has ``weight_names``, which alone give the order.
Attributes longer than 64 KiB are split into ``layer_names0``, ``layer_names1``, ...
"""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tlflax.errors import ConvertError


def _names(group: Any, attribute: str) -> list[str]:
    if attribute in group.attrs:
        values = list(group.attrs[attribute])
    else:
        values, part = [], 0
        while f"{attribute}{part}" in group.attrs:
            values += list(group.attrs[f"{attribute}{part}"])
            part += 1
    return [v.decode() if isinstance(v, bytes) else str(v) for v in values]


def read_keras_h5(path: Path) -> dict[str, np.ndarray]:
    """Reads every weight as ``layer/weight``, e.g. ``Conv1/kernel``, ``bn_Conv1/gamma``.

    Args:
      path: the file.

    Returns:
      Arrays by name, in file order. The weight's own name is the last part of its stored name
      without the ``:0`` that TensorFlow appends.

    Raises:
      ConvertError: not HDF5, truncated, or not a Keras weight file.
    """
    try:
        with h5py.File(path, "r") as file:
            # A name may be a group, an array or a type; what does not behave like the expected
            # one ends below as an unreadable file.
            root: Any = file["model_weights"] if "model_weights" in file else file
            layers = _names(root, "layer_names")
            if not layers:
                raise ConvertError(
                    f"{path} is HDF5 but not a Keras weight file: it has no 'layer_names' (files "
                    "of Keras 3's save_weights, *.weights.h5, are not read: save the model as .h5)"
                )
            arrays: dict[str, np.ndarray] = {}
            for layer in layers:
                for stored in _names(root[layer], "weight_names"):
                    name = f"{layer}/{stored.rsplit('/', 1)[-1].split(':')[0]}"
                    if name in arrays:
                        raise ConvertError(
                            f"{path}: {layer!r} is a model inside the model (two weights "
                            f"{name!r}); save the backbone alone and convert that"
                        )
                    array = np.asarray(root[layer][stored])
                    if array.dtype.kind not in "fiu":
                        raise ConvertError(f"{path}: {name} holds {array.dtype}, no numbers")
                    arrays[name] = array
    except (OSError, KeyError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConvertError(
            f"cannot read {path} as a Keras .h5 file: {reason}. It may be truncated or of another "
            "kind: download it again and compare its size"
        ) from error
    return arrays
