"""Whole Keras models in every layout in which Keras has written them, and in hostile ones."""

import io
import json
import os
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from keras_models import drawn, name_of, sublayers, weights_h5, write_h5, write_keras

from tlflax.convert import hdf5
from tlflax.convert.keras_model import read_keras_model
from tlflax.convert.keras_weights import kinds, snake
from tlflax.convert.own import open_own
from tlflax.errors import ConvertError

FOLDER = Path(__file__).resolve().parents[1] / "goldens"


def golden(name):
    return json.loads((FOLDER / f"graph_{name}.json").read_text())


def same_weights(model, weights):
    assert model.weights.keys() == weights.keys()
    for path, expected in weights.items():
        assert model.weights[path].keys() == expected.keys(), path
        for kind, array in expected.items():
            np.testing.assert_array_equal(model.weights[path][kind], array, err_msg=path)


@pytest.mark.parametrize("name", ["sequential", "nested", "functional"])
@pytest.mark.parametrize("style", ["keras3", "keras3.0", "windows", "names", "keras2.13"])
def test_archives_of_all_versions(name, style, tmp_path):
    stored = golden(name)
    weights = drawn(stored["weights"])
    model = read_keras_model(write_keras(tmp_path / "m.keras", stored["keras"], weights, style))
    same_weights(model, weights)
    assert model.version == ("2.13.1" if style == "keras2.13" else "3.9.0")
    assert model.config == stored["keras"]


@pytest.mark.parametrize("name", ["sequential", "nested", "functional"])
@pytest.mark.parametrize("style", ["keras2", "keras3"])
def test_hdf5_of_all_versions(name, style, tmp_path):
    stored = golden(name)
    weights = drawn(stored["weights"])
    model = read_keras_model(write_h5(tmp_path / "m.h5", stored["h5"], weights, style))
    same_weights(model, weights)
    assert model.version == {"keras2": "2.11.0", "keras3": "3.9.0"}[style]


def test_inner_names_with_numbers_of_tensorflow_1(tmp_path):
    stored = golden("nested")
    weights = drawn(stored["weights"])
    path = write_h5(tmp_path / "m.h5", stored["h5"], weights)
    with h5py.File(path, "a") as file:
        for outer in ("base", "tail"):
            group = file["model_weights"][outer]
            old = hdf5.names(group, "weight_names")
            if outer == "base":
                # It is frozen: all its weights are non-trainable, layer by layer.
                order = list(weights)
                old.sort(key=lambda n: order.index(f"base/{n.split('/')[0]}"))
            new = [n.replace("/", "_1/") for n in old]
            for before, after in zip(old, new, strict=True):
                group.move(before, after)
            group.attrs["weight_names"] = [n.encode() for n in new]
    same_weights(read_keras_model(path), weights)


def test_names_beyond_64_kib(tmp_path):
    stored = golden("sequential")
    weights = drawn(stored["weights"])
    path = write_h5(tmp_path / "m.h5", stored["h5"], weights)
    with h5py.File(path, "a") as file:
        root = file["model_weights"]
        names = list(root.attrs["layer_names"])
        del root.attrs["layer_names"]
        root.attrs["layer_names0"], root.attrs["layer_names1"] = names[:9], names[9:]
    same_weights(read_keras_model(path), weights)


def test_kind_comes_from_the_order_in_files_of_keras_1(tmp_path):
    config = {"name": "c1", "nb_filter": 2, "nb_row": 3, "nb_col": 3, "dim_ordering": "tf"}
    config |= {"batch_input_shape": [None, 8, 8, 3], "border_mode": "same", "bias": True}
    # The layers are the configuration itself, as up to Keras 2.2.
    model = {"class_name": "Sequential", "config": [{"class_name": "Convolution2D",
             "config": config}]}  # fmt: skip
    kernel, bias = np.ones((3, 3, 3, 2), np.float32), np.zeros(2, np.float32)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["model_config"] = json.dumps(model).encode()
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [b"c1"]
        layer = group.create_group("c1")
        layer.attrs["weight_names"] = [b"c1_W", b"c1_b"]
        layer["c1_W"], layer["c1_b"] = kernel, bias
    read = read_keras_model(tmp_path / "m.h5")
    assert read.version == "1" and list(read.weights["c1"]) == ["kernel", "bias"]
    spec, weights = open_own(tmp_path / "m.h5")
    np.testing.assert_array_equal(weights.variables["params"]["c1"]["c1"]["kernel"], kernel)
    assert spec.size == 8


