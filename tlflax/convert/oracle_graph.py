"""A user's own Keras model, run by Keras itself, for `--verify`."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    """Outputs of every layer, those of nested models too, by our layer names.

    Args:
      spec: with the contract by which both sides get their pixels.
      path: the file that was converted.
      images: RGB uint8 ``[N, H, W, 3]``.

    Raises:
      ConvertError: Keras is missing, or cannot load the file.
    """
    os.environ.setdefault("KERAS_BACKEND", "jax")
    try:
        import keras
    except ImportError as error:
        raise ConvertError("--verify needs Keras: pip install keras") from error
    import jax.numpy as jnp

    from tlflax.backbones.chain import preprocess

    try:
        # Keras' safe mode stays on; a Lambda has been refused before anyway.
        model: Any = keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises whatever its deserialisation runs into
        reason = str(error).strip().splitlines()[0][:160]
        raise ConvertError(
            f"Keras {keras.__version__} cannot load {path.name}, so there is nothing to verify "
            f"against: {reason}"
        ) from error
    renamed = json.loads(spec.options["graph"])["renamed"]
    names = {
        layer: renamed.get(where, where.split("/")[-1])
        for layer, where in _paths(model, "").items()
    }
    found: dict[str, np.ndarray] = {}
    with _recording(keras.layers.Layer, names, found):
        model(np.asarray(preprocess(jnp.asarray(images), spec.contract)), training=False)
    return found, {"keras": keras.__version__, "keras_backend": keras.backend.backend()}


def _paths(model: Any, prefix: str) -> dict[Any, str]:
    """Layer -> path through the models around it."""
    found: dict[Any, str] = {}
    for layer in model.layers:
        path = f"{prefix}{layer.name}"
        found |= _paths(layer, f"{path}/") if hasattr(layer, "layers") else {layer: path}
    return found


@contextmanager
def _recording(base: Any, names: dict[Any, str], found: dict[str, np.ndarray]) -> Iterator[None]:
    """Keeps what layers return: Keras itself cannot see into a model inside a model."""
    call = base.__call__

    def recording(self, *args, **kwargs):
        result = call(self, *args, **kwargs)
        # The second call of a layer has a name of its own here.
        if self in names:
            found.setdefault(names[self], np.asarray(result))
        return result

    base.__call__ = recording
    try:
        yield
    finally:
        base.__call__ = call
