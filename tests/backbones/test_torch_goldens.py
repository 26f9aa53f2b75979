"""Every layer of every torch network against what torch computes from the same seeded weights."""

import numpy as np
import pytest
from keras_layout import draw_image
from network_checks import error_of, outputs
from torch_layout import GOLDENS, NETWORKS, torch_arrays, weight_shapes, write_official

from tlflax import tree
from tlflax.backbones.inventory import abstract_variables
from tlflax.backbones.table import ZOO, get
from tlflax.convert.forms import form
from tlflax.convert.readers import WeightFile, read
from tlflax.convert.torch_names import styles
from tlflax.errors import ConfigError

# Float32 sums in another order: oneDNN's and XLA's kernels agree to a few ulp per layer, and up
# to 56 layers follow one another.
TOLERANCE = 1e-5


def golden(name, side):
    with np.load(GOLDENS / f"torch_{name}_{side}.npz") as file:
        return {k: file[k] for k in file.files}


CASES = [
    pytest.param(name, side, marks=[pytest.mark.slow] if side in layout.slow else [])
    for name, layout in NETWORKS.items()
    for side in layout.sides
]


def convert(name, folder):
    """Variables of a network from a file as it is published, or from what is in it."""
    spec = get(name)
    target = abstract_variables(spec.chain(), max(spec.min_size, 32))
    arrays = torch_arrays(name, styles(spec)[0])
    file = WeightFile("torch", arrays)
    # Writing and reading 350 MB proves nothing that the others do not.
    if sum(a.nbytes for a in arrays.values()) < 200e6:
        path = write_official(folder, spec.source.file_name, arrays)
        file = read(path)
        path.unlink()
    variables, dropped = form(file.form).convert(file.arrays, target, spec, name)
    assert len(dropped) == (0 if name.startswith("cifar") else 2)
    return variables


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """name -> variables; the last network's are kept for its next side."""
    kept = {}

    def get_variables(name):
        if name not in kept:
            kept.clear()
            kept[name] = convert(name, tmp_path_factory.mktemp("torch"))
        return kept[name]

    return get_variables


# Without modules of their own in torch: LayerScale, the gate's end, the parts of torchvision's
# attention, and what one library has and another has not.
UNMARKED = ("_mlp_act", "_gamma", "_se", "_attn_qkv", "_attn_proj")


@pytest.mark.parametrize(("name", "side"), CASES)
def test_every_layer_equals_torch(name, side, converted):
    stored = golden(name, side)
    variables = converted(name)
    found = outputs(get(name).chain(), variables, draw_image(side))
    index = {layer: i for i, layer in enumerate(stored["layers"])}
    # All that torch computes is marked here, and every block is compared.
    assert set(index) <= set(found) and set(get(name).chain()) <= set(index)
    extra = set(found) - set(index)
    assert all(layer in ("stem", "relu") or layer.endswith(UNMARKED) for layer in extra), extra
    blocks = [index[block] for block in get(name).chain()]
    assert blocks == sorted(blocks)
    for layer, array in found.items():
        if layer not in index:
            continue
        # Vectors and rows of tokens are stored with zeros in front.
        shape = tuple(stored["shapes"][index[layer]])
        assert (*[0] * (4 - array.ndim), *array.shape[1:]) == shape, layer
        error = error_of(array, stored["values"][index[layer]])
        assert error <= TOLERANCE, f"{layer} is off by {error:.1e}"
    # torch counts BatchNorm's stored mean and variance as buffers.
    assert tree.count(tree.flatten(variables["params"])) == stored["parameters"]
    assert tree.count(tree.flatten(variables.get("batch_stats", {}))) == stored["statistics"]
    assert stored["parameters"] + stored["statistics"] == get(name).parameters


def test_goldens_are_there_for_every_network_with_torch_weights():
    assert {s.name for s in ZOO.values() if s.form == "torch"} == set(NETWORKS)
    for name in NETWORKS:
        for style in styles(get(name)):
            assert len(weight_shapes(name, style)) > 90


@pytest.mark.parametrize(("name", "side"), [p.values for p in CASES])
def test_goldens_are_informative(name, side):
    # Dead, saturated or exploding layers would hide errors of what comes before them.
    stored = golden(name, side)
    norm, mean, largest, *samples = stored["values"].T
    rms = norm / np.sqrt(np.prod(np.maximum(stored["shapes"], 1), axis=1))
    assert np.all((rms > 0.1) & (rms < 10)) and largest.max() < 100
    assert np.all(np.abs(mean) < rms)
    # Behind a ReLU all eight may be zero; norm, mean and maximum still tell.
    assert np.mean(np.std(samples, axis=0) > 1e-3) > 0.9


def test_a_size_between_patches_is_refused():
    with pytest.raises(ConfigError, match="image size 150 is no multiple of the transformer"):
        abstract_variables(get("vit_s16").chain(), 150)
    assert "params" in abstract_variables(get("vit_s16").chain(), 160)
