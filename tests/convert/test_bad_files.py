"""Weight files that cannot be used: one clear line, exit code 2, nothing written anywhere."""

import os
import re
import sys

import h5py
import numpy as np
import pytest
from keras_layout import draw, keras_arrays, write_h5
from safetensors.numpy import save_file

from tlflax.backbones import inventory
from tlflax.backbones.table import get
from tlflax.command import run_command
from tlflax.convert.__main__ import main
from tlflax.convert.store import convert_file, load_weights, save_weights
from tlflax.errors import ConvertError

NAME = "mobilenet_v2_0.35"


@pytest.fixture(scope="module")
def arrays():
    return keras_arrays(NAME)


@pytest.fixture(scope="module")
def good(arrays, tmp_path_factory):
    return write_h5(tmp_path_factory.mktemp("good") / "good.h5", arrays)


@pytest.fixture(scope="module")
def weights(good):
    return convert_file(get(NAME), get(NAME).chain(), good)


@pytest.fixture(scope="module")
def shapes():
    return inventory.abstract_variables(get(NAME).chain(), 64)


@pytest.fixture(autouse=True)
def _traced_once(shapes, monkeypatch):
    # The same network every time; tracing it takes longer than anything else here.
    monkeypatch.setattr(inventory, "abstract_variables", lambda chain, size: shapes)


def changed(arrays, layer, **weights):
    """A copy with weights of one layer replaced; ``None`` removes one."""
    new = arrays[layer] | weights
    return arrays | {layer: {k: v for k, v in new.items() if v is not None}}


def truncated_h5(path, arrays, good, weights):
    path.write_bytes(good.read_bytes()[:700_000])
    return "cannot read", "truncated"


def not_hdf5(path, arrays, good, weights):
    path.write_text("<!DOCTYPE html><title>Sign in</title>")
    return "cannot read", "as a Keras .h5 file"


def empty(path, arrays, good, weights):
    path.write_bytes(b"")
    return "cannot read", "as a Keras .h5 file"


def other_hdf5(path, arrays, good, weights):
    with h5py.File(path, "w") as file:
        file["data"] = np.zeros(3)
    return "not a Keras weight file", "layer_names"


def names_a_missing_group(path, arrays, good, weights):
    write_h5(path, arrays)
    with h5py.File(path, "a") as file:
        del file["block_5_expand"]
    return "cannot read", "block_5_expand"


def holds_text(path, arrays, good, weights):
    write_h5(path, changed(arrays, "Conv1", kernel=np.array([b"a", b"b"])))
    return "Conv1/kernel holds", "no numbers"


def model_in_a_model(path, arrays, good, weights):
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"base"]
        group = file.create_group("base")
        group.attrs["weight_names"] = [b"a/kernel:0", b"b/kernel:0"]
        group["a/kernel:0"] = group["b/kernel:0"] = np.zeros(3)
    return "'base' is a model inside the model", "backbone alone"


def one_missing(path, arrays, good, weights):
    write_h5(path, changed(arrays, "block_7_expand_BN", moving_mean=None))
    return (
        "1 of 260 leaves not filled",
        "batch_stats/block_7_add/block_7_expand_BN/mean",
    )


def one_extra(path, arrays, good, weights):
    extra = {"block_17_expand": {"kernel": np.zeros((1, 1, 4, 4), np.float32)}}
    write_h5(path, arrays | extra)
    return (
        "1 arrays not used: block_17_expand/kernel",
        "did you mean block_7_expand, ",
    )


def unknown_weight(path, arrays, good, weights):
    write_h5(path, changed(arrays, "Conv1", recurrent=np.zeros(3)))
    return ("1 arrays not used: Conv1/recurrent",)


def twice(path, arrays, good, weights):
    write_h5(path, arrays | {"mobl3_conv_3_expand": arrays["block_3_expand"]})
    return ("1 arrays not used: mobl3_conv_3_expand/kernel",)


def wrong_shape(path, arrays, good, weights):
    write_h5(path, changed(arrays, "Conv1", kernel=np.zeros((3, 3, 1, 16), np.float32)))
    return "wrong shape: Conv1/kernel is (3, 3, 1, 16), needs (3, 3, 3, 16)", ""


def not_a_number(path, arrays, good, weights):
    gamma = arrays["bn_Conv1"]["gamma"].copy()
    gamma[3] = np.nan
    write_h5(path, changed(arrays, "bn_Conv1", gamma=gamma))
    return "non-finite numbers in params/Conv1_relu/bn_Conv1/scale", ""


