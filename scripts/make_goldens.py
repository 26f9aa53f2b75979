"""Writes tests/goldens/*.npz: what the live keras.applications networks compute.

    KERAS_BACKEND=jax python scripts/make_goldens.py [NAME...]

For every network and image side of ``tests/keras_layout.py``: weights drawn from the layers'
names are set in the Keras network, a drawn image goes through Keras' own preprocess_input, and
per layer the shape, L2 norm, mean, largest magnitude and eight values are stored, so that the
tests compare every layer with Keras without having Keras. Takes about five minutes.
"""

import os
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
# The one recipe for the numbers is a test helper; scripts/ and tests/ are no packages.
sys.path.append(str(ROOT / "tests"))


def keras_statistics(name: str, sides: list[int]) -> dict[int, dict[str, np.ndarray]]:
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
    from keras_layout import draw, draw_image, positions

    from tlflax.backbones.table import get
    from tlflax.convert.oracle_keras import keras_application, keras_outputs

    spec, found = get(name), {}
    for side in sides:
        keras.utils.clear_session()
        model = keras_application(spec, side)
        for weight in model.weights:
            layer, kind = weight.path.split("/")
            # Keras 3 calls it kernel; the published files, and the recipe, depthwise_kernel.
            kind = "depthwise_kernel" if layer.endswith("_depthwise") else kind
            weight.assign(draw(layer, kind, tuple(weight.shape)))
        outputs, rows = keras_outputs(model, spec, draw_image(side)), []
        for array in outputs.values():
            values = array.astype(np.float64).ravel()
            head = [np.linalg.norm(values), values.mean(), np.abs(values).max()]
            rows.append([*head, *values[positions(values.size)]])
        found[side] = {
            "layers": np.array(list(outputs)),
            "shapes": np.array([array.shape[1:] for array in outputs.values()]),
            "values": np.array(rows),
            "parameters": np.array(model.count_params()),
        }
    return found


def main(names: list[str]) -> None:
    """Writes the files of the named networks, or of all."""
    from keras_layout import GOLDENS

    for name in names or list(dict.fromkeys(n for n, _ in GOLDENS)):
        sides = [side for n, side in GOLDENS if n == name]
        for side, stored in keras_statistics(name, sides).items():
            path = ROOT / "tests" / "goldens" / f"{name}_{side}.npz"
            np.savez_compressed(path, **stored)
            print(
                f"{path.name}: {stored['parameters']:,} parameters, {len(stored['layers'])} layers"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
