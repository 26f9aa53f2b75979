"""Reads a SavedModel folder with TensorFlow, in a process of its own.

    python -P saved_model_process.py FOLDER OUT.npz [IMAGES.npy]

Started by `tlflax.convert.saved_model` and importing nothing of tlflax: TensorFlow stays out of
the process that uses jax. Only the stored variables and descriptions are read; no graph of the
file is loaded or run, unless ``IMAGES.npy`` asks for it (`--verify`): then ``OUT.npz`` has the
module's ``features`` of these images and TensorFlow's ``version``. Else it has the arrays ``0``,
``1``, ... and ``facts``, JSON as UTF-8 bytes:

    variables  for each array its checkpoint key and TensorFlow variable name
    left_out   keys that are no weights: optimizer slots and counters, metrics, save counters,
               states of random generators, text
    objects    of a Keras model: per node of its object graph the children, the key of its
               variable, and the layer's description (`metadata`)

Exit code 3 and one line on stderr: the folder cannot be read.
"""

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

# Names of an object-based checkpoint (TensorFlow 2), and of the graph of objects stored in it.
_VALUE, _GRAPH = "/.ATTRIBUTES/VARIABLE_VALUE", "_CHECKPOINTABLE_OBJECT_GRAPH"

# What training and saving keep beside the weights. First object-based checkpoints, then those of
# TensorFlow 1, where an optimizer's slot is called like its variable with the slot's name behind.
_NO_WEIGHTS = re.compile(
    r"/\.OPTIMIZER_SLOT/|^_?optimizer/|^keras_api/metrics/|^save_counter\b|(^|/)_state_var\b"
    r"|(^|/)seed_generator(_state)?\b|^global_step$|^beta[12]_power$"
    r"|/(Adam|RMSProp|Momentum|Adagrad|Ftrl)(_\d)?$"
)


def wire_fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Fields of a protocol buffer message: numbers for varints, bytes for everything longer.

    TensorFlow has the class of ``keras_metadata.pb`` in a private module only; the encoding is
    public (protobuf.dev/programming-guides/encoding).

    Raises:
      ValueError: not a message, or cut off.
    """
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            if position >= len(message) or shift > 63:
                raise ValueError("keras_metadata.pb is damaged")
            byte = message[position]
            position, value = position + 1, value | (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while position < len(message):
        tag = varint()
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            yield number, varint()
            continue
        if kind not in (1, 2, 5):
            raise ValueError("keras_metadata.pb is damaged")
        length = varint() if kind == 2 else 8 if kind == 1 else 4
        if position + length > len(message):
            raise ValueError("keras_metadata.pb is cut off")
        yield number, message[position : position + length]
        position += length


def keras_metadata(folder: Path) -> dict[int, str]:
    """Descriptions of Keras objects by node number, from ``keras_metadata.pb`` (TF 2.5 and later).

    The file is a `SavedMetadata`: field 1, repeated, with node_id (2) and metadata (5).
    """
    path, found = folder / "keras_metadata.pb", {}
    if path.is_file():
        for number, node in wire_fields(path.read_bytes()):
            fields = dict(wire_fields(node)) if number == 1 else {}
            if 5 in fields:
                # Node 0, the model itself: proto3 does not write zeros.
                found[int(fields.get(2, 0))] = fields[5].decode()
    return found


def checkpoint_graph(reader: Any) -> list[tuple[dict[str, int], str, str]]:
    """Per node of the checkpoint's object graph: children, checkpoint key, variable name."""
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    graph, nodes = TrackableObjectGraph(), []
    if reader.has_tensor(_GRAPH):
        graph.ParseFromString(reader.get_tensor(_GRAPH))
    for node in graph.nodes:
        key, name = "", ""
        for attribute in node.attributes:
            if attribute.name == "VARIABLE_VALUE":
                key, name = attribute.checkpoint_key, attribute.full_name
        nodes.append(({c.local_name: c.node_id for c in node.children}, key, name))
    return nodes


