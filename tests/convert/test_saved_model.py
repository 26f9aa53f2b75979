"""SavedModel folders without TensorFlow: what is taken from them and what is refused."""

import json
import sys
import textwrap

import numpy as np
import pytest

from tlflax.backbones.table import get
from tlflax.command import run_command
from tlflax.convert import oracle_hub, saved_model, saved_model_process
from tlflax.convert.__main__ import main
from tlflax.convert.own import open_own
from tlflax.convert.readers import read
from tlflax.convert.saved_model import read_keras_saved_model, read_saved_model
from tlflax.convert.saved_model_process import join, keras_metadata, wire_fields
from tlflax.errors import ConvertError

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


@pytest.fixture
def folder(tmp_path):
    """Looks like a SavedModel from outside."""
    path = tmp_path / "module"
    (path / "variables").mkdir(parents=True)
    (path / "saved_model.pb").write_bytes(b"\x08\x01")
    (path / "variables" / "variables.index").write_bytes(b"index")
    return path


def find_tensorflow(monkeypatch, there):
    """Whether tensorflow seems to be installed, whatever the environment of the tests."""
    find = saved_model.importlib.util.find_spec
    monkeypatch.setattr(
        saved_model.importlib.util,
        "find_spec",
        lambda name, *a: (object() if there else None) if name == "tensorflow" else find(name, *a),
    )


@pytest.fixture
def process(tmp_path, monkeypatch):
    """Replaces the process that runs TensorFlow by a script of a few lines."""
    find_tensorflow(monkeypatch, True)

    def replace(code):
        path = tmp_path / "process.py"
        path.write_text("import sys, json, numpy as np\n" + textwrap.dedent(code))
        monkeypatch.setattr(saved_model, "_PROCESS", path)

    return replace


def stored(names, arrays, left_out=(), objects=()):
    """Code of a process that found these arrays."""
    facts = {
        "variables": [{"key": k, "name": n} for k, n in names.items()],
        "left_out": list(left_out),
        "objects": list(objects),
    }
    lists = [np.asarray(a).tolist() for a in arrays]
    return f"""
    arrays = {{str(i): np.array(a, np.float32) for i, a in enumerate({lists!r})}}
    facts = np.frombuffer({json.dumps(facts)!r}.encode(), np.uint8)
    np.savez(sys.argv[2], facts=facts, **arrays)
    """


def test_without_tensorflow_the_message_says_what_to_install(folder, monkeypatch, capsys):
    find_tensorflow(monkeypatch, False)
    args = ["convert", str(folder), str(folder.parent / "w.safetensors"), "--backbone"]
    monkeypatch.setattr(sys, "argv", [*args, "hub_resnet50_v2"])
    with pytest.raises(SystemExit) as stop:
        run_command(main)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "pip install -e '.[tf]'" in said and str(folder) in said


def test_incomplete_folders_are_refused_before_tensorflow_is_looked_for(folder, monkeypatch):
    find_tensorflow(monkeypatch, False)
    (folder / "variables" / "variables.index").unlink()
    with pytest.raises(ConvertError, match=r"has no variables/variables\.index: .*incomplete"):
        read_saved_model(folder)
    (folder / "saved_model.pb").unlink()
    with pytest.raises(ConvertError, match=r"it has no saved_model\.pb"):
        read_saved_model(folder)


def test_what_tensorflow_says_of_a_damaged_folder_is_passed_on(folder, process):
    process("print('noise', 'DataLossError: bad block', sep=chr(10), file=sys.stderr); sys.exit(3)")
    with pytest.raises(ConvertError) as error:
        read_saved_model(folder)
    said = str(error.value)
    assert "DataLossError: bad block. It may be incomplete" in said and "noise" not in said


def test_running_a_module_says_so_when_it_fails(folder, process):
    process("print(len(sys.argv), np.load(sys.argv[3]).max(), file=sys.stderr); sys.exit(3)")
    with pytest.raises(ConvertError, match=r"cannot run the SavedModel folder .*: 4 1\.0\. It"):
        saved_model.run_saved_model(folder, np.full((1, 2, 2, 3), 255, np.uint8))


def test_a_module_that_runs_gives_its_features(folder, process):
    process("""
    x = np.load(sys.argv[3])
    np.savez(sys.argv[2], features=x.mean((1, 2)), version=np.array("2.21.0"))
    """)
    images = np.array([[[[0, 51, 255]]]], np.uint8)
    features, versions = oracle_hub.outputs(get("hub_resnet50_v2"), folder, images)
    np.testing.assert_allclose(features["post_relu"], [[0.0, 0.2, 1.0]])
    assert versions == {"tensorflow": "2.21.0"}


def test_a_process_that_dies_silently_is_no_success(folder, process):
    process("sys.exit(9)")
    with pytest.raises(ConvertError, match="exit code 9"):
        read_saved_model(folder)


def test_a_folder_without_weights(folder, process):
    process(stored({}, [], left_out=["save_counter"]))
    with pytest.raises(ConvertError, match=r"has no weights.*save_counter"):
        read_saved_model(folder)


def test_variables_come_by_tensorflow_name_and_by_key_where_that_is_ambiguous(folder, process):
    names = {"variables/0" + VALUE: "net/conv/weights", "a/w" + VALUE: "Variable"}
    names["b/w" + VALUE] = "Variable"
    process(stored(names, [[[1, 2]], [3], [4]]))
    found = read(folder)
    assert found.form == "hub"
    assert list(found.arrays) == ["net/conv/weights", "a/w" + VALUE, "b/w" + VALUE]
    np.testing.assert_array_equal(found.arrays["net/conv/weights"], [[1, 2]])


