"""A user's own Keras network as a backbone: file -> spec and weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tlflax import tree
from tlflax.backbones.graph import graph_spec
from tlflax.backbones.spec import Contract, Spec
from tlflax.convert import hdf5
from tlflax.convert.certificate import layout_certificate
from tlflax.convert.keras_graph import KerasGraph, keras_graph
from tlflax.convert.keras_model import KerasModel, read_keras_model
from tlflax.convert.own_augment import misplaced_augmentation
from tlflax.convert.own_contract import own_contract
from tlflax.convert.readers import check_path
from tlflax.convert.store import Weights, sha256
from tlflax.errors import ConfigError, ConvertError, listing

# Keras' weight -> collection and leaf, for a node of any kind ...
_LEAVES = {
    "kernel": ("params", "kernel"),
    "depthwise_kernel": ("params", "kernel"),
    "bias": ("params", "bias"),
    "gamma": ("params", "scale"),
    "beta": ("params", "bias"),
    "alpha": ("params", "alpha"),
    "moving_mean": ("batch_stats", "mean"),
    "moving_variance": ("batch_stats", "var"),
}
# ... and of this one.
_SEPARABLE = {
    "depthwise_kernel": ("params", "depthwise/kernel"),
    "pointwise_kernel": ("params", "pointwise/kernel"),
    "bias": ("params", "pointwise/bias"),
}


def open_own(path: Path, preprocessing: str = "auto") -> tuple[Spec, Weights]:
    """Reads a Keras model and converts it.

    Args:
      path: `.h5`, `.hdf5`, `.keras`, a SavedModel folder, or a `.safetensors` that
        `tlflax.convert` made of one of these.
      preprocessing: ``raw`` (0..255), ``unit`` (x / 255), ``unit_bgr``, ``tf``, ``torch``,
        ``caffe``, or ``auto``: what the network tells about itself, with a note on the choice.

    Raises:
      TlflaxError: unreadable, with a layer that has no equivalent here, or incomplete.
    """
    check_path(path)
    if path.suffix == ".safetensors":
        return _converted_before(path, preprocessing)
    if path.is_dir():
        from tlflax.convert.saved_model import read_keras_saved_model

        model = read_keras_saved_model(path)
    elif path.suffix in (".h5", ".hdf5", ".keras"):
        model = read_keras_model(path)
    else:
        raise ConvertError(
            f"{path} holds weights without a network; a backbone of your own is a whole Keras "
            "model: .h5, .keras, or a SavedModel folder"
        )
    try:
        found = keras_graph(model)
    except ConvertError as error:
        raise ConvertError(f"{path}: {error}") from error
    contract, why = own_contract(found.graph, preprocessing)
    # Without spaces: it is kept in the metadata of every file made from it.
    spec = graph_spec(path.name, json.dumps(found.graph, separators=(",", ":")), contract)
    variables = own_variables(model, found, spec, path.name)
    notes = (why,) if why else ()
    if spec.top_layers:
        notes += (
            f"its classifier {spec.top_layers[0]!r} comes after the default endpoint "
            f"{spec.default_endpoint!r} and is left out there",
        )
    misplaced = misplaced_augmentation(model.config)
    notes += (misplaced,) if misplaced else ()
    if '"mixed_' in json.dumps(model.config):
        notes += ("trained in mixed precision; it is computed in float32 here",)
    count = sum(len(w) for w in model.weights.values())
    certificate = layout_certificate(variables, count, [])
    return spec, Weights(variables, path.name, sha256(path), certificate, notes)


def own_variables(model: KerasModel, found: KerasGraph, spec: Spec, what: str) -> dict[str, Any]:
    """Places a model's weights; total on both sides.

    Raises:
      ConvertError: anything left over, missing, of another shape, or not finite.
    """
    from tlflax.backbones.inventory import abstract_variables

    target = abstract_variables(spec.chain(), spec.size)
    wanted = {f"{c}/{p}": leaf.shape for c in target for p, leaf in tree.flatten(target[c]).items()}
    filled: dict[str, np.ndarray] = {}
    used: set[tuple[str, str]] = set()
    wrong = []
    for block in found.graph["blocks"]:
        for node in block["nodes"]:
            layer = found.layers.get(node["name"])
            for kind, array in model.weights.get(layer or "", {}).items():
                leaves = _SEPARABLE if node["kind"] == "separable_conv" else _LEAVES
                if kind not in leaves:
                    continue
                collection, leaf = leaves[kind]
                path = f"{collection}/{block['name']}/{node['name']}/{leaf}"
                value = _depthwise(array) if kind == "depthwise_kernel" else array
                used.add((str(layer), kind))
                if path in wanted and value.shape != wanted[path]:
                    wrong.append(f"{layer}/{kind} is {array.shape}, needs {wanted[path]}")
                filled[path] = np.ascontiguousarray(value, np.float32)
    missing = [p for p in wanted if p not in filled]
    constants = ("mean", "variance", "count", "adapt_mean", "adapt_variance")
    unused = [
        f"{p}/{k}" for p, w in model.weights.items() for k in w
        if (p, k) not in used and k not in constants
    ]  # fmt: skip
    unused += [p for p in filled if p not in wanted]
    if wrong or missing or unused:
        parts = [f"wrong shape: {listing(wrong, 4)}"] * bool(wrong)
        parts += [f"{len(missing)} weights missing: {listing(missing, 4)}"] * bool(missing)
        parts += [f"{len(unused)} weights not used: {listing(unused, 4)}"] * bool(unused)
        raise ConvertError(f"{what}: weights do not fit its configuration: {'; '.join(parts)}")
    bad = [p for p, v in filled.items() if not np.isfinite(v).all()]
    if bad:
        raise ConvertError(f"{what} has non-finite numbers in {listing(bad, 4)}")
    nested = tree.unflatten(filled)
    return {collection: nested.get(collection, {}) for collection in target}


def _depthwise(kernel: np.ndarray) -> np.ndarray:
    """Keras ``[kh, kw, channels, multiplier]`` -> ours ``[kh, kw, 1, channels * multiplier]``."""
    return kernel.reshape(*kernel.shape[:2], 1, -1)


def has_network(path: Path) -> bool:
    """Whether a file or folder brings its network along; a damaged one may say no."""
    if path.is_dir():
        # Keras describes itself beside TensorFlow's graph or, up to TensorFlow 2.4, inside of it.
        graph = path / "saved_model.pb"
        beside = (path / "keras_metadata.pb").is_file()
        return beside or (graph.is_file() and b"_tf_keras_" in graph.read_bytes())
    if path.suffix not in (".h5", ".hdf5"):
        return path.suffix == ".keras"
    try:
        with hdf5.opened(path, str(path)) as file:
            return "model_config" in file.attrs
    except ConvertError:
        return False


def spec_from_facts(facts: Mapping[str, Any]) -> Spec:
    """A network from the metadata of a converted file (see `tlflax.convert.store.save_weights`).

    Raises:
      ConvertError: it does not describe a user's own network.
    """
    if not isinstance(facts.get("graph"), str) or not isinstance(facts.get("contract"), dict):
        raise ConvertError("the file does not describe a network of its own")
    contract = Contract.read(facts["contract"])
    return graph_spec(str(facts.get("backbone")), facts["graph"], contract)


def _converted_before(path: Path, preprocessing: str) -> tuple[Spec, Weights]:
    from tlflax.backbones.inventory import abstract_variables
    from tlflax.convert.load import take
    from tlflax.convert.tensors import load_variables

    variables, facts = load_variables(path)
    if "graph" not in facts:
        raise ConvertError(
            f"{path} holds weights of {facts.get('backbone')}; name that as the backbone and this "
            "file as its weights"
        )
    if preprocessing != "auto":
        raise ConfigError(
            f"{path.name} has its preprocessing from when it was converted; convert the original "
            f"again to set it to {preprocessing!r}"
        )
    spec = spec_from_facts(facts)
    target = abstract_variables(spec.chain(), spec.size)
    lacking = [f for f in ("source", "sha256", "certificate", "notes") if f not in facts]
    if lacking:
        raise ConvertError(f"{path} lacks {listing(lacking)}; convert the original file again")
    return spec, Weights(
        take(variables, target, path.name),
        facts["source"],
        facts["sha256"],
        facts["certificate"],
        tuple(facts["notes"]),
    )
