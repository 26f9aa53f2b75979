"""A Keras model's configuration -> a graph: plain nodes in the order of computation.

Sequential and functional models, nested to any depth, as Keras 1 to 3 serialise them. The graph
is JSON-able and names no Keras class:

    {"input": [H, W, C], "start": NAME, "blocks": [{"name", "nodes": [
        {"name", "kind", "options", "inputs"}]}],
     "aliases": {outer: block}, "renamed": {path: node}}

``renamed`` has the layers that could not keep their own names, ``aliases`` also nested models. A
block ends where a single tensor is all that the rest of the network needs. ``H`` and ``W`` are
null where the network takes any size.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tlflax.convert.keras_arithmetic import as_layer
from tlflax.convert.keras_calls import Call, calls, references
from tlflax.convert.keras_layers import translate
from tlflax.convert.keras_model import KerasModel
from tlflax.convert.keras_weights import MODELS, kinds, name_of, sublayers
from tlflax.errors import ConvertError, listing

# Attributes of the Linen classes that run the graph; no layer may be called like these.
RESERVED = frozenset(
    "apply bind blocks clone contract copy get_variable has_rng has_variable init feed nodes "
    "init_with_output is_initializing is_mutable_collection lazy_init live make_rng module_paths "
    "name param parent path perturb precision put_variable remat scope setup sow tabulate unbind "
    "variable variables input".split()
)
_START = "input"


@dataclasses.dataclass(frozen=True)
class KerasGraph:
    """A graph and where its weights are.

    Attributes:
      graph: see the module.
      layers: node name -> layer path, for `KerasModel.weights`.
    """

    graph: dict[str, Any]
    layers: dict[str, str]


def keras_graph(model: KerasModel) -> KerasGraph:
    """Flattens and cuts a model.

    Raises:
      ConvertError: a layer or a form of model that has no equivalent here, by name.
    """
    try:
        return _keras_graph(model)
    except (TypeError, KeyError, AttributeError, ValueError, IndexError) as error:
        raise ConvertError(
            "the model's configuration is not as Keras writes it "
            f"({type(error).__name__}: {str(error)[:80]})"
        ) from error


def _keras_graph(model: KerasModel) -> KerasGraph:
    builder = _Builder(model)
    class_name = model.config.get("class_name")
    if class_name not in MODELS:
        raise ConvertError(
            f"the model is of class {class_name}; only Sequential and functional models say "
            "in their file how they are computed"
        )
    end = builder.add_model(model.config, "", [_START])
    nodes = _needed(builder.nodes, end)
    if not nodes:
        raise ConvertError("the model has no layers")
    blocks = _blocks(nodes)
    block_names = {b["name"] for b in blocks}
    aliases = {
        k: v for k, v in builder.aliases.items() if v in block_names and k not in block_names
    }
    graph = {
        "input": _input_shape(model.config),
        "start": _START,
        "blocks": blocks,
        "aliases": aliases,
        "renamed": builder.renamed,
    }
    kept = {n["name"] for n in nodes}
    return KerasGraph(graph, {n: p for n, p in builder.layers.items() if n in kept})


class _Builder:
    """Collects nodes while it walks through nested models."""

    def __init__(self, model: KerasModel):
        self.model = model
        self.nodes: list[dict[str, Any]] = []
        self.layers: dict[str, str] = {}
        self.aliases: dict[str, str] = {}
        self.renamed: dict[str, str] = {}
        self.calls: dict[str, int] = {}

    def add_model(self, model: Mapping[str, Any], prefix: str, inputs: list[str]) -> str:
        """Adds a model's nodes; returns the name of the node that is its output."""
        if len(prefix.split("/")) > 17:
            raise ConvertError(f"models are nested too deep at {prefix[:80]}")
        if len(inputs) != 1:
            raise ConvertError(f"the model {name_of(model)!r} is called with {len(inputs)} tensors")
        if model["class_name"] == "Sequential":
            end = inputs[0]
            for layer in sublayers(model):
                if layer["class_name"] != "InputLayer":
                    end = self.add_layer(layer, prefix, [end])
            return end
        return self._add_functional(model, prefix, inputs[0])

    def _add_functional(self, model: Mapping[str, Any], prefix: str, start: str) -> str:
        layers = {str(d.get("name") or name_of(d)): d for d in sublayers(model)}
        config, name = model["config"], name_of(model)
        for what in ("input_layers", "output_layers"):
            found = references(config.get(what))
            if len(found) != 1:
                names = listing(r[0] for r in found)
                raise ConvertError(
                    f"the model {name!r} has {len(found)} {what.split('_')[0]}s ({names}); a "
                    "backbone has one. Save keras.Model(inputs, outputs) with the one you want"
                )
        waiting = [c for d in layers for c in calls(d, layers[d])]
        outputs: dict[tuple[str, int], str] = {}
        for layer, config_ in layers.items():
            if config_["class_name"] == "InputLayer":
                outputs[layer, 0] = start
        count = {d: sum(c.layer == d for c in waiting) for d in layers}
        while waiting:
            ready = [c for c in waiting if all(_key(r, count) in outputs for r in c.inputs)]
            if not ready:
                unknown = [r[0] for c in waiting for r in c.inputs if r[0] not in layers]
                names = listing(dict.fromkeys(unknown or [c.layer for c in waiting]), 4)
                raise ConvertError(f"the model {name!r} is not connected at {names}")
            call: Call = ready[0]
            waiting.remove(call)
            inputs = [outputs[_key(r, count)] for r in call.inputs]
            made = self.add_layer(layers[call.layer], prefix, inputs, call.operand)
            outputs[call.layer, call.index] = made
        end = references(config["output_layers"])[0]
        if _key(end, count) not in outputs:
            raise ConvertError(f"the model {name!r} has no layer {end[0]!r} for its output")
        return outputs[_key(end, count)]

    def add_layer(
        self, layer: Mapping[str, Any], prefix: str, inputs: list[str], number: float | None = None
    ) -> str:
        """Adds a layer or nested model; returns the name of its output's node."""
        class_name, path = str(layer["class_name"]), f"{prefix}{name_of(layer)}"
        self.calls[path] = self.calls.get(path, 0) + 1
        if class_name in MODELS:
            if self.calls[path] > 1:
                raise _shared(path)
            end = self.add_model(layer, f"{path}/", inputs)
            self.aliases[path] = self.aliases[path.split("/")[-1]] = end
            return end
        if str(layer.get("module", "keras")).startswith(("keras.src.ops", "keras.ops")):
            # A tensor expression; some carry the class name of a layer.
            class_name = "TFOpLambda"
            layer = {**layer, "config": {"function": f"keras.ops {layer['class_name']}"}}
        if _is_custom(layer):
            # It may be called like a layer of Keras and be something else.
            class_name = str(layer.get("registered_name") or f"{layer['module']}.{class_name}")
        class_name, config = as_layer(class_name, layer["config"], number)
        kind, options = translate(path, class_name, config, self.model.version)
        if self.calls[path] > 1 and kinds(class_name, config):
            raise _shared(path)
        if kind == "normalize" and options["mean"] is None:
            # In a SavedModel they are called by the attribute that holds them.
            stored = self.model.weights.get(path, {})
            weights = {k.removeprefix("adapt_"): array for k, array in stored.items()}
            if not {"mean", "variance"} <= set(weights):
                raise ConvertError(f"layer {path!r} (Normalization) has no mean and variance")
            # Constants of the preprocessing: nothing to train or to draw at random.
            options |= {n: np.asarray(weights[n]).tolist() for n in ("mean", "variance")}
        if not inputs or (len(inputs) > 1) != (kind in _MERGES):
            raise ConvertError(
                f"layer {path!r} ({class_name}) is called with {len(inputs)} tensors"
            )
        name = self._name(path)
        node = {"name": name, "kind": kind, "options": options, "inputs": inputs}
        self.nodes.append(node)
        if kinds(class_name, config) and kind != "normalize":
            self.layers[name] = path
        if name != path.split("/")[-1] and self.calls[path] == 1:
            self.aliases.setdefault(path, name)
            self.renamed.setdefault(path, name)
        return name

    def _name(self, path: str) -> str:
        """The layer's own name, with those of its models in front where it is taken."""
        taken = {n["name"] for n in self.nodes} | RESERVED
        parts = path.split("/")
        # A parameter path is made of slashes, so names have none.
        for first in range(len(parts) - 1, -1, -1):
            name = "_".join(parts[first:])
            if name not in taken:
                return name
        number = 1
        while f"{name}_{number}" in taken:
            number += 1
        return f"{name}_{number}"