def test_state_of_random_layers_is_no_weight(tmp_path):
    stored = golden("sequential")
    weights = drawn(stored["weights"])
    path = write_h5(tmp_path / "m.h5", stored["h5"], weights)
    layer = next(name_of(c) for c in sublayers(stored["h5"]) if c["class_name"] == "RandomFlip")
    with h5py.File(path, "a") as file:
        # TensorFlow 2.5 to 2.8 wrote it so.
        group = file["model_weights"][layer]
        group.attrs["weight_names"] = [f"{layer}/StateVar:0".encode()]
        group[f"{layer}/StateVar:0"] = np.arange(3)
    same_weights(read_keras_model(path), weights)


@pytest.mark.parametrize(
    ("name", "path"),
    [("Conv2D", "conv2d"), ("PReLU", "p_re_lu"), ("GlobalAveragePooling2D",
     "global_average_pooling2d"), ("LeakyReLU", "leaky_re_lu"), ("Sequential", "sequential")],
)  # fmt: skip
def test_class_names_in_paths(name, path):
    # The right-hand side is what `keras.src.utils.naming.to_snake_case` gives.
    assert snake(name) == path


def test_weights_that_a_layer_does_not_have():
    assert kinds("BatchNormalization", {"scale": False}) == [
        "beta", "moving_mean", "moving_variance"
    ]  # fmt: skip
    assert kinds("Normalization", {"mean": [1.0]}) == []
    assert kinds("Dense", {"use_bias": False}) == ["kernel"]
    assert kinds("MaxPooling2D", {}) == []


# What is wrong with a file -> what the one line about it says.


def rewrite(path, change, style="keras3", name="sequential"):
    """A .keras archive whose entries ``change`` may edit."""
    stored = golden(name)
    weights = drawn(stored["weights"])
    entries = {
        "metadata.json": b'{"keras_version": "3.9.0"}',
        "config.json": json.dumps(stored["keras"]).encode(),
        "model.weights.h5": weights_h5(stored["keras"], weights, style),
    }
    change(entries)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, data in entries.items():
            archive.writestr(entry, data)


def edited(path, change):
    """A .keras archive whose model.weights.h5 ``change`` may edit."""

    def edit(entries):
        buffer = io.BytesIO(entries["model.weights.h5"])
        with h5py.File(buffer, "a") as file:
            change(file)
        entries["model.weights.h5"] = buffer.getvalue()

    rewrite(path, edit)


def configured(path, change):
    def edit(entries):
        config = json.loads(entries["config.json"])
        change(config["config"]["layers"])
        entries["config.json"] = json.dumps(config).encode()

    rewrite(path, edit)


def truncated(path):
    rewrite(path, lambda e: None)
    path.write_bytes(path.read_bytes()[:9000])
    return "cannot read", "truncated"


def login_page(path):
    path.write_text("<!DOCTYPE html><title>Sign in</title>")
    return "cannot read", "as a .keras file"


def no_config(path):
    rewrite(path, lambda e: e.pop("config.json"))
    return ("zip without config.json",)


def no_weights(path):
    rewrite(path, lambda e: e.pop("model.weights.h5"))
    return ("zip without model.weights.h5",)


def leads_out(path):
    rewrite(path, lambda e: e.update({"../../evil.sh": b"touch /tmp/x"}))
    return ("'../../evil.sh' leads out of the archive",)


def leads_out_on_windows(path):
    rewrite(path, lambda e: e.update({"assets\\..\\..\\evil.bat": b"x"}))
    return ("leads out of the archive",)


def absolute(path):
    rewrite(path, lambda e: e.update({f"{path.parent}/evil": b"x"}))
    return ("leads out of the archive",)