def keras_objects():
    """A Sequential with a nested Sequential; the inner layers' paths have the outer one's name."""

    def node(metadata=None, key="", **children):
        text = json.dumps(metadata) if metadata else ""
        return {"children": children, "metadata": text, "key": key, "name": ""}

    shape = {"class_name": "__tuple__", "items": [None, 8, 8, 3]}
    config = {"name": "outer", "layers": [{"config": {"batch_input_shape": shape}}]}
    root = {"class_name": "Sequential", "config": config, "name": "outer", "keras_version": "2.5.0"}
    return [
        node(root, **{"layer-0": 1, "layer_with_weights-0": 2, "layer-1": 2, "optimizer": 6}),
        node({"name": "flip"}, _rng=7),
        node({"name": "inner"}, **{"layer-0": 3, "layer_with_weights-0": 3}),
        node({"name": "conv"}, kernel=4, bias=5, variables=6),
        node(key="layer_with_weights-0/layer_with_weights-0/kernel" + VALUE),
        node(key="layer_with_weights-0/layer_with_weights-0/bias" + VALUE),
        node(**{"0": 4, "1": 5}),
        node(key="layer-0/_rng/_state_var" + VALUE),
    ]


def keras_names(objects):
    return {o["key"]: "any" for o in objects[4:6]}


def test_keras_model_from_its_object_graph(folder, process):
    objects = keras_objects()
    process(stored(keras_names(objects), [[[[[1.0]]]], [2.0]], objects=objects))
    model = read_keras_saved_model(folder)
    assert model.config["class_name"] == "Sequential" and model.version == "2.5.0"
    # Tuples are marked in these files and in no other of Keras'.
    assert model.config["config"]["layers"][0]["config"]["batch_input_shape"] == [None, 8, 8, 3]
    assert {p: list(w) for p, w in model.weights.items()} == {"inner/conv": ["kernel", "bias"]}
    np.testing.assert_array_equal(model.weights["inner/conv"]["bias"], [2.0])


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ("", "does not say how its Keras model is built"),
        (json.dumps({"name": "subclassed", "class_name": "MyModel"}), "a subclassed model"),
        ("{", "is damaged"),
        ("[" * 100_000, "is damaged"),
    ],
)
def test_models_without_a_usable_config_are_refused(metadata, said, folder, process):
    objects = keras_objects()
    objects[0]["metadata"] = metadata
    process(stored(keras_names(objects), [[1.0], [2.0]], objects=objects))
    with pytest.raises(ConvertError, match=said):
        read_keras_saved_model(folder)
    with pytest.raises(ConvertError, match=said):
        open_own(folder)


def test_variables_get_the_key_of_the_object_at_the_same_path():
    # The two graphs number their nodes differently; the saved model has functions besides.
    saved = [
        {"children": {"call": 1, "layer-0": 2, "again": 2}, "key": ""},
        {"children": {}, "key": ""},
        {"children": {"kernel": 3, "self": 0}, "key": ""},
        {"children": {}, "key": ""},
    ]
    nodes = [
        ({"layer-0": 2, "again": 2}, "", ""),
        ({}, "layer-0/kernel", "conv/kernel"),
        ({"kernel": 1, "self": 0}, "", ""),
    ]
    join(saved, nodes)
    assert [o["key"] for o in saved] == ["", "", "", "layer-0/kernel"]
    join([], nodes)
    join(saved, [])


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("layer_with_weights-0/kernel", True),
        ("layer_with_weights-0/kernel/.OPTIMIZER_SLOT/optimizer/m", False),
        ("optimizer/iter", False),
        ("optimizer_net/conv/kernel", True),
        ("keras_api/metrics/0/total", False),
        ("layer-1/layer-0/_rng/_state_var", False),
        ("layer-1/_random_generator/_generator/_state_var", False),
        ("save_counter", False),
        ("resnet_v2_50/conv1/weights", True),
        ("resnet_v2_50/conv1/weights/Momentum", False),
        ("resnet_v2_50/conv1/weights/Adam_1", False),
        ("Adam/conv/weights", True),
        ("global_step", False),
        ("net/global_step_embedding", True),
        ("beta1_power", False),
        ("net/beta", True),
    ],
)
def test_what_counts_as_a_weight(name, weight):
    key = name + VALUE if "-" in name or name == "save_counter" else name
    assert (saved_model_process._NO_WEIGHTS.search(key) is None) == weight


def message(number, payload):
    """A length-delimited field: tag, length (both below 128 here or two bytes), payload."""
    size = len(payload)
    length = bytes([size]) if size < 128 else bytes([size & 0x7F | 0x80, size >> 7])
    return bytes([number << 3 | 2]) + length + payload


def test_keras_metadata_is_read_from_its_encoding(tmp_path):
    long = "x" * 300
    nodes = [
        message(3, b"root") + message(5, b'{"name": "model"}'),
        # node 300 = 0xAC 0x02, a fixed 32-bit and a fixed 64-bit field that are not ours
        b"\x10\xac\x02" + b"\x3d\0\0\0\0" + b"\x41" + b"\0" * 8 + message(5, long.encode()),
        b"\x10\x07",
    ]
    (tmp_path / "keras_metadata.pb").write_bytes(b"".join(message(1, n) for n in nodes))
    assert keras_metadata(tmp_path) == {0: '{"name": "model"}', 300: long}
    assert keras_metadata(tmp_path / "elsewhere") == {}


@pytest.mark.parametrize(
    "damaged", [b"\x0a\x05abc", b"\x80", b"\xff" * 11, b"\x0b\x00", b"\x09abc"]
)
def test_damaged_encodings_are_refused(damaged):
    with pytest.raises(ValueError, match=r"keras_metadata\.pb is"):
        list(wire_fields(damaged))
