"""The live keras.applications networks (KERAS_BACKEND=jax) against ours: minutes, not seconds."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
from keras_layout import NETWORKS, inventory, keras_arrays, keras_order, write_h5

from tlflax import tree
from tlflax.backbones.table import get
from tlflax.convert.__main__ import main
from tlflax.convert.oracle_keras import keras_application
from tlflax.convert.store import convert_file
from tlflax.convert.tensors import read_facts
from tlflax.errors import ConvertError

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def keras(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", os.environ.get("KERAS_BACKEND", "jax"))
    module = pytest.importorskip("keras")
    module.utils.clear_session()
    return module


@pytest.fixture(scope="module")
def script():
    path = ROOT / "scripts" / "make_goldens.py"
    spec = importlib.util.spec_from_file_location("make_goldens", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Keras has no SqueezeNet of its own to verify with; its goldens are made and real files compared.
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "squeezenet_1.1"])
def test_every_element_of_every_layer(name, tmp_path, record_property, capsys):
    """The command's own --verify: both read the same file, all elements are compared."""
    source, dest = tmp_path / "w.h5", tmp_path / "w.safetensors"
    write_h5(source, keras_arrays(name), NETWORKS[name].style, order=keras_order(name))
    main(["convert", str(source), str(dest), "--backbone", name, "--verify"])
    certificate = read_facts(dest)["certificate"]
    worst = max(e["max_rel"] for e in certificate["endpoints"].values())
    with capsys.disabled():
        print(f"\n{name}: {len(certificate['endpoints'])} layers, largest error {worst:.1e}")
    assert certificate["method"] == "keras" and certificate["versions"]["keras_backend"] == "jax"
    assert worst <= 1e-5
    assert tuple(certificate["endpoints"]) == inventory(name)[1]


@pytest.mark.parametrize("name", NETWORKS)
def test_goldens_can_be_made_again(name, script):
    for side, made in script.keras_statistics(name, NETWORKS[name].sides).items():
        with np.load(ROOT / "tests" / "goldens" / f"{name}_{side}.npz") as stored:
            for key in ("layers", "shapes", "parameters"):
                assert np.array_equal(made[key], stored[key])
            # Another CPU, or another release of XLA, may sum in another order.
            scale = stored["values"][:, 2:3]
            assert np.max(np.abs(made["values"] - stored["values"]) / scale[:, :1]) < 1e-4


# Keras 3.15 variables and numpy 2 (seen 2026-11); h5py and this test both ask for arrays.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    "name", ["vgg16", "mobilenet_v2_0.35", "mobilenet_0.25", "resnet50", "resnet50_v2"]
)
@pytest.mark.parametrize("suffix", [".h5", ".keras", ".weights.h5"])
def test_files_that_keras_writes_today(name, suffix, keras, tmp_path):
    spec, path = get(name), tmp_path / f"m{suffix}"
    model = keras_application(spec, 32)
    (model.save_weights if suffix == ".weights.h5" else model.save)(path)
    variables = convert_file(spec, spec.chain(), path).variables
    of_layer = {}
    for collection in variables.values():
        for leaf, array in tree.flatten(collection).items():
            *_, layer, weight = leaf.split("/")
            of_layer[layer, weight] = array
    # Fresh biases and statistics are all alike; each kernel is its own.
    kernels = [w for w in model.weights if w.path.endswith("/kernel")]
    assert len(kernels) == sum(weight == "kernel" for _, weight in of_layer)
    for weight in kernels:
        found = of_layer[weight.path.split("/")[0], "kernel"]
        np.testing.assert_array_equal(found.ravel(), np.asarray(weight).ravel())


def test_verify_finds_a_wrong_network(tmp_path, monkeypatch):
    from tlflax.backbones import mobilenet_v2

    monkeypatch.setattr(mobilenet_v2, "_EPSILON", 1e-2)
    source, dest = tmp_path / "w.h5", tmp_path / "w.safetensors"
    write_h5(source, keras_arrays("mobilenet_v2_0.35"))
    with pytest.raises(ConvertError, match="differs from its keras first at bn_Conv1"):
        main(["convert", str(source), str(dest), "--backbone", "mobilenet_v2_0.35", "--verify"])
    assert not dest.exists()