_MERGES = ("add", "subtract", "multiply", "average", "maximum", "minimum", "concatenate")


def _is_custom(layer: Mapping[str, Any]) -> bool:
    """Whether the class is the user's own; only Keras 3 says where a class comes from."""
    package = str(layer.get("module", "keras")).split(".")[0]
    own = package not in ("keras", "tf_keras", "tensorflow", "keras_core")
    return own or ">" in str(layer.get("registered_name"))


def _shared(path: str) -> ConvertError:
    return ConvertError(
        f"layer {path!r} is called more than once: weights shared between places of a network "
        "are not supported; save the part of the model that uses it once"
    )


def _key(reference: tuple[str, int, int], count: Mapping[str, int]) -> tuple[str, int]:
    """Which call's output; a layer called once has no other, however Keras counts its nodes."""
    name, node, _ = reference
    return (name, node) if count.get(name, 0) > 1 else (name, 0)


def _needed(nodes: list[dict[str, Any]], end: str) -> list[dict[str, Any]]:
    """Leaves out what the output does not depend on."""
    wanted, kept = {end}, []
    for node in reversed(nodes):
        if node["name"] in wanted:
            wanted |= set(node["inputs"])
            kept.append(node)
    return kept[::-1]


def _blocks(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    last_use: dict[str, int] = {}
    for i, node in enumerate(nodes):
        for name in node["inputs"]:
            last_use[name] = i
    blocks, pending, live = [], [], {_START}
    for i, node in enumerate(nodes):
        pending.append(node)
        live = {n for n in live if last_use[n] > i}
        if not live:
            blocks.append({"name": node["name"], "nodes": pending})
            pending = []
        if i + 1 < len(nodes):
            live.add(node["name"])
    return blocks


def _input_shape(model: Mapping[str, Any]) -> list[int | None]:
    shapes = list(_declared_shapes(model))
    if not shapes:
        raise ConvertError(
            "the model does not say what it takes in: call it on an image, or give it an Input "
            "layer, before saving"
        )
    shape = [n if n is None else int(n) for n in shapes[0][1:]]
    if len(shape) != 3 or shape[2] not in (1, 3):
        raise ConvertError(
            f"the model takes {shape}; a backbone takes images [height, width, 1 or 3]"
        )
    if shape[0] != shape[1]:
        raise ConvertError(f"the model takes {shape[0]}x{shape[1]} images; only square ones can be")
    return shape


def _declared_shapes(model: Mapping[str, Any]) -> Iterator[list[Any]]:
    """Input shapes with batch, the most telling first."""
    config, layers = model["config"], sublayers(model)
    if model["class_name"] == "Sequential":
        first = layers[:1]
    else:
        first = [layer for layer in layers if layer["class_name"] == "InputLayer"]
    for layer in first:
        if layer["class_name"] in MODELS:
            yield from _declared_shapes(layer)
            continue
        for key in ("batch_shape", "batch_input_shape"):
            if layer["config"].get(key):
                yield layer["config"][key]
    if isinstance(config, dict):
        for key in ("build_input_shape", "batch_input_shape"):
            if config.get(key):
                yield config[key]
    for source in (model, *first):
        shape = (source.get("build_config") or {}).get("input_shape")
        if shape:
            yield shape
