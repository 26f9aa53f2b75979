"""Users' own Keras networks, layer by layer against what Keras computes from the same weights."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from keras_models import (
    NAMES,
    build,
    drawn,
    image,
    live_outputs,
    random_model,
    statistics,
    write_h5,
    write_keras,
)

from tlflax import tree
from tlflax.backbones.chain import Chain
from tlflax.backbones.graph import graph_chain, graph_spec
from tlflax.backbones.graph_layers import FUNCTIONS, LAYERS
from tlflax.backbones.inventory import abstract_variables, describe
from tlflax.backbones.spec import Contract
from tlflax.convert.keras_graph import RESERVED, keras_graph
from tlflax.convert.keras_model import KerasModel
from tlflax.convert.own import open_own
from tlflax.errors import ConvertError

FOLDER = Path(__file__).resolve().parents[1] / "goldens"
# The same float32 sums in another order, through up to 30 layers.
TOLERANCE = 1e-5


def golden(name):
    return json.loads((FOLDER / f"graph_{name}.json").read_text())


def pixels(shape):
    """An RGB image whose luma is what a grey network was given."""
    side, _, channels = shape
    return np.repeat(image(side, channels), 3 // channels, axis=-1)


def outputs(spec, variables, images):
    """Every layer's output by its Keras path."""
    order = []

    def run(variables, images):
        record = {}
        spec.chain().apply(variables, images, record=record)
        order[:] = record
        return record

    options = {"xla_backend_optimization_level": 0}
    found = jax.jit(run, compiler_options=options)(variables, images)
    return {name: np.asarray(found[name]) for name in order}


