"""The live Keras networks, for `--verify` and for scripts/make_goldens.py."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlflax.errors import ConvertError

if TYPE_CHECKING:
    from tlflax.backbones.spec import Spec

NAME = "keras.applications"
# On JAX both sides run the same XLA kernels, only in another order.
TOLERANCE = 1e-5


def outputs(
    spec: "Spec", path: Path, images: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Every layer's output for RGB uint8 ``images [N, H, W, 3]`` with the weights of ``path``.

    Raises:
      ConvertError: Keras is missing, or cannot load the file.
    """
    os.environ.setdefault("KERAS_BACKEND", "jax")
    try:
        import keras
    except ImportError as error:
        raise ConvertError("--verify needs Keras: pip install keras") from error
    model = keras_application(spec, images.shape[1])
    try:
        model.load_weights(path)
    except (ValueError, OSError) as error:
        raise ConvertError(
            f"Keras cannot load {path.name} into {spec.name} without its classifier, so there is "
            f"nothing to verify against: {str(error).splitlines()[0]}"
        ) from error
    versions = {"keras": keras.__version__, "keras_backend": keras.backend.backend()}
    return keras_outputs(model, spec, images), versions


def keras_application(spec: "Spec", size: int):
    """The Keras application that a spec mirrors, without top and with random weights."""
    import keras

    shape = {"include_top": False, "weights": None, "input_shape": (size, size, 3)}
    if spec.name in ("vgg16", "vgg19"):
        return getattr(keras.applications, spec.name.upper())(**shape)
    if spec.name.startswith("mobilenet_v2_"):
        return keras.applications.MobileNetV2(alpha=spec.options["width"], **shape)
    raise ConvertError(f"keras.applications has no {spec.name}")


def keras_outputs(model, spec: "Spec", images: np.ndarray) -> dict[str, np.ndarray]:
    """Every layer's output of a Keras application, with Keras' own preprocessing."""
    import keras

    package = "mobilenet_v2" if spec.name.startswith("mobilenet_v2") else spec.name
    prepare = getattr(keras.applications, package).preprocess_input
    layers = [layer for layer in model.layers if layer.__class__.__name__ != "InputLayer"]
    every: Any = keras.Model(model.input, {layer.name: layer.output for layer in layers})
    outputs = every.predict(prepare(images.astype("float32")), verbose=0)
    # predict() sorts the names; the first layer that differs is told by the network's order.
    return {layer.name: np.asarray(outputs[layer.name]) for layer in layers}
