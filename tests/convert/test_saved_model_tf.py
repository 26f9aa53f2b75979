"""SavedModel folders that TensorFlow and Keras 2 write, read back."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tlflax.convert.own import open_own
from tlflax.convert.saved_model import open_saved_model, read_keras_saved_model, read_saved_model
from tlflax.errors import ConvertError

pytestmark = pytest.mark.tf

TESTS = Path(__file__).resolve().parents[1]
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"

# Makes the folders; its own warnings are not ours.
KERAS = """
import pathlib, shutil, sys
import numpy as np
import tf_keras as keras
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tf_keras.protobuf.saved_metadata_pb2 import SavedMetadata
L = keras.layers
np.random.seed(0)
inner = keras.Sequential([
    keras.Input((16, 16, 4)), L.SeparableConv2D(6, 3, name="sep"), L.BatchNormalization(name="bn")
], name="inner")
x = y = keras.Input((16, 16, 3), name="pixels")
y = L.Rescaling(1 / 255, name="rescale")(y)
y = L.Conv2D(4, 3, padding="same", activation="relu", name="conv")(y)
z = L.DepthwiseConv2D(3, padding="same", name="dw")(y)
y = L.Add(name="add")([y, z])
y = L.Dropout(0.5, name="drop")(inner(y))
y = L.GlobalAveragePooling2D(name="pool")(y)
y = L.Dense(3, activation="softmax", name="probs")(y)
model = keras.Model(x, y, name="own")
model.set_weights([np.abs(np.random.normal(0.5, 0.3, w.shape)) for w in model.get_weights()])
model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype("float32")
model.fit(images, np.eye(3)[[0, 1, 2, 0]], verbose=0)
model.save(sys.argv[1], save_format="tf")
# Up to TensorFlow 2.4 the descriptions were in saved_model.pb itself.
old = pathlib.Path(shutil.copytree(sys.argv[1], sys.argv[1] + "_2.4"))
described, saved = SavedMetadata(), SavedModel()
described.ParseFromString((old / "keras_metadata.pb").read_bytes())
(old / "keras_metadata.pb").unlink()
saved.ParseFromString((old / "saved_model.pb").read_bytes())
for node in described.nodes:
    user_object = saved.meta_graphs[0].object_graph_def.nodes[node.node_id].user_object
    user_object.metadata = node.metadata
(old / "saved_model.pb").write_bytes(saved.SerializeToString())
np.savez(sys.argv[2], x=images.astype("uint8"), probs=model.predict(images, verbose=0))
"""


def needs(package):
    """Skips without importing it: TensorFlow stays out of the process of the tests."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


def tensorflow(*args):
    """Runs Python with TensorFlow in a process of its own."""
    done = subprocess.run(
        [sys.executable, *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_folders_that_tensorflow_writes(tmp_path):
    needs("tensorflow")
    rng = np.random.default_rng(0)
    arrays = {
        "module/net/conv/weights": rng.normal(size=(3, 3, 2, 4)).astype(np.float32),
        "module/net/conv/biases": rng.normal(size=4).astype(np.float32),
        "module/net/count": np.array(7, np.int64),
        "module/net/conv/weights/Momentum": np.zeros((3, 3, 2, 4), np.float32),
        "global_step": np.array(3, np.int64),
    }
    np.savez(tmp_path / "arrays.npz", **arrays)
    words = [w for t in ("tf1", "tf2") for w in (t, tmp_path / "arrays.npz", tmp_path / t)]
    tensorflow(TESTS / "hub_tensorflow.py", *words)
    kept = [n for n in arrays if "Momentum" not in n and n != "global_step"]
    for layout in ("tf1", "tf2"):
        found = open_saved_model(tmp_path / layout)
        # TensorFlow 2 calls them by object, and puts a counter of its own beside them.
        assert len(found.left_out) == (2 if layout == "tf1" else 3)
        assert next(iter(found.arrays)).endswith(VALUE) == (layout == "tf2")
        assert set(found.names.values()) == set(kept)
        for key, name in found.names.items():
            np.testing.assert_array_equal(found.arrays[key], arrays[name])
    data = tmp_path / "tf1" / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-40])
    (tmp_path / "tf2" / "saved_model.pb").write_bytes(b"<!DOCTYPE html>")
    for layout in ("tf1", "tf2"):
        with pytest.raises(ConvertError, match="cannot read the SavedModel folder") as error:
            read_saved_model(tmp_path / layout)
        assert "\n" not in str(error.value)
    assert "tensorflow" not in sys.modules


def test_a_keras_model_that_keras_2_saves(tmp_path):
    needs("tensorflow")
    needs("tf_keras")  # Keras 2: Keras 3 writes no such folders any more
    tensorflow("-c", KERAS, tmp_path / "own", tmp_path / "reference.npz")
    model = read_keras_saved_model(tmp_path / "own")
    assert set(model.weights) == {"conv", "dw", "inner/sep", "inner/bn", "probs"}
    assert set(model.weights["inner/sep"]) == {"depthwise_kernel", "pointwise_kernel", "bias"}
    spec, weights = open_own(tmp_path / "own_2.4")
    with np.load(tmp_path / "reference.npz") as file:
        images, probs = file["x"], file["probs"]
    found = np.asarray(spec.chain().apply(weights.variables, images))
    # TensorFlow's kernels, in float32, nine layers.
    np.testing.assert_allclose(found, probs, atol=1e-5)
