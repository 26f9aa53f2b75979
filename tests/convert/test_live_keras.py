"""The live keras.applications networks (KERAS_BACKEND=jax) against ours: minutes, not seconds."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
from keras_layout import GOLDENS, SIZE, keras_arrays, write_h5

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


@pytest.mark.parametrize("name", [name for name, side in GOLDENS if side == SIZE])
def test_every_element_of_every_layer(name, tmp_path, record_property, capsys):
    """The command's own --verify: both read the same file, all elements are compared."""
    source, dest = tmp_path / "w.h5", tmp_path / "w.safetensors"
    style = "vgg2016" if name.startswith("vgg") else "mobl"
    write_h5(source, keras_arrays(name), style)
    main(["convert", str(source), str(dest), "--backbone", name, "--verify"])
    certificate = read_facts(dest)["certificate"]
    worst = max(e["max_rel"] for e in certificate["endpoints"].values())
    with capsys.disabled():
        print(f"\n{name}: {len(certificate['endpoints'])} layers, largest error {worst:.1e}")
    assert certificate["method"] == "keras" and certificate["versions"]["keras_backend"] == "jax"
    assert worst <= 1e-5
    assert len(certificate["endpoints"]) == (149 if "mobile" in name else int(name[3:]) + 2)


@pytest.mark.parametrize("name", list(dict.fromkeys(name for name, _ in GOLDENS)))
def test_goldens_can_be_made_again(name, script):
    sides = [side for n, side in GOLDENS if n == name]
    for side, made in script.keras_statistics(name, sides).items():
        with np.load(ROOT / "tests" / "goldens" / f"{name}_{side}.npz") as stored:
            for key in ("layers", "shapes", "parameters"):
                assert np.array_equal(made[key], stored[key])
            # Another CPU, or another release of XLA, may sum in another order.
            scale = stored["values"][:, 2:3]
            assert np.max(np.abs(made["values"] - stored["values"]) / scale[:, :1]) < 1e-4


# Keras 3.15 variables and numpy 2 (seen 2026-11); h5py and this test both ask for arrays.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("name", ["vgg16", "mobilenet_v2_0.35"])
def test_files_that_keras_writes_today(name, keras, tmp_path):
    model = keras_application(get(name), 32)
    model.save(tmp_path / "m.h5")
    weights = convert_file(get(name), get(name).chain(), tmp_path / "m.h5")
    first = model.weights[0].path.split("/")[0]
    block = "Conv1_relu" if first == "Conv1" else first
    found = weights.variables["params"][block][first]["kernel"]
    np.testing.assert_array_equal(found, np.asarray(model.weights[0]))
    if name != "vgg16":
        layer = model.get_layer("block_5_depthwise")
        found = weights.variables["params"]["block_5_add"]["block_5_depthwise"]["kernel"]
        np.testing.assert_array_equal(found[:, :, 0], np.asarray(layer.weights[0])[..., 0])
    model.save_weights(tmp_path / "m.weights.h5")
    with pytest.raises(ConvertError, match="save the model as"):
        convert_file(get(name), get(name).chain(), tmp_path / "m.weights.h5")


def test_verify_finds_a_wrong_network(tmp_path, monkeypatch):
    from tlflax.backbones import mobilenet_v2

    monkeypatch.setattr(mobilenet_v2, "_EPSILON", 1e-2)
    source, dest = tmp_path / "w.h5", tmp_path / "w.safetensors"
    write_h5(source, keras_arrays("mobilenet_v2_0.35"))
    with pytest.raises(ConvertError, match="differs from its keras first at bn_Conv1"):
        main(["convert", str(source), str(dest), "--backbone", "mobilenet_v2_0.35", "--verify"])
    assert not dest.exists()
