"""TF-Slim's ResNet V2: every layer against what TensorFlow computes from the same variables."""

from pathlib import Path

import jax
import numpy as np
import pytest
from hub_layout import slim_arrays, slim_resnet_v2
from keras_layout import draw_image, inventory
from test_goldens import error_of, outputs

from tlflax import tree
from tlflax.backbones.inventory import abstract_variables
from tlflax.backbones.table import get
from tlflax.convert import hub_form
from tlflax.convert.hub_resnet_v2 import source_names

NAME = "hub_resnet50_v2"
FOLDER = Path(__file__).resolve().parents[1] / "goldens"
# Float32 sums in another order than TensorFlow's, through 50 layers; measured 1e-6.
TOLERANCE = 1e-5


def golden(side):
    with np.load(FOLDER / f"{NAME}_{side}.npz") as file:
        return {k: file[k] for k in file.files}


@pytest.fixture(scope="module")
def variables():
    return hub_form.convert(slim_arrays(), inventory(NAME)[0], get(NAME), "the module")[0]


def compare(found, stored):
    index = {layer: i for i, layer in enumerate(stored["layers"])}
    for layer, array in found.items():
        assert array.shape[1:] == tuple(stored["shapes"][index[layer]]), layer
        error = error_of(array, stored["values"][index[layer]])
        assert error <= TOLERANCE, f"{layer} is off by {error:.1e}"


def test_every_layer_equals_tensorflow(variables):
    stored = golden(64)
    found = outputs(get(NAME).chain(), variables, draw_image(64))
    # The same layers; inside a unit the shortcut's place among the others differs.
    assert set(found) == set(stored["layers"])
    blocks = [b.name for b in get(NAME).chain().blocks]
    assert [n for n in found if n in blocks] == [n for n in stored["layers"] if n in blocks]
    compare(found, stored)
    assert tree.count(tree.flatten(variables)) == int(stored["parameters"]) == 23_564_800
    assert get(NAME).parameters == 23_564_800


def test_pooling_of_an_odd_map_pads_as_tensorflow_does(variables):
    # 66 pixels make a map of 33 before the pooling, 64 one of 32: SAME pads them differently.
    def run(v, x):
        record = {}
        get(NAME).chain().apply(v, x, record=record, stop="conv2_block1_out")
        return record

    found = jax.jit(run)(variables, draw_image(66))
    assert found["pool1_pool"].shape[1] == 17
    compare({name: np.asarray(y) for name, y in found.items()}, golden(66))


def test_it_is_not_the_network_of_keras(variables):
    # One layer differs, and the conversion could not tell: shapes and parameters are equal.
    images = draw_image(64)
    slim = get(NAME).chain().apply(variables, images, stop="pool1_pool")
    keras = get("resnet50_v2").chain().apply(variables, images, stop="pool1_pool")
    assert slim.shape == keras.shape and float(np.abs(slim - keras).max()) > 0.1


@pytest.mark.parametrize("side", [64, 66])
def test_goldens_are_informative(side):
    # Dead, saturated or exploding layers would hide errors of what comes before them.
    stored = golden(side)
    norm, mean, largest, *samples = stored["values"].T
    rms = norm / np.sqrt(np.prod(stored["shapes"], axis=1))
    assert np.all((rms > 0.1) & (rms < 10)) and largest.max() < 50
    assert np.all(np.abs(mean) < rms)
    # Behind a ReLU all eight may be zero; norm, mean and maximum still tell.
    assert np.mean(np.std(samples, axis=0) > 1e-3) > 0.97


def test_names_and_shapes_are_those_of_slim():
    shapes, target = slim_resnet_v2(), inventory(NAME)[0]
    flat = {f"{c}/{p}": leaf.shape for c in target for p, leaf in tree.flatten(target[c]).items()}
    names = source_names(flat)
    assert len(set(names.values())) == len(flat) == len(shapes) == 270
    assert {names[path]: shape for path, shape in flat.items()} == shapes


@pytest.mark.parametrize(
    ("alias", "endpoint", "inner", "shape"),
    [
        ("block1", "conv2_block3_out", "unit_3", (8, 8, 256)),
        ("resnet_v2_50/block3", "conv4_block6_out", "unit_6", (2, 2, 1024)),
        ("resnet_v2_50/block2/unit_2/bottleneck_v2", "conv3_block2_out", "unit_2", (8, 8, 512)),
        ("block4/unit_1", "conv5_block1_out", "unit_1", (2, 2, 2048)),
        ("postnorm", "post_relu", "", (2, 2, 2048)),
    ],
)
def test_slim_names_find_their_units(alias, endpoint, inner, shape):
    assert get(NAME).aliases[alias] == endpoint
    shapes = golden(64)
    assert tuple(shapes["shapes"][list(shapes["layers"]).index(endpoint)]) == shape
    names = source_names(
        f"params/{p}" for p in tree.flatten(inventory(NAME)[0]["params"]) if endpoint in p
    )
    assert all(inner in n for n in names.values()) and names


def test_aliases_are_blocks():
    spec = get(NAME)
    blocks = list(abstract_variables(spec.chain(), 32)["params"])
    assert set(spec.aliases.values()) <= set(blocks)
    assert len(spec.aliases) == 2 * 16 + 2 * 4 + 2