def another_network(path, arrays, good, weights):
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"conv1"]
        group = file.create_group("conv1")
        group.attrs["weight_names"] = [b"conv1/kernel:0"]
        group["conv1/kernel:0"] = draw("conv1", "kernel", (7, 7, 3, 64))
    return "260 of 260 leaves not filled", "conv1/kernel"


def another_width(path, arrays, good, weights):
    write_h5(path, keras_arrays("mobilenet_v2_0.5"))
    return "wrong shape: block_1_", "needs"


def missing(path, arrays, good, weights):
    path.with_name("w2.h5").touch()
    return "does not exist", "did you mean w2.h5?"


def folder(path, arrays, good, weights):
    path.mkdir()
    return "is a folder", ".safetensors"


H5 = [
    truncated_h5,
    not_hdf5,
    empty,
    other_hdf5,
    names_a_missing_group,
    holds_text,
    model_in_a_model,
    one_missing,
    one_extra,
    unknown_weight,
    twice,
    wrong_shape,
    not_a_number,
    another_network,
    another_width,
    missing,
    folder,
]


def truncated_safetensors(path, arrays, good, weights):
    save_weights(path, get(NAME), weights)
    path.write_bytes(path.read_bytes()[:500_000])
    return "cannot read", "truncated"


def foreign_safetensors(path, arrays, good, weights):
    save_file({"layer.weight": np.zeros(3)}, path, metadata={"format": "pt"})
    return "does not fit the network: it has torch weights", f"{NAME} needs keras ones"


def another_backbone(path, arrays, good, weights):
    save_weights(path, get("vgg16"), weights)
    return "holds vgg16, not mobilenet_v2_0.35", ""


def lacks_a_leaf(path, arrays, good, weights):
    block = {k: v for k, v in weights.variables["params"].items() if k != "out_relu"}
    variables = weights.variables | {"params": block}
    save_weights(path, get(NAME), type(weights)(variables, "x", "0", weights.certificate))
    return "3 of 156 leaves not filled", "out_relu/Conv_1"


def has_a_leaf_too_many(path, arrays, good, weights):
    block = weights.variables["params"] | {"block_17": {"kernel": np.zeros(3)}}
    variables = weights.variables | {"params": block}
    save_weights(path, get(NAME), type(weights)(variables, "x", "0", weights.certificate))
    return "unknown params/block_17/kernel", "convert the original file again"


def trained_classifier(path, arrays, good, weights):
    from tlflax.convert.tensors import save_variables

    save_variables(path, {"params": {}}, {"backbone": NAME, "architecture": {"classes": []}})
    return "is a trained classifier on mobilenet_v2_0.35", "tlflax.predict"


SAFETENSORS = [
    truncated_safetensors,
    foreign_safetensors,
    another_backbone,
    lacks_a_leaf,
    has_a_leaf_too_many,
    trained_classifier,
]


def unknown_suffix(path, arrays, good, weights):
    path.write_bytes(good.read_bytes())
    return "readable formats are .h5, .hdf5, .keras", ""


CASES = [(f, "w.h5") for f in H5] + [(f, "w.safetensors") for f in SAFETENSORS]
CASES += [(unknown_suffix, "w.ckpt")]


@pytest.mark.parametrize(("make", "file"), CASES, ids=[f.__name__ for f, _ in CASES])
def test_refused_in_one_line(make, file, arrays, good, weights, tmp_path, monkeypatch, capsys):
    source, dest = tmp_path / "in" / file, tmp_path / "out" / "w.safetensors"
    source.parent.mkdir()
    parts = make(source, arrays, good, weights)
    monkeypatch.setattr(sys, "argv", ["convert", str(source), str(dest), "--backbone", NAME])
    with pytest.raises(SystemExit) as stopped:
        run_command(main)
    assert stopped.value.code == 2
    out, error = capsys.readouterr()
    assert out == "" and error.startswith("error: ") and error.count("\n") == 1
    for part in parts:
        assert part in error
    assert file in error and len(error) < 700
    assert not dest.parent.exists()
    with pytest.raises(ConvertError, match=re.escape(parts[0])):
        load_weights(get(NAME), get(NAME).chain(), str(source))
    # Nothing is kept of it; compiled programs may be there, if no test before has compiled any.
    assert set(os.listdir(os.environ["TLFLAX_CACHE"])) <= {"compiled"}


@pytest.mark.parametrize(
    ("dest", "said"),
    [("w.h5", "must end in .safetensors"), ("folder.safetensors", "cannot write")],
)
def test_bad_destination(dest, said, good, tmp_path):
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(ConvertError, match=said):
        main(["convert", str(good), str(tmp_path / dest), "--backbone", NAME])
    assert os.listdir(tmp_path) == ["folder.safetensors"]
