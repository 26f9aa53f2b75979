"""Every layer of every network against what Keras computes from the same seeded weights."""

from pathlib import Path

import jax
import numpy as np
import pytest
from keras_layout import GOLDENS, SIZE, draw_image, keras_arrays, positions, write_h5

from tlflax import tree
from tlflax.backbones.table import ZOO, get
from tlflax.convert.store import convert_file

FOLDER = Path(__file__).resolve().parents[1] / "goldens"
# Float32 sums in another order: the two frameworks' kernels agree to a few ulp per layer, and
# up to 50 layers follow one another.
TOLERANCE = 1e-5


def golden(name, side):
    with np.load(FOLDER / f"{name}_{side}.npz") as file:
        return {k: file[k] for k in file.files}


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """name -> weights, each network's file written and converted once."""
    cache = {}

    def get_weights(name):
        if name not in cache:
            spec = get(name)
            style = "vgg2016" if name.startswith("vgg") else "mobl"
            path = tmp_path_factory.mktemp("h5") / spec.source.file_name
            write_h5(path, keras_arrays(name), style)
            cache[name] = convert_file(spec, spec.chain(), path)
            path.unlink()
        return cache[name]

    return get_weights


def outputs(chain, variables, images):
    """Every marked layer's output, in the order of the chain, from one compiled pass."""
    order = []

    def run(variables, images):
        record = {}
        chain.apply(variables, images, record=record)
        order[:] = record
        return record

    found = jax.jit(run)(variables, images)
    return {name: np.asarray(found[name]) for name in order}


def error_of(array, expected):
    """Norm relative to itself; mean, maximum and values relative to the largest magnitude."""
    flat = array.astype(np.float64).ravel()
    head = [np.linalg.norm(flat), flat.mean(), np.abs(flat).max()]
    values = np.array([*head, *flat[positions(flat.size)]])
    scale = np.array([expected[0], *[expected[2]] * 10])
    return (np.abs(values - expected) / scale).max()


@pytest.mark.parametrize(("name", "side"), GOLDENS)
def test_every_layer_equals_keras(name, side, converted):
    stored = golden(name, side)
    weights = converted(name)
    found = outputs(get(name).chain(), weights.variables, draw_image(side))
    index = {layer: i for i, layer in enumerate(stored["layers"])}
    # All of ours exist there, and Keras has nothing that we do not mark but explicit padding.
    assert set(found) <= set(index)
    assert all(layer.endswith("_pad") for layer in set(index) - set(found))
    # Same order, so that cutting at a layer cuts at the same depth.
    assert [index[layer] for layer in found] == sorted(index[layer] for layer in found)
    for layer, array in found.items():
        assert array.shape[1:] == tuple(stored["shapes"][index[layer]]), layer
        error = error_of(array, stored["values"][index[layer]])
        assert error <= TOLERANCE, f"{layer} is off by {error:.1e}"
    flat = tree.flatten(weights.variables)
    assert tree.count(flat) == int(stored["parameters"]) == get(name).parameters


def test_goldens_are_there_for_every_network_with_keras_weights():
    from_keras = {s.name for s in ZOO.values() if s.source and s.form == "keras"}
    assert from_keras == {name for name, side in GOLDENS if side == SIZE}


@pytest.mark.parametrize(("name", "side"), GOLDENS)
def test_goldens_are_informative(name, side):
    # Dead, saturated or exploding layers would hide errors of what comes before them.
    stored = golden(name, side)
    norm, mean, largest, *samples = stored["values"].T
    rms = norm / np.sqrt(np.prod(stored["shapes"], axis=1))
    assert np.all((rms > 0.2) & (rms < 5)) and largest.max() < 50
    assert np.all(np.abs(mean) < rms)
    # Behind a ReLU all eight may be zero; norm, mean and maximum still tell.
    assert np.mean(np.std(samples, axis=0) > 1e-3) > 0.98
