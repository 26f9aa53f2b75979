"""Reader for SavedModel folders: TF-Hub modules and Keras models saved by TensorFlow 1 and 2.

TensorFlow reads the variables in a process of its own (`saved_model_process`) and is never
imported here. Optimizer slots and counters, metrics, save counters and states of random
generators are not weights and are left out (`SavedModel.left_out` names them).
"""

import dataclasses
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlflax.errors import ConvertError

if TYPE_CHECKING:
    from tlflax.convert.keras_model import KerasModel

_PROCESS = Path(__file__).with_name("saved_model_process.py")
# A Keras model's object graph has its layers twice: all of them, and those with weights.
_LAYER = re.compile(r"layer(_with_weights)?-\d+")


@dataclasses.dataclass(frozen=True)
class SavedModel:
    """What is stored in a SavedModel folder.

    Attributes:
      arrays: weights by checkpoint key.
      names: TensorFlow's variable names by checkpoint key.
      left_out: keys of what is stored but no weight.
      objects: object graph of a Keras model, else empty: per node ``children`` (name -> number),
        ``key`` of its variable, ``metadata`` (a layer's description as JSON).
    """

    arrays: dict[str, np.ndarray]
    names: dict[str, str]
    left_out: tuple[str, ...]
    objects: list[dict[str, Any]]


def _run(path: Path, images: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """What `saved_model_process` says of a folder.

    Raises:
      ConvertError: no TensorFlow here, or it cannot read the folder.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise ConvertError(
            f"reading the SavedModel folder {path} needs TensorFlow: pip install -e '.[tf]'"
        )
    with tempfile.TemporaryDirectory() as scratch:
        out, given = Path(scratch) / "out.npz", Path(scratch) / "images.npy"
        # -P: this package's folder is not searched for TensorFlow's modules.
        command = [sys.executable, "-P", str(_PROCESS), str(path), str(out)]
        if images is not None:
            np.save(given, images)
            command.append(str(given))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise ConvertError(
                f"cannot {'read' if images is None else 'run'} the SavedModel folder {path}: "
                f"{said[-1][:300]}. It may be incomplete: download it again and compare the "
                "sizes of its files"
            )
        with np.load(out, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}


def run_saved_model(path: Path, images: np.ndarray) -> tuple[np.ndarray, str]:
    """Lets TensorFlow compute a hub module's feature vectors, from the module's own graph.

    Args:
      path: the folder.
      images: RGB uint8 ``[N, H, W, 3]``; modules get them in 0..1.

    Returns:
      Features ``[N, C]`` and TensorFlow's version.

    Raises:
      ConvertError: no TensorFlow here, or it cannot run the module.
    """
    found = _run(path, images.astype(np.float32) / 255)
    return found["features"], str(found["version"])


def open_saved_model(path: Path) -> SavedModel:
    """Reads a SavedModel folder.

    Raises:
      ConvertError: no such folder, incomplete, damaged, without weights, or no TensorFlow here.
    """
    if not (path / "saved_model.pb").is_file():
        raise ConvertError(f"{path} is not a SavedModel folder: it has no saved_model.pb")
    if not (path / "variables" / "variables.index").is_file():
        raise ConvertError(
            f"{path} has no variables/variables.index: the folder is incomplete, or a graph "
            "without weights of its own"
        )
    found = _run(path)
    facts = json.loads(found.pop("facts").tobytes())
    keys = [v["key"] for v in facts["variables"]]
    arrays = {key: found[str(i)] for i, key in enumerate(keys)}
    if not arrays:
        raise ConvertError(f"{path} has no weights: its variables are {facts['left_out'][:4]}")
    names = {v["key"]: v["name"] for v in facts["variables"]}
    return SavedModel(arrays, names, tuple(facts["left_out"]), facts["objects"])


def read_saved_model(path: Path) -> dict[str, np.ndarray]:
    """Weights of a SavedModel by TensorFlow variable name, e.g. ``resnet_v2_50/conv1/weights``.

    Where several variables have the same name, each is called by its checkpoint key instead.

    Raises:
      ConvertError: see `open_saved_model`.
    """
    found = open_saved_model(path)
    count = Counter(found.names.values())
    unique = {key: name if count[name] == 1 else key for key, name in found.names.items()}
    return {unique[key]: array for key, array in found.arrays.items()}


def read_keras_saved_model(path: Path) -> "KerasModel":
    """Config and weights of a Keras model saved as a folder (``model.save`` up to Keras 2).

    Raises:
      ConvertError: see `open_saved_model`; or not a Keras model, or one without a config
        (a subclassed model, or one written by Keras 3's ``export``).
    """
    from tlflax.convert.keras_model import KerasModel

    found = open_saved_model(path)
    root = _description(found.objects, 0)
    if not root.get("config") or not root.get("class_name"):
        raise ConvertError(
            f"{path} does not say how its Keras model is built (a subclassed model, a TF-Hub "
            "module, or written by Keras 3's export); save the model as .keras and convert that"
        )
    config = {"class_name": root["class_name"], "config": root["config"]}
    weights: dict[str, dict[str, np.ndarray]] = {}
    _collect(found, 0, (), weights)
    return KerasModel(config, weights, str(root.get("keras_version", "")))


def _description(objects: list[dict[str, Any]], number: int) -> dict[str, Any]:
    """What Keras wrote about an object; empty where it wrote nothing.

    Raises:
      ConvertError: it is no JSON.
    """
    text = objects[number]["metadata"] if objects else ""
    try:
        described = _plain(json.loads(text)) if text else {}
    except (ValueError, RecursionError) as error:
        raise ConvertError(f"keras_metadata.pb is damaged: {error}") from error
    return described if isinstance(described, dict) else {}


def _plain(value: Any) -> Any:
    """Without what Keras adds in SavedModels alone: tuples and shapes marked as such -> lists."""
    if isinstance(value, dict):
        if value.get("class_name") in ("__tuple__", "TensorShape") and "items" in value:
            return _plain(value["items"])
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list) else value


def _collect(
    found: SavedModel, number: int, names: tuple[str, ...], weights: dict[str, Any]
) -> None:
    """Adds the weights of the layers below a model's node, by the names of models and layer."""
    children = found.objects[number]["children"]
    layers = dict.fromkeys(child for name, child in children.items() if _LAYER.fullmatch(name))
    for layer in layers:
        name = _description(found.objects, layer).get("name")
        if not name:
            continue
        path, own = (*names, name), {}
        for kind, child in found.objects[layer]["children"].items():
            key = found.objects[child]["key"]
            if key in found.arrays:
                own[kind] = found.arrays[key]
        if own:
            weights["/".join(path)] = own
        _collect(found, layer, path, weights)