def saved_objects(folder: Path) -> list[dict[str, Any]]:
    """Per node of saved_model.pb's object graph: children, variable name, Keras description."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    model, described = SavedModel(), keras_metadata(folder)
    model.ParseFromString((folder / "saved_model.pb").read_bytes())
    objects = []
    for graph in model.meta_graphs[:1]:
        for number, node in enumerate(graph.object_graph_def.nodes):
            children = {c.local_name: c.node_id for c in node.children}
            # Up to TensorFlow 2.4 the description is here.
            metadata = described.get(number) or node.user_object.metadata
            facts = {"children": children, "metadata": metadata, "name": node.variable.name}
            objects.append(facts | {"key": ""})
    return objects


def join(objects: list[dict[str, Any]], nodes: list[tuple[dict[str, int], str, str]]) -> None:
    """Gives the saved model's variables their checkpoint keys: same path, same object."""
    paired, queue = {0: 0}, [0] if objects and nodes else []
    while queue:
        number = queue.pop(0)
        children, objects[number]["key"], _ = nodes[paired[number]]
        for name, child in objects[number]["children"].items():
            if name in children and child not in paired:
                paired[child] = children[name]
                queue.append(child)


def read(folder: Path) -> tuple[list[np.ndarray], dict[str, Any]]:
    """The arrays and the facts, see the module's docstring."""
    import tensorflow as tf

    reader: Any = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    nodes, objects = checkpoint_graph(reader), saved_objects(folder)
    join(objects, nodes)
    names = {o["key"]: o["name"] for o in objects if o["key"] and o["name"]}
    names |= {key: name for _, key, name in nodes if key and name}
    arrays, variables, left_out = [], [], []
    for key, dtype in sorted(reader.get_variable_to_dtype_map().items()):
        name = names.get(key) or key.removesuffix(_VALUE)
        if key == _GRAPH:
            continue
        number = dtype.is_floating or dtype.is_integer
        if not number or _NO_WEIGHTS.search(key) or _NO_WEIGHTS.search(name):
            left_out.append(key)
            continue
        array = np.asarray(reader.get_tensor(key))
        # bfloat16 is no type of numpy's own.
        arrays.append(array.astype(np.float32) if dtype == tf.bfloat16 else array)
        variables.append({"key": key, "name": name})
    keras = any(o["metadata"] for o in objects)
    return arrays, {
        "variables": variables,
        "left_out": sorted(left_out),
        "objects": objects if keras else [],
    }


def features(folder: Path, images: np.ndarray) -> tuple[np.ndarray, str]:
    """A hub module's output ``[N, C]`` for float32 images in 0..1, and TensorFlow's version."""
    import tensorflow as tf

    model: Any = tf.saved_model.load(str(folder))
    x, signatures = tf.constant(images), getattr(model, "signatures", {})
    # What the modules call it; the first ones of TensorFlow 2 are functions themselves.
    for name in ("serving_default", "default", "image_feature_vector"):
        if name in signatures:
            (argument,) = signatures[name].structured_input_signature[1]
            found = signatures[name](**{argument: x})
            output = found["default"] if "default" in found else next(iter(found.values()))
            return np.asarray(output), tf.__version__
    return np.asarray(model(x)), tf.__version__


def main(folder: str, out: str, images: str = "") -> int:
    """The command."""
    # The reader says what is wrong itself; TensorFlow's log has greetings. No GPU memory is taken.
    os.environ.update({"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"})
    try:
        if images:
            found, version = features(Path(folder), np.load(images))
            np.savez(out, features=found, version=np.array(version))
            return 0
        arrays, facts = read(Path(folder))
    except Exception as error:  # TensorFlow's, protobuf's and the system's errors share no base
        lines = str(error).strip().splitlines()
        print(f"{type(error).__name__}: {lines[0] if lines else ''}", file=sys.stderr)
        return 3
    stored: dict[str, Any] = {str(i): array for i, array in enumerate(arrays)}
    np.savez(out, facts=np.frombuffer(json.dumps(facts).encode(), np.uint8), **stored)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
