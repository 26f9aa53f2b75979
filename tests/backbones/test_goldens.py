"""Every layer of every network against what Keras computes from the same seeded weights."""

import re

import numpy as np
import pytest
from keras_layout import (
    GOLDENS,
    GOLDENS_FOLDER,
    NETWORKS,
    draw_image,
    inventory,
    keras_arrays,
    keras_order,
    write_h5,
)
from network_checks import error_of, outputs

from tlflax import tree
from tlflax.backbones.table import ZOO, get
from tlflax.convert.forms import form
from tlflax.convert.readers import WeightFile, read

# Float32 sums in another order: the two frameworks' kernels agree to a few ulp per layer, and
# up to 50 layers follow one another.
TOLERANCE = 1e-5


def golden(name, side):
    with np.load(GOLDENS_FOLDER / f"{name}_{side}.npz") as file:
        return {k: file[k] for k in file.files}


def marked(name):
    layout, slow = NETWORKS[name], [pytest.mark.slow]
    return [
        pytest.param(name, side, marks=slow if side in layout.slow else []) for side in layout.sides
    ]


def convert(name, folder):
    """Variables of a network from its file, or from what a reader would find in it."""
    spec, target = get(name), inventory(name)[0]
    path = folder / spec.source.file_name
    if NETWORKS[name].through_file:
        style, order = NETWORKS[name].style, keras_order(name)
        file = read(write_h5(path, keras_arrays(name), style, order=order))
        path.unlink()
    else:
        named = {f"{n}/{w}": a for n, ws in keras_arrays(name).items() for w, a in ws.items()}
        file = WeightFile("keras", named)
    return form(file.form).convert(file.arrays, target, spec, path.name)[0]


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """name -> variables; the last network's are kept for its next side."""
    kept = {}

    def get_variables(name):
        if name not in kept:
            kept.clear()
            kept[name] = convert(name, tmp_path_factory.mktemp("h5"))
        return kept[name]

    return get_variables


@pytest.mark.parametrize(("name", "side"), [p for name in NETWORKS for p in marked(name)])
def test_every_layer_equals_keras(name, side, converted):
    stored = golden(name, side)
    variables = converted(name)
    found = outputs(get(name).chain(), variables, draw_image(side))
    index = {layer: i for i, layer in enumerate(stored["layers"])}
    # All of ours exist there, and Keras has nothing that we do not mark but explicit padding.
    assert set(found) <= set(index)
    unmarked = re.compile(NETWORKS[name].unmarked)
    assert all(unmarked.fullmatch(layer) for layer in set(index) - set(found))
    # Same order, so that cutting at a layer cuts at the same depth.
    layout, chain = NETWORKS[name], get(name).chain()
    ordered = [index[layer] for layer in (chain if layout.parallel else found)]
    assert ordered == sorted(ordered)
    for layer, array in found.items():
        # A vector, such as the mean over a map, is stored with zeros in front.
        shape = tuple(stored["shapes"][index[layer]])
        assert (*[0] * (4 - array.ndim), *array.shape[1:]) == shape, layer
        error = error_of(array, stored["values"][index[layer]])
        assert error <= TOLERANCE, f"{layer} is off by {error:.1e}"
    count = int(stored["parameters"]) - layout.beside
    assert tree.count(tree.flatten(variables)) == count == get(name).parameters


def test_goldens_are_there_for_every_network_with_keras_weights():
    from_keras = {s.name for s in ZOO.values() if s.source and s.form == "keras"}
    assert from_keras == set(NETWORKS)
    assert {f"{name}_{side}.npz" for name, side in GOLDENS} <= {
        p.name for p in GOLDENS_FOLDER.iterdir()
    }


@pytest.mark.parametrize(("name", "side"), GOLDENS)
def test_goldens_are_informative(name, side):
    # Dead, saturated or exploding layers would hide errors of what comes before them.
    stored = golden(name, side)
    # Padding is not ours; the first one of Caffe's networks has the pixels, of another order.
    ours = [not re.fullmatch(NETWORKS[name].unmarked, layer) for layer in stored["layers"]]
    norm, mean, largest, *samples = stored["values"][ours].T
    rms = norm / np.sqrt(np.prod(np.maximum(stored["shapes"][ours], 1), axis=1))
    assert np.all((rms > 0.1) & (rms < 10)) and largest.max() < 100
    assert np.all(np.abs(mean) < rms)
    # Behind a ReLU all eight may be zero; norm, mean and maximum still tell.
    assert np.mean(np.std(samples, axis=0) > 1e-3) > 0.9
