"""Writes tests/goldens/*.npz: what the live Keras networks compute.

    KERAS_BACKEND=jax python scripts/make_goldens.py [NAME...]

For every network and image side of ``tests/keras_layout.py``: weights drawn from the layers'
names are set in the network of keras.applications, a drawn image goes through Keras' own
preprocess_input, and per layer the shape, L2 norm, mean, largest magnitude and eight values are
stored, so that the tests compare every layer with Keras without having Keras. Keras has no
SqueezeNet: that one is built of Keras layers here. Takes a few minutes.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
# The one recipe for the numbers is a test helper; scripts/ and tests/ are no packages.
sys.path.append(str(ROOT / "tests"))


def keras_statistics(name: str, sides: Sequence[int]) -> dict[int, dict[str, np.ndarray]]:
    """Runs one Keras network on the drawn images.

    Args:
      name: zoo name.
      sides: image sides in pixels.

    Returns:
      By side: ``layers`` (names), ``shapes [layers, 3]``, ``values [layers, 11]`` (L2 norm, mean,
      largest magnitude, eight values at fixed positions) and ``parameters``.
    """
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras
    from keras_layout import draw, draw_image, is_depthwise, pixels, positions

    from tlflax.backbones.table import get
    from tlflax.convert.keras_form import our_layers
    from tlflax.convert.oracle_keras import keras_application, keras_outputs, layer_outputs

    spec, found = get(name), {}
    for side in sides:
        keras.utils.clear_session()
        model = squeezenet(side) if name == "squeezenet_1.1" else keras_application(spec, side)
        names = our_layers([layer.name for layer in model.layers], spec)
        for weight in model.weights:
            layer, kind = weight.path.split("/")
            if layer == "normalization":  # EfficientNet's, already as published
                continue
            layer = names.get(layer, layer)
            # Keras 3 calls it kernel; the published files, and the recipe, depthwise_kernel.
            kind = "depthwise_kernel" if kind == "kernel" and is_depthwise(layer) else kind
            weight.assign(draw(layer, kind, tuple(weight.shape), pixels(spec)))
        if name == "squeezenet_1.1":
            prepare = keras.applications.imagenet_utils.preprocess_input
            image = prepare(draw_image(side).astype("float32"), mode="caffe")
            outputs = layer_outputs(model, image)
        else:
            outputs = keras_outputs(model, spec, draw_image(side))
        rows = []
        for array in outputs.values():
            values = array.astype(np.float64).ravel()
            head = [np.linalg.norm(values), values.mean(), np.abs(values).max()]
            rows.append([*head, *values[positions(values.size)]])
        found[side] = {
            "layers": np.array(list(outputs)),
            # A vector, as a mean over the map is, has zeros in front.
            "shapes": np.array([(*[0] * (4 - a.ndim), *a.shape[1:]) for a in outputs.values()]),
            "values": np.array(rows),
            "parameters": np.array(model.count_params()),
        }
    return found


def squeezenet(side: int):
    """SqueezeNet 1.1 without classifier, as a functional Keras model."""
    from keras import Input, Model, layers

    def convolution(x, prefix, name, *args, **options):
        # Caffe's ReLU works in place: the convolution's name means the output after it.
        x = layers.Conv2D(*args, activation="relu", name=f"{prefix}{name}", **options)(x)
        return layers.Activation("relu", name=f"{prefix}relu_{name}")(x)

    image = Input((side, side, 3))
    x = convolution(image, "", "conv1", 64, 3, strides=2)
    plan = ["pool1", 16, 16, "pool3", 32, 32, "pool5", 48, 48, 64, 64]
    index = 2
    for step in plan:
        if isinstance(step, str):
            x = layers.MaxPooling2D(3, 2, name=step)(x)
            continue
        fire, index = f"fire{index}_", index + 1
        x = convolution(x, fire, "squeeze1x1", step, 1)
        sides = [
            convolution(x, fire, f"expand{k}x{k}", 4 * step, k, padding="same") for k in (1, 3)
        ]
        x = layers.Concatenate(name=f"{fire}concat")(sides)
    return Model(image, x)


def main(names: list[str]) -> None:
    """Writes the files of the named networks, or of all."""
    from keras_layout import NETWORKS

    for name in names or NETWORKS:
        for side, stored in keras_statistics(name, NETWORKS[name].sides).items():
            path = ROOT / "tests" / "goldens" / f"{name}_{side}.npz"
            np.savez_compressed(path, **stored)
            print(
                f"{path.name}: {stored['parameters']:,} parameters, {len(stored['layers'])} layers"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