def zip_bomb(path):
    rewrite(path, lambda e: e.update({"config.json": bytes(70 << 20)}))
    return "unpacks to 73,400,320 bytes", "not read"


def config_is_no_json(path):
    rewrite(path, lambda e: e.update({"config.json": b"{"}))
    return ("configuration is no JSON",)


def config_is_endless(path):
    rewrite(path, lambda e: e.update({"config.json": b"[" * 200_000}))
    return ("configuration is no JSON",)


def config_is_no_model(path):
    rewrite(path, lambda e: e.update({"config.json": b"[1, 2]"}))
    return ("not that of a Keras model",)


def models_without_end(path):
    def edit(entries):
        model = {"class_name": "Sequential", "config": {"name": "m", "layers": []}}
        for _ in range(30):
            model = {"class_name": "Sequential", "config": {"name": "m", "layers": [model]}}
        entries["config.json"] = json.dumps(model).encode()

    rewrite(path, edit)
    return "nested more than 16 deep", ""


def weights_are_no_hdf5(path):
    rewrite(path, lambda e: e.update({"model.weights.h5": b"nothing"}))
    return ("model.weights.h5 in", "cannot read")


def array_lacks(path):
    edited(path, lambda f: f.__delitem__("layers/dense/vars/1"))
    return ("lacks 1 weights: dense/bias",)


def array_is_left_over(path):
    edited(path, lambda f: f["layers/dense/vars"].__setitem__("2", np.zeros(3)))
    return ("1 arrays that no layer of its configuration has: layers/dense/vars/2",)


def layer_is_left_over(path):
    edited(path, lambda f: f.create_group("layers/lstm/vars").__setitem__("0", np.zeros(3)))
    return ("layers/lstm/vars/0",)


def layer_lacks(path):
    edited(path, lambda f: f.__delitem__("layers/separable_conv2d"))
    return ("has weights for 0 layers of class separable_conv2d",)


def wrong_shape(path):
    def edit(file):
        del file["layers/dense_1/vars/1"]
        file["layers/dense_1/vars/1"] = np.zeros(5, np.float32)

    edited(path, edit)
    return ("wrong shape: dense_1/bias is (5,), needs (4,)",)


def not_a_number(path):
    edited(path, lambda f: f["layers/dense_1/vars/1"].__setitem__(0, np.nan))
    return ("non-finite numbers in params/dense_1/dense_1/bias",)


def text_for_numbers(path):
    def edit(file):
        del file["layers/dense_1/vars/1"]
        file["layers/dense_1/vars/1"] = np.array([b"a"] * 4)

    edited(path, edit)
    return ("no numbers",)


def link_within(path):
    edited(path, lambda f: f.__setitem__("layers/x", h5py.SoftLink("/layers/dense")))
    return ("is a link to another place",)


def link_to_another_file(path):
    def edit(file):
        del file["layers/dense/vars/1"]
        file["layers/dense/vars/1"] = h5py.ExternalLink("/etc/passwd", "/")

    edited(path, edit)
    return ("is a link to another place",)


def groups_contain_themselves(path):
    edited(path, lambda f: f["layers/dense"].__setitem__("again", f["layers"]))
    return ("contain one another",)


def groups_without_end(path):
    edited(path, lambda f: f.create_group("/".join("g" * 500)))
    return ("nested without end",)


def kept_in_another_file(path):
    def edit(file):
        del file["layers/dense/vars/1"]
        external = [("/etc/passwd", 0, 40)]
        file["layers/dense/vars"].create_dataset("1", (10,), "f4", external=external)

    edited(path, edit)
    return ("stored in another file",)


def shape_bomb(path):
    def edit(file):
        del file["layers/dense/vars/1"]
        group = file["layers/dense/vars"]
        group.create_dataset("1", (1 << 40,), "f4", chunks=(1 << 20,), compression="gzip")

    edited(path, edit)
    return ("claims 4,398,046,511,104 bytes, 0 are stored",)


def lambda_layer(path):
    def edit(layers):
        code = {"class_name": "__lambda__", "config": {"code": "4wEAAAAAAAAA", "defaults": None}}
        layers[2] = {"class_name": "Lambda", "config": {"name": "evil", "function": code}}

    configured(path, edit)
    return "layer 'evil' is a Lambda: code in a model file is never executed", "set_weights"


