"""Writes tests/goldens/hub_*.npz: what TensorFlow computes for the networks of TensorFlow Hub.

    python scripts/make_hub_goldens.py [--slim]

Needs TensorFlow (the [tf] extra). Variables drawn from their names go through TF-Slim's ResNet V2
built from TensorFlow's operations (tests/hub_tensorflow.py); per layer the shape, L2 norm, mean,
largest magnitude and eight values are stored, so that the tests compare every layer without
having TensorFlow. ``--slim`` first compares that build with the published code, the package
tf_slim (which needs tf_keras as well). Takes about half a minute.
"""

import argparse
import importlib
import os
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
# The one recipe for the numbers is a test helper; scripts/ and tests/ are no packages.
sys.path.append(str(ROOT / "tests"))
# Slim's layers reach Keras 2 through TensorFlow.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")


def slim_outputs(arrays: dict[str, np.ndarray], images: np.ndarray) -> dict[str, np.ndarray]:
    """Slim's own end points for RGB uint8 ``images [N, H, W, 3]``, by slim's names."""
    legacy: Any = types.ModuleType("tf_keras.legacy_tf_layers")
    # Today's tf_keras has them one level deeper than TensorFlow looks for them.
    for name in ("base", "convolutional", "core", "normalization", "pooling"):
        module = importlib.import_module(f"tf_keras.src.legacy_tf_layers.{name}")
        sys.modules[f"{legacy.__name__}.{name}"] = module
        setattr(legacy, name, module)
    sys.modules[legacy.__name__] = legacy
    import tensorflow as tf
    import tf_slim
    from tf_slim.nets import resnet_v2

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        prepared = tf.constant(images.astype(np.float32) / 127.5 - 1.0)
        with tf_slim.arg_scope(resnet_v2.resnet_arg_scope()):
            _, ends = resnet_v2.resnet_v2_50(prepared, None, is_training=False)
        found = {v.op.name: v for v in v1.global_variables()}
        if list(found) != list(arrays):
            raise SystemExit("error: slim's variables are not those of tests/hub_layout.py")
        for name, variable in found.items():
            variable.load(arrays[name], session)
        return session.run(ends)


def check_slim(arrays: dict[str, np.ndarray], images: np.ndarray, ours: dict) -> float:
    """Largest error, relative to each layer's largest value, over all units' outputs."""
    worst = 0.0
    for name, value in slim_outputs(arrays, images).items():
        parts = name.split("/")
        if len(parts) != 4:  # resnet_v2_50/block1/unit_1/bottleneck_v2
            continue
        block, unit = int(parts[1].removeprefix("block")), parts[2].removeprefix("unit_")
        mine = ours[f"conv{block + 1}_block{unit}_out"]
        worst = max(worst, float(np.abs(mine - value).max() / np.abs(value).max()))
    return worst


def main(argv: list[str]) -> None:
    """Writes the files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--slim", action="store_true", help="compare with tf_slim's own network")
    options = parser.parse_args(argv)
    from hub_layout import GOLDENS, slim_arrays
    from hub_tensorflow import Slim
    from keras_layout import draw_image, positions

    arrays = slim_arrays()
    for name, side in GOLDENS:
        outputs, rows = Slim(arrays)(draw_image(side)), []
        if options.slim:
            worst = check_slim(arrays, draw_image(side), outputs)
            print(f"{name} at {side}: tf_slim's own code differs by {worst:.1e} at most")
        for array in outputs.values():
            values = array.astype(np.float64).ravel()
            head = [np.linalg.norm(values), values.mean(), np.abs(values).max()]
            rows.append([*head, *values[positions(values.size)]])
        path = ROOT / "tests" / "goldens" / f"{name}_{side}.npz"
        np.savez_compressed(
            path,
            layers=np.array(list(outputs)),
            shapes=np.array([array.shape[1:] for array in outputs.values()]),
            values=np.array(rows),
            parameters=np.array(sum(a.size for a in arrays.values())),
        )
        print(f"{path.name}: {len(outputs)} layers")


if __name__ == "__main__":
    main(sys.argv[1:])
