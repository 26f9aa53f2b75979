"""The two real Keras SavedModels, against outputs stored with them and on real images."""

import importlib.util
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from tlflax import tree
from tlflax.convert import saved_model
from tlflax.convert.own import open_own

pytestmark = [pytest.mark.real, pytest.mark.tf]
# The stored outputs come from TensorFlow's kernels.
TOLERANCE = 1e-4
# name -> how its images are prepared, parameters, number of optimizer slots and counters,
# metrics and random states that are left out.
MODELS = {"potatoes_1": ("auto", 183_747, 43), "pld_cnn3": ("unit_bgr", 168_611, 45)}
# The order of pld_cnn3's outputs, by the folder names of its images.
CLASSES = ("Healthy", "EarlyBlight", "LateBlight")


@pytest.fixture(scope="module")
def opened(real):
    """Each folder read once; TensorFlow takes seconds to start."""
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("tensorflow is not installed")
    folder = real / "weights" / "savedmodel"
    return {name: saved_model.open_saved_model(folder / name) for name in MODELS}


@pytest.fixture
def network(real, opened, monkeypatch):
    def open_network(name):
        monkeypatch.setattr(saved_model, "open_saved_model", lambda path: opened[path.name])
        spec, weights = open_own(real / "weights" / "savedmodel" / name, MODELS[name][0])
        run = jax.jit(lambda v, x: spec.chain().apply(v, x))
        return spec, weights, lambda images: np.asarray(run(weights.variables, images))

    return open_network


@pytest.mark.parametrize("name", MODELS)
def test_real_folder_gives_the_stored_outputs(name, real, opened, network):
    spec, weights, run = network(name)
    with np.load(real / "reference" / f"savedmodel_{name}.npz") as file:
        images, probs = file["x"], file["probs"]
    # Probabilities: absolute and relative to the largest is the same here.
    np.testing.assert_allclose(run(images), probs, atol=TOLERANCE * probs.max())
    assert spec.size == 256 and spec.form == "graph"
    _, parameters, left_out = MODELS[name]
    assert len(opened[name].left_out) == left_out
    found = tree.count(tree.flatten(weights.variables))
    assert found == sum(a.size for a in opened[name].arrays.values()) == parameters
    assert "tensorflow" not in sys.modules


def test_real_images_are_recognised(real, network):
    _, _, run = network("pld_cnn3")
    folder = real / "datasets" / "potato_leaf" / "test"
    by_class = {p.name: sorted(p.iterdir()) for p in folder.iterdir()}
    assert set(by_class) == set(CLASSES)
    right = total = 0
    for label, name in enumerate(CLASSES):
        images = np.stack([np.asarray(Image.open(f).convert("RGB")) for f in by_class[name]])
        right += int((run(images).argmax(-1) == label).sum())
        total += len(images)
    # As measured with TensorFlow, see the README beside the files.
    assert (right, total) == (119, 120)
