"""A user's own Keras network from its file to a spec and weights that stand alone."""

import json
from pathlib import Path

import h5py
import jax
import numpy as np
import pytest
from keras_models import build, drawn, image, write_h5, write_keras

from tlflax import tree
from tlflax.backbones.graph_functions import FUNCTIONS
from tlflax.backbones.spec import Contract
from tlflax.convert.__main__ import main
from tlflax.convert.keras_model import KerasModel
from tlflax.convert.own import has_network, open_own, own_variables, spec_from_facts
from tlflax.convert.store import save_weights
from tlflax.convert.tensors import read_facts, save_variables
from tlflax.errors import ConfigError, ConvertError

FOLDER = Path(__file__).resolve().parents[1] / "goldens"


@pytest.fixture(scope="module")
def golden():
    return json.loads((FOLDER / "graph_nested.json").read_text())


@pytest.fixture(scope="module")
def path(golden, tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    return write_h5(folder / "mine.h5", golden["h5"], drawn(golden["weights"]))


def test_spec_and_weights(path):
    spec, weights = open_own(path)
    assert (spec.name, spec.form, spec.size) == ("mine.h5", "graph", 20)
    assert (spec.default_endpoint, spec.top_layers) == ("hidden", ("logits",))
    assert spec.aliases["base"] == "add" and spec.aliases["tail/conv"] == "tail_conv"
    assert weights.source == "mine.h5" and len(weights.sha256) == 64
    assert weights.certificate["method"] == "layout"
    # It begins with Normalization, in a model inside the model and behind random layers.
    assert spec.contract == Contract()
    assert weights.notes == (
        "preprocessing raw (0..255): the network itself begins with 'normalization'",
        "its classifier 'logits' comes after the default endpoint 'hidden' and is left out there",
    )


def test_preprocessing_can_be_said(path):
    spec, weights = open_own(path, "caffe")
    assert spec.contract.order == "BGR" and len(weights.notes) == 1
    with pytest.raises(ConfigError, match="unknown preprocessing 'imagenet'"):
        open_own(path, "imagenet")


def test_converted_file_stands_alone(path, tmp_path):
    spec, weights = open_own(path, "unit")
    converted = tmp_path / "mine.safetensors"
    save_weights(converted, spec, weights)
    again, same = open_own(converted)
    assert again == spec and same == weights.__class__(
        same.variables, weights.source, weights.sha256, weights.certificate, weights.notes
    )
    flat = tree.flatten(same.variables)
    for name, array in tree.flatten(weights.variables).items():
        np.testing.assert_array_equal(flat[name], array, err_msg=name)
    y = spec.chain().apply(weights.variables, image(20))
    np.testing.assert_array_equal(again.chain().apply(same.variables, image(20)), y)
    with pytest.raises(ConfigError, match="has its preprocessing from when it was converted"):
        open_own(converted, "raw")


def test_other_metadata():
    with pytest.raises(ConvertError, match="does not describe a network"):
        spec_from_facts({"backbone": "vgg16"})


def test_zoo_weights_are_no_network(tmp_path):
    save_variables(tmp_path / "w.safetensors", {"params": {}}, {"backbone": "vgg16"})
    with pytest.raises(ConvertError, match="weights of vgg16; name that as the backbone"):
        open_own(tmp_path / "w.safetensors")


@pytest.mark.parametrize("file", ["w.pth", "w.bin"])
def test_weights_without_a_network(file, tmp_path):
    (tmp_path / file).touch()
    with pytest.raises(ConvertError, match=r"a backbone of your own is a whole Keras"):
        open_own(tmp_path / file)


def test_missing_file_names_its_neighbours(path):
    with pytest.raises(ConvertError, match=r"does not exist; did you mean mine.h5\?"):
        open_own(path.with_name("mine2.h5"))


def test_refusal_names_the_file(golden, tmp_path):
    config = json.loads(json.dumps(golden["keras"]).replace('"GlobalMaxPooling2D"', '"Lambda"'))
    weights = drawn(golden["weights"])
    with pytest.raises(ConvertError, match=r"m\.keras: layer 'pool' is a Lambda"):
        open_own(write_keras(tmp_path / "m.keras", config, weights))


def test_weights_of_a_layer_that_has_none(golden, path):
    spec, _ = open_own(path)
    from tlflax.convert.keras_graph import keras_graph

    weights = drawn(golden["weights"])
    weights["pool"] = {"kernel": np.zeros(3, np.float32)}
    model = KerasModel(golden["keras"], weights, "3.9.0")
    with pytest.raises(ConvertError, match="1 weights not used: pool/kernel"):
        own_variables(model, keras_graph(model), spec, "m")
    del weights["pool"], weights["head/hidden"]["bias"]
    with pytest.raises(ConvertError, match="1 weights missing: params/hidden/hidden/bias"):
        own_variables(model, keras_graph(model), spec, "m")


def test_spec_is_made_of_plain_values(path):
    spec, _ = open_own(path)
    assert isinstance(spec.options["graph"], str)
    shapes = jax.eval_shape(lambda x: spec.chain().init(jax.random.key(0), x), image(20))
    assert set(shapes) == {"params", "batch_stats"}


def test_what_holds_a_network(golden, path, tmp_path):
    archive = write_keras(tmp_path / "m.keras", golden["keras"], drawn(golden["weights"]))
    assert has_network(path) and has_network(archive)
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.attrs["layer_names"] = [b"conv"]
    (tmp_path / "w.pth").touch()
    assert not has_network(tmp_path / "w.h5") and not has_network(tmp_path / "w.pth")
    for name, content in (("hub", b"graph"), ("keras", b".._tf_keras_sequential.."), ("new", b"")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "saved_model.pb").write_bytes(content)
    (tmp_path / "new" / "keras_metadata.pb").touch()
    found = {name: has_network(tmp_path / name) for name in ("hub", "keras", "new")}
    assert found == {"hub": False, "keras": True, "new": True}


# Keras 3.15 variables and numpy 2 (seen 2026-11); h5py and the comparison both ask for arrays.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["nested", "functional", "grey"])
def test_verify_compares_every_layer_with_live_keras(name, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    pytest.importorskip("keras", reason="needs Keras: pip install keras")
    stored = json.loads((FOLDER / f"graph_{name}.json").read_text())
    source, dest = tmp_path / "m.keras", tmp_path / "m.safetensors"
    build(name).save(source)
    main(["convert", str(source), str(dest), "--verify"])
    certificate = read_facts(dest)["certificate"]
    assert certificate["method"] == "graph" and certificate["versions"]["keras_backend"] == "jax"
    assert len(certificate["endpoints"]) == len(stored["outputs"])
    assert max(e["max_rel"] for e in certificate["endpoints"].values()) <= 1e-5


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.slow
def test_verify_finds_a_wrong_layer(path, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    pytest.importorskip("keras", reason="needs Keras: pip install keras")
    source = tmp_path / "m.keras"
    build("nested").save(source)
    monkeypatch.setitem(FUNCTIONS, "relu", lambda x, **options: x * 0.999)
    with pytest.raises(ConvertError, match="differs from its graph first at act: relative"):
        main(["convert", str(source), str(tmp_path / "m.safetensors"), "--verify"])
