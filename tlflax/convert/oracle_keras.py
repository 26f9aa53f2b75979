"""The live Keras networks, for `--verify` and for scripts/make_goldens.py."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlflax.convert.keras_form import our_layers
from tlflax.errors import ConvertError

if TYPE_CHECKING:
    from tlflax.backbones.spec import Spec

NAME = "keras.applications"
# Zoo name, or zoo name without its width -> module of keras.applications and function in it.
APPLICATIONS = {
    "vgg16": ("vgg16", "VGG16"),
    "vgg19": ("vgg19", "VGG19"),
    "resnet50": ("resnet", "ResNet50"),
    "resnet101": ("resnet", "ResNet101"),
    "resnet152": ("resnet", "ResNet152"),
    "resnet50_v2": ("resnet_v2", "ResNet50V2"),
    "resnet101_v2": ("resnet_v2", "ResNet101V2"),
    "resnet152_v2": ("resnet_v2", "ResNet152V2"),
    "mobilenet": ("mobilenet", "MobileNet"),
    "mobilenet_v2": ("mobilenet_v2", "MobileNetV2"),
    "inception_v3": ("inception_v3", "InceptionV3"),
    **{f"efficientnet_b{i}": ("efficientnet", f"EfficientNetB{i}") for i in range(8)},
}
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


def _application(spec: "Spec") -> tuple[Any, str]:
    """The module of keras.applications and the name of the function that builds ``spec``."""
    import keras

    if spec.name in APPLICATIONS:
        module, function = APPLICATIONS[spec.name]
    elif (family := spec.name.rpartition("_")[0]) in APPLICATIONS:
        module, function = APPLICATIONS[family]
    else:
        raise ConvertError(f"keras.applications has no {spec.name}; compare with --reference")
    return getattr(keras.applications, module), function


def keras_application(spec: "Spec", size: int):
    """The Keras application that a spec mirrors, without top and with random weights.

    Raises:
      ConvertError: there is none.
    """
    module, function = _application(spec)
    options = {"include_top": False, "weights": None, "input_shape": (size, size, 3)}
    if spec.name not in APPLICATIONS:
        options["alpha"] = spec.options["width"]
    model = getattr(module, function)(**options)
    for layer in model.layers:
        if layer.__class__.__name__ == "Normalization":
            # EfficientNet: as the published files have it, see keras_form.
            stored = (spec.contract.mean, spec.contract.std, 0)  # mean, variance, count
            layer.set_weights([np.array(v) for v in stored])
            layer.finalize_state()
    return model


def keras_outputs(model, spec: "Spec", images: np.ndarray) -> dict[str, np.ndarray]:
    """Every layer's output of a Keras application, with Keras' own preprocessing.

    Names are ours where Keras only counts its layers.
    """
    prepared: Any = _application(spec)[0].preprocess_input(images.astype("float32"))
    if spec.name.startswith("efficientnet"):
        # With weights="imagenet" alone, which downloads them, Keras puts a Rescaling by the root
        # of 1 / std behind the Normalization. Both are affine: it can as well stand before it.
        mean, std = 255 * np.array(spec.contract.mean), np.array(spec.contract.std)
        prepared = np.float32(mean + (prepared - mean) / np.sqrt(std))
    found = layer_outputs(model, prepared)
    names = our_layers(found, spec)
    return {names.get(layer, layer): array for layer, array in found.items()}


def layer_outputs(model, images: np.ndarray) -> dict[str, np.ndarray]:
    """Every layer's output of a functional Keras model, for prepared ``images [N, H, W, C]``."""
    import keras

    layers = [layer for layer in model.layers if layer.__class__.__name__ != "InputLayer"]
    every: Any = keras.Model(model.input, {layer.name: layer.output for layer in layers})
    outputs = every.predict(images, verbose=0)
    # predict() sorts the names; the first layer that differs is told by the network's order.
    return {layer.name: np.asarray(outputs[layer.name]) for layer in layers}