def by_path(found, paths, aliases):
    """Our layer names -> Keras' paths: by the end of the path, or by what the alias says."""
    renamed = {block: alias for alias, block in aliases.items() if alias in paths}
    pairs = {}
    for name in found:
        ends = [p for p in paths if p.split("/")[-1] == name and p not in renamed.values()]
        pairs[name] = renamed.get(name) or ends[0]
    assert sorted(pairs.values()) == sorted(paths)
    return pairs


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_equals_keras(name, tmp_path):
    stored = golden(name)
    weights = drawn(stored["weights"])
    spec, own = open_own(write_keras(tmp_path / "m.keras", stored["keras"], weights), "raw")
    found = outputs(spec, own.variables, pixels(json.loads(spec.options["graph"])["input"]))
    paths = by_path(found, list(stored["outputs"]), spec.aliases)
    for layer, array in found.items():
        expected = stored["outputs"][paths[layer]]
        assert list(array.shape[1:]) == expected["shape"], layer
        norm, _, largest, *_ = expected["values"]
        scale = np.array([norm, *[largest] * 10])
        error = (np.abs(np.array(statistics(array)) - expected["values"]) / scale).max()
        assert error <= TOLERANCE, f"{layer} is off by {error:.1e}"
    # Normalization's three are constants of the graph.
    constants = sum(
        int(np.prod(shape))
        for kinds in stored["weights"].values()
        for kind, shape in kinds.items()
        if kind in ("mean", "variance", "count")
    )
    assert own.certificate["parameters"] + constants == stored["parameters"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("style", ["keras2", "keras3"])
def test_h5_gives_the_same_network(name, style, tmp_path):
    stored = golden(name)
    weights = drawn(stored["weights"])
    spec, own = open_own(write_keras(tmp_path / "m", stored["keras"], weights).rename(
        tmp_path / "m.keras"), "raw")  # fmt: skip
    same, other = open_own(write_h5(tmp_path / "m.h5", stored["h5"], weights, style), "raw")
    if (name, style) != ("functions", "keras2"):  # its hard_sigmoid was another one
        assert same.options["graph"] == spec.options["graph"]
    flat, again = tree.flatten(own.variables), tree.flatten(other.variables)
    assert flat.keys() == again.keys()
    for path, array in flat.items():
        np.testing.assert_array_equal(array, again[path], err_msg=path)


@pytest.mark.parametrize("name", NAMES)
def test_goldens_are_informative(name):
    outputs = golden(name)["outputs"]
    for layer, stored in outputs.items():
        norm, _, largest, *samples = stored["values"]
        rms = norm / np.sqrt(np.prod(stored["shape"]))
        raw = "resizing" in layer or "crop" in layer or "random" in layer
        assert rms > 1e-3 and (largest < 50 or raw), layer
        assert np.std(samples) > 1e-3 * largest, layer


def chain_of(nodes, size=8, **more):
    """A chain of one-input nodes given as (name, kind, options)."""
    blocks, feed = [], "input"
    for name, kind, options in nodes:
        node = {"name": name, "kind": kind, "options": options, "inputs": [feed]}
        blocks.append({"name": name, "nodes": [node]})
        feed = name
    graph = {"input": [size, size, 3], "start": "input", "blocks": blocks, "aliases": {}}
    return json.dumps(graph | more)


CONV = {"features": 4, "kernel": [3, 3], "strides": [1, 1], "dilation": [1, 1], "groups": 1}
CONV |= {"padding": "VALID", "bias": True, "activation": ["relu", {}]}
POOL = {"keepdims": False}
DENSE = {"features": 2, "bias": True, "activation": ["softmax", {}]}


def test_cut_at_any_block_equals_the_full_network():
    stack = [("conv", "conv", CONV), ("pool", "global_average_pool", POOL), ("out", "dense", DENSE)]
    chain = graph_chain(chain_of(stack), Contract())
    variables = chain.init(jax.random.key(0), image(8))
    record = {}
    full = chain.apply(variables, image(8), record=record)
    for name in chain:
        cut = chain.apply(variables, image(8), stop=name)
        np.testing.assert_array_equal(cut, record[name])
        np.testing.assert_array_equal(chain.apply(variables, cut, start=name), full)


def test_batch_norm_is_live_only_where_asked():
    norm = {"axes": [-1], "epsilon": 1e-3, "momentum": 0.9, "scale": True, "bias": True}
    graph = chain_of([("a", "batch_norm", norm), ("b", "batch_norm", norm)])
    chain = Chain(graph_chain(graph, Contract()).blocks, Contract(), live=frozenset({"b"}))
    variables = chain.init(jax.random.key(0), image(8))
    _, changed = chain.apply(variables, image(8), train=True, mutable=["batch_stats"])
    before, after = variables["batch_stats"], changed["batch_stats"]
    np.testing.assert_array_equal(before["a"]["a"]["mean"], after["a"]["a"]["mean"])
    assert np.abs(after["b"]["b"]["mean"] - before["b"]["b"]["mean"]).max() > 1


def test_spec_says_what_the_graph_is():
    stack = [("conv", "conv", CONV), ("pool", "global_average_pool", POOL), ("out", "dense", DENSE)]
    spec = graph_spec("mine.h5", chain_of(stack), Contract())
    assert (spec.size, spec.min_size, spec.form) == (8, 3, "graph")
    assert (spec.default_endpoint, spec.top_layers) == ("pool", ("out",))
    assert spec.parameters == 3 * 3 * 3 * 4 + 4
    assert spec.chain() == graph_chain(spec.options["graph"], Contract())
    blocks = describe(spec.chain(), 8)
    assert [b.name for b in blocks] == ["conv", "pool", "out"]
    assert blocks[0].shape == (6, 6, 4) and sum(b.parameters for b in blocks) == 112 + 10


def test_flatten_fixes_the_size():
    stack = [("conv", "conv", CONV), ("flat", "flatten", {}), ("out", "dense", DENSE)]
    spec = graph_spec("mine.h5", chain_of(stack), Contract())
    assert spec.size == spec.min_size == 8
    pooled = [("conv", "conv", CONV | {"strides": [2, 2]}), ("flat", "flatten", {})]
    spec = graph_spec("mine.h5", chain_of([*pooled, ("out", "dense", DENSE)]), Contract())
    assert spec.min_size == 7  # (7 - 3) // 2 == (8 - 3) // 2


def test_unknown_size_is_that_of_imagenet():
    graph = json.loads(chain_of([("conv", "conv", CONV), ("pool", "global_max_pool", POOL)]))
    graph["input"] = [None, None, 3]
    assert graph_spec("mine.h5", json.dumps(graph), Contract()).size == 224


ONE = CONV | {"kernel": [1, 1], "activation": ["linear", {}]}


@pytest.mark.parametrize(
    ("stack", "endpoint", "top"),
    [
        # A 1x1 convolution that becomes a vector of logits, as in SqueezeNet or MobileNet.
        ([("c", "conv", CONV), ("k", "conv", ONE), ("p", "global_average_pool", POOL)], "c", "kp"),
        # A base that ends with convolution, normalisation, pooling has no classifier.
        ([("c", "conv", CONV), ("p", "global_average_pool", POOL)], "p", ""),
        ([("c", "conv", CONV), ("k", "conv", ONE)], "k", ""),
        ([("c", "conv", CONV), ("p", "global_max_pool", POOL), ("d", "dense", DENSE),
          ("i", "identity", {})], "p", "di"),
    ],
)  # fmt: skip
def test_classifier_is_below_the_default_endpoint(stack, endpoint, top):
    spec = graph_spec("mine.h5", chain_of(stack), Contract())
    assert (spec.default_endpoint, "".join(spec.top_layers)) == (endpoint, top)


@pytest.mark.parametrize(
    ("stack", "said"),
    [
        ([("d", "dense", DENSE)], "is a classifier and nothing else"),
        ([("c", "conv", CONV | {"kernel": [9, 9]})], "'c': conv leaves nothing"),
        ([("r", "reshape", {"shape": [5, 5, 3]}), ("d", "dense", DENSE)], "cannot reshape"),
    ],
)
def test_impossible_networks_are_refused(stack, said):
    with pytest.raises(ConvertError, match=said):
        graph_spec("mine.h5", chain_of(stack), Contract())


def test_wrong_size_names_the_layer():
    stack = [("r", "reshape", {"shape": [16, 12]}), ("d", "dense", DENSE)]
    chain = graph_chain(chain_of(stack), Contract())
    with pytest.raises(ConvertError, match=r"layer 'r' cannot be computed from \[9, 9, 3\]"):
        abstract_variables(chain, 9)


@pytest.mark.parametrize("text", ["", "[]", "{}", "nothing"])
def test_damaged_description(text):
    with pytest.raises(ConvertError, match="convert it again"):
        graph_chain(text, Contract())


def test_no_layer_can_be_called_like_an_attribute():
    # A submodule of that name would be refused by flax, or hide the attribute.
    public = {n for n in dir(Chain) if not n.startswith("_")}
    assert public | {"blocks", "contract", "nodes", "feed", "input"} <= RESERVED


# Keras 3.15 variables and numpy 2 (seen 2026-11); h5py and this test both ask for arrays.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.slow
@pytest.mark.parametrize("which", [*NAMES, *range(12)])
def test_live_keras_agrees_at_every_layer(which, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    pytest.importorskip("keras", reason="needs Keras: pip install keras")
    model = random_model(which) if isinstance(which, int) else build(which)
    images = image(model.input_shape[1], model.input_shape[3])
    expected = live_outputs(model, images)
    for suffix in (".h5", ".keras"):
        path = tmp_path / f"m{suffix}"
        model.save(path)
        spec, own = open_own(path, "raw")
        found = outputs(spec, own.variables, pixels(model.input_shape[1:]))
        paths = by_path(found, list(expected), spec.aliases)
        for layer, array in found.items():
            reference = expected[paths[layer]]
            error = np.abs(array - reference).max() / np.abs(reference).max()
            assert error <= TOLERANCE, f"{layer} is off by {error:.1e}"


def test_goldens_have_every_kind_of_layer():
    classes, kinds, functions = set(), set(), set()
    for name in NAMES:
        stored = golden(name)
        classes |= {c for c in CLASSES if f'"class_name": "{c}"' in json.dumps(stored["keras"])}
        found = keras_graph(KerasModel(stored["keras"], drawn(stored["weights"]), "3.9.0"))
        for block in found.graph["blocks"]:
            kinds |= {node["kind"] for node in block["nodes"]}
            given = [node["options"].get("activation") for node in block["nodes"]]
            functions |= {function[0] for function in given if function}
    assert classes == set(CLASSES) and kinds == set(LAYERS)
    # What only files of Keras 2 have is compared in test_keras_graph.
    assert functions == set(FUNCTIONS) - {"threshold", "hard_sigmoid_2", "hard_silu_2"}


CLASSES = (
    "Conv2D DepthwiseConv2D SeparableConv2D Dense BatchNormalization LayerNormalization "
    "GroupNormalization MaxPooling2D AveragePooling2D GlobalAveragePooling2D GlobalMaxPooling2D "
    "Flatten Reshape Permute Activation ReLU LeakyReLU ELU PReLU Softmax Add Subtract Multiply "
    "Average Maximum Minimum Concatenate ZeroPadding2D Cropping2D UpSampling2D CenterCrop Resizing "
    "Rescaling Normalization Dropout SpatialDropout2D GaussianNoise RandomFlip RandomRotation "
    "RandomZoom"
).split()
