"""Reader for Keras weight files in HDF5 (`*_no_top.h5`, `model.save_weights("x.h5")`).

Layout (Keras 1 and 2): the root, or the group ``model_weights`` of a whole-model file, has the
attribute ``layer_names``; every layer group has ``weight_names``, which alone give the order.
Attributes longer than 64 KiB are split into ``layer_names0``, ``layer_names1``, ...
"""

from pathlib import Path
from typing import Any

import numpy as np

from tlflax.convert import hdf5
from tlflax.errors import ConvertError


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
    with hdf5.opened(path, str(path)) as file:
        # A name may be a group, an array or a type; what does not behave like the expected one
        # ends as an unreadable file.
        root: Any = hdf5.member(file, "model_weights") if "model_weights" in file else file
        layers = hdf5.names(root, "layer_names")
        if not layers:
            raise ConvertError(
                f"{path} is HDF5 but not a Keras weight file: it has no 'layer_names'"
            )
        arrays: dict[str, np.ndarray] = {}
        for layer in layers:
            group = hdf5.member(root, layer)
            for stored in hdf5.names(group, "weight_names"):
                name = f"{layer}/{stored.rsplit('/', 1)[-1].split(':')[0]}"
                if name in arrays:
                    raise ConvertError(
                        f"{path}: {layer!r} is a model inside the model (two weights {name!r}); "
                        "save the backbone alone and convert that"
                    )
                arrays[name] = hdf5.array(group, stored, name)
    return arrays
