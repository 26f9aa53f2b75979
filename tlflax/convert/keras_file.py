"""Keras weights, whatever file Keras put them in."""

from pathlib import Path

import numpy as np

from tlflax.convert import hdf5
from tlflax.convert.keras_h5 import read_keras_h5
from tlflax.convert.keras_model import KerasModel, read_config, read_keras_model
from tlflax.convert.keras_paths import read_class_paths
from tlflax.convert.keras_weights import MODELS, sublayers
from tlflax.errors import ConvertError


def read_keras(path: Path) -> dict[str, np.ndarray]:
    """Reads every weight as ``layer/weight``.

    Weight files and whole models, `.h5`, `.weights.h5` and `.keras`. Layers of models inside the
    model are called by their own names. A `.weights.h5` from before Keras 3.7 has no layer
    names: its arrays keep their stored paths (``layers/conv2d_1/vars/0``).

    Raises:
      ConvertError: see the readers.
    """
    if path.suffix == ".keras":
        return _flat(read_keras_model(path), path)
    with hdf5.opened(path, str(path)) as file:
        nested = False
        if "model_config" in file.attrs:
            config = read_config(hdf5.text(file.attrs["model_config"]), path.name)
            nested = any(layer.get("class_name") in MODELS for layer in sublayers(config))
        root = hdf5.member(file, "model_weights") if "model_weights" in file else file
        by_layer = bool(hdf5.names(root, "layer_names"))
        if not by_layer and ("layers" in file or "_layer_checkpoint_dependencies" in file):
            return read_class_paths(file, str(path))
        # A Windows path is one name.
        if not by_layer and any("\\vars" in str(name) for name in file):
            return read_class_paths(file, str(path))
    return _flat(read_keras_model(path), path) if nested else read_keras_h5(path)


def _flat(model: KerasModel, path: Path) -> dict[str, np.ndarray]:
    """Layers by their own names, without those of the models around them."""
    arrays: dict[str, np.ndarray] = {}
    for layer, weights in model.weights.items():
        for kind, array in weights.items():
            name = f"{layer.rsplit('/', 1)[-1]}/{kind}"
            if name in arrays:
                raise ConvertError(
                    f"{path} has two layers {layer.rsplit('/', 1)[-1]!r}, in different models; "
                    "use it as a network of its own, or save the backbone alone and convert that"
                )
            arrays[name] = array
    return arrays