def custom_layer(path):
    def edit(layers):
        layers[2] = {"class_name": "FancyPool", "module": "os", "registered_name": "x>FancyPool",
                     "config": {"name": "fancy"}}  # fmt: skip

    configured(path, edit)
    return "layer 'fancy' is of class x>FancyPool, which has no equivalent", ""


def custom_layer_called_like_one_of_keras(path):
    def edit(layers):
        layers[3] |= {"module": "__main__", "registered_name": "Mine>Conv2D"}

    configured(path, edit)
    return "layer 'conv2d' is of class Mine>Conv2D, which has no equivalent", ""


def custom_activation(path):
    configured(path, lambda layers: layers[3]["config"].update(activation="my_function"))
    return "'conv2d' (Conv2D): its activation 'my_function' is none of Keras' own", ""


ARCHIVES = (
    truncated, login_page, no_config, no_weights, leads_out, leads_out_on_windows, absolute,
    zip_bomb, config_is_no_json, config_is_endless, config_is_no_model, models_without_end,
    weights_are_no_hdf5, array_lacks, array_is_left_over, layer_is_left_over, layer_lacks,
    wrong_shape, not_a_number, text_for_numbers, link_within, link_to_another_file,
    groups_contain_themselves, groups_without_end, kept_in_another_file, shape_bomb, lambda_layer,
    custom_layer, custom_activation,
)  # fmt: skip


def good_h5(path, name="sequential"):
    stored = golden(name)
    return write_h5(path, stored["h5"], drawn(stored["weights"]))


def h5_truncated(path):
    good_h5(path)
    path.write_bytes(path.read_bytes()[:20_000])
    return "cannot read", "truncated"


def h5_of_weights_alone(path):
    good_h5(path)
    with h5py.File(path, "a") as file:
        del file.attrs["model_config"]
    return "has no model_config: it holds weights alone", "save"


def h5_with_a_weight_too_few(path):
    good_h5(path)
    with h5py.File(path, "a") as file:
        attributes = file["model_weights/dense"].attrs
        attributes["weight_names"] = attributes["weight_names"][:1]
    return ("layer 'dense' has the weights dense/kernel:0",)


def h5_with_a_link(path):
    good_h5(path)
    with h5py.File(path, "a") as file:
        del file["model_weights/dense"]
        file["model_weights/dense"] = h5py.ExternalLink("/etc/passwd", "/")
    return ("is a link to another place",)


def h5_with_ambiguous_names(path):
    stored = golden("nested")
    write_h5(path, stored["h5"], drawn(stored["weights"]))
    with h5py.File(path, "a") as file:
        group = file["model_weights/tail"]
        group.move("conv/kernel:0", "elsewhere/kernel:0")
        group.attrs["weight_names"] = [b"conv/bias:0", b"elsewhere/kernel:0"]
    return ("cannot tell to which layer of 'tail' the weight 'elsewhere/kernel:0' belongs",)


HDF5 = (
    h5_truncated,
    h5_of_weights_alone,
    h5_with_a_weight_too_few,
    h5_with_a_link,
    h5_with_ambiguous_names,
)
CASES = [(f, "m.keras") for f in ARCHIVES] + [(f, "m.h5") for f in HDF5]


@pytest.mark.parametrize(("make", "file"), CASES, ids=[f.__name__ for f, _ in CASES])
def test_refused_in_one_line(make, file, tmp_path, monkeypatch):
    # So deep that what leads out of the folder is still looked at.
    path = tmp_path / "a" / "b" / "in" / file
    path.parent.mkdir(parents=True)
    parts = make(path)
    monkeypatch.chdir(path.parent)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConvertError) as refused:
        open_own(path, "raw")
    text = str(refused.value)
    assert "\n" not in text and len(text) < 500 and file in text
    for part in parts:
        assert part in text
    # Nothing was unpacked or kept.
    assert sorted(tmp_path.rglob("*")) == before and os.listdir(os.environ["TLFLAX_CACHE"]) == []
