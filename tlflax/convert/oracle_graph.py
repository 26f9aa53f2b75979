"""A user's own Keras model, run by Keras itself, for `--verify`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tlflax.errors import ConvertError

if TYPE_CHECKING:
    from tlflax.backbones.spec import Spec

NAME = "the model in Keras"
# On JAX both sides run the same XLA kernels, only in another order.
TOLERANCE = 1e-5


def outputs(
    spec: "Spec", path: Path, images: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Outputs of the model's own layers (not of those of nested models), by layer name.

    Args:
      spec: with the contract by which both sides get their pixels.
      path: the file or folder that was converted.
      images: RGB uint8 ``[N, H, W, 3]``.

    Raises:
      ConvertError: Keras is missing, or cannot load the file.
    """
    os.environ.setdefault("KERAS_BACKEND", "jax")
    try:
        import keras
    except ImportError as error:
        raise ConvertError("--verify needs Keras: pip install keras") from error
    from tlflax.backbones.chain import preprocess

    try:
        # Keras' safe mode stays on; a Lambda has been refused before anyway.
        model = keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises whatever its deserialisation runs into
        reason = str(error).strip().splitlines()[0][:160]
        raise ConvertError(
            f"Keras {keras.__version__} cannot load {path.name}, so there is nothing to verify "
            f"against: {reason}"
        ) from error
    layers = [x for x in model.layers if not isinstance(x, keras.Model | keras.layers.InputLayer)]
    every = keras.Model(model.inputs, {layer.name: layer.output for layer in layers})
    pixels = np.asarray(preprocess(images, spec.contract))
    found = every.predict(pixels, verbose=0)
    versions = {"keras": keras.__version__, "keras_backend": keras.backend.backend()}
    return {layer.name: np.asarray(found[layer.name]) for layer in layers}, versions
