"""Configurations of Keras models: what becomes of layers, names, calls; what is refused."""

import json

import jax
import numpy as np
import pytest
from keras_models import drawn

from tlflax.backbones.graph import graph_chain
from tlflax.backbones.spec import Contract
from tlflax.convert.keras_graph import keras_graph
from tlflax.convert.keras_layers import IDENTITY, activation, translate
from tlflax.convert.keras_model import KerasModel
from tlflax.convert.own_contract import CONTRACTS, own_contract
from tlflax.errors import ConfigError, ConvertError

INPUT = {"class_name": "InputLayer", "config": {"name": "in", "batch_input_shape": [None, 8, 8, 3]}}


def layer(class_name, name, **config):
    return {"class_name": class_name, "config": {"name": name, **config}, "name": name}


def conv(name, **more):
    return layer("Conv2D", name, filters=4, kernel_size=[3, 3], padding="same", **more)


def sequential(*layers, name="model"):
    config = {"name": name, "layers": [INPUT, *layers]}
    return {"class_name": "Sequential", "config": config, "name": name}


def functional(*calls, outputs=None, name="net", style="keras2", inputs=("in",)):
    """A functional model from (layer, names of its inputs), in one serialisation or another."""
    layers = []
    for name_ in inputs:
        config = {**INPUT["config"], "name": name_}
        layers.append({"class_name": "InputLayer", "config": config, "name": name_,
                       "inbound_nodes": []})  # fmt: skip
    for one, sources in calls:
        references = [s if isinstance(s, tuple) else (s, 0) for s in sources]
        if style == "keras2":
            node = [[[n, i, 0, {}] for n, i in references]]
        else:
            tensors = [
                {"class_name": "__keras_tensor__",
                 "config": {"shape": [None], "keras_history": [n, i, 0]}}
                for n, i in references
            ]  # fmt: skip
            args = tensors if len(tensors) == 1 else [tensors]
            node = [{"args": args, "kwargs": {"mask": None}}]
        again = next((done for done in layers if done["name"] == one["name"]), None)
        if again:
            again["inbound_nodes"] += node
        else:
            layers.append({**one, "inbound_nodes": node})
    ends = outputs or [calls[-1][0]["name"]]
    config = {"name": name, "layers": layers}
    config |= {"input_layers": [[n, 0, 0] for n in inputs]}
    config |= {"output_layers": [[n, 0, 0] if isinstance(n, str) else [*n, 0] for n in ends]}
    if style == "keras3" and len(ends) == 1:
        config["output_layers"] = config["output_layers"][0]
    return {"class_name": "Functional", "config": config, "name": name}


def graph_of(config, weights=None, version="3.9.0"):
    return keras_graph(KerasModel(config, weights or {}, version))


def nodes(config, **more):
    return [n for b in graph_of(config, **more).graph["blocks"] for n in b["nodes"]]


@pytest.mark.parametrize("style", ["keras2", "keras3"])
def test_blocks_end_where_one_tensor_goes_on(style):
    model = functional(
        (conv("stem"), ["in"]),
        (conv("a"), ["stem"]),
        (layer("ReLU", "b"), ["a"]),
        (layer("Add", "add"), ["b", "stem"]),
        (conv("last"), ["add"]),
        style=style,
    )
    found = graph_of(model)
    blocks = {b["name"]: [n["name"] for n in b["nodes"]] for b in found.graph["blocks"]}
    assert blocks == {"stem": ["stem"], "add": ["a", "b", "add"], "last": ["last"]}
    assert found.graph["blocks"][1]["nodes"][2]["inputs"] == ["b", "stem"]
    assert found.layers == {"stem": "stem", "a": "a", "last": "last"}
    assert json.loads(json.dumps(found.graph)) == found.graph


def test_layers_are_put_in_order_and_unused_ones_left_out():
    model = functional(
        (layer("Add", "add"), ["b", "a"]),
        (conv("unused"), ["a"]),
        (conv("b"), ["a"]),
        (conv("a"), ["in"]),
        outputs=["add"],
    )
    assert [n["name"] for n in nodes(model)] == ["a", "b", "add"]


@pytest.mark.parametrize("style", ["keras2", "keras3"])
def test_layer_without_weights_may_be_called_twice(style):
    shared = layer("ReLU", "act")
    model = functional(
        (conv("a"), ["in"]),
        (shared, ["a"]),
        (conv("b"), [("act", 0)]),
        (shared, ["b"]),
        (layer("Add", "add"), [("act", 1), "a"]),
        style=style,
    )
    found = nodes(model)
    assert [n["name"] for n in found] == ["a", "act", "b", "act_1", "add"]
    assert found[-1]["inputs"] == ["act_1", "a"]


@pytest.mark.parametrize("number", [0, 1])
def test_call_number_of_a_layer_called_once_is_of_no_account(number):
    # Keras counts a nested model's own graph as its first call, or not, by version.
    inner = functional((conv("c"), ["in"]), name="inner")
    model = functional((inner, ["in"]), (conv("d"), [("inner", number)]))
    assert [n["name"] for n in nodes(model)] == ["c", "d"]


def test_names_in_nested_models():
    inner = sequential(conv("c"), layer("ReLU", "act"), name="first")
    other = sequential(conv("c"), layer("ReLU", "fire2/act"), name="second")
    found = graph_of(sequential(inner, other, conv("name"), conv("input")))
    assert [n["name"] for b in found.graph["blocks"] for n in b["nodes"]] == [
        "c", "act", "second_c", "fire2_act", "name_1", "input_1"
    ]  # fmt: skip
    assert found.layers["second_c"] == "second/c"
    aliases = found.graph["aliases"]
    assert aliases["second"] == "fire2_act" and aliases["first"] == "act"
    assert aliases["second/c"] == "second_c" and aliases["name"] == "name_1"
    assert found.graph["renamed"] == {
        "second/c": "second_c", "second/fire2/act": "fire2_act", "name": "name_1",
        "input": "input_1",
    }  # fmt: skip


SHARED = functional(
    (conv("a"), ["in"]), (conv("b"), ["a"]), (conv("a"), ["b"]), (layer("Add", "s"), ["a", "b"])
)
TWICE = functional(
    (sequential(conv("c"), name="m"), ["in"]), (sequential(conv("c"), name="m"), ["m"])
)
TWO_INPUTS = functional((layer("Add", "s"), ["in", "in2"]), inputs=("in", "in2"))
TWO_OUTPUTS = functional((conv("a"), ["in"]), (conv("b"), ["a"]), outputs=["a", "b"])
LOOP = functional((conv("a"), ["b"]), (conv("b"), ["a"]))
UNKNOWN = functional((conv("a"), ["nowhere"]))
TRAINING = functional((layer("Dropout", "d"), ["in"]), (conv("a"), ["d"]))
TRAINING["config"]["layers"][1]["inbound_nodes"][0][0][3] = {"training": True}
OPERATION = functional(
    ({**layer("Add", "op"), "module": "keras.src.ops.numpy"}, ["in", "in"]), (conv("a"), ["op"])
)


def tensorflow_operation(name, function, source, **options):
    """An operation as Keras 2 records it."""
    node = {"class_name": "TFOpLambda", "config": {"name": name, "function": function}}
    return {**node, "name": name, "inbound_nodes": [[[source, 0, 0, options | {"name": None}]]]}


def keras_operation(name, class_name, source, *arguments, **options):
    """An operation as Keras 3 records it."""
    tensor = {"class_name": "__keras_tensor__", "config": {"keras_history": [source, 0, 0]}}
    call = {"args": [tensor, *arguments], "kwargs": options}
    node = {"module": "keras.src.ops.numpy", "class_name": class_name, "config": {"name": name}}
    return {**node, "name": name, "inbound_nodes": [call]}


def with_operations(*operations):
    """images -> operations -> convolution."""
    model = functional((conv("a"), [operations[-1]["name"]]))
    model["config"]["layers"][1:1] = operations
    return model


@pytest.mark.parametrize(
    "operations",
    [
        (
            tensorflow_operation("tf.math.truediv", "math.truediv", "in", y=127.5),
            tensorflow_operation("tf.math.subtract", "math.subtract", "tf.math.truediv", y=1),
        ),
        (
            keras_operation("true_divide", "TrueDivide", "in", 127.5),
            keras_operation("subtract", "Subtract", "true_divide", 1.0),
        ),
        (
            keras_operation("multiply", "Multiply", "in", x2=1 / 127.5),
            keras_operation("add", "Add", "multiply", -1),
        ),
    ],
)  # fmt: skip
def test_arithmetic_in_code_is_a_rescaling(operations):
    graph = keras_graph(KerasModel(with_operations(*operations), {})).graph
    first, second = (block["nodes"][0] for block in graph["blocks"][:2])
    assert first["kind"] == second["kind"] == "rescale"
    value = np.float64(255)
    for node in (first, second):
        value = value * np.ravel(node["options"]["scale"]) + np.ravel(node["options"]["offset"])
    np.testing.assert_allclose(value, 1.0)


@pytest.mark.parametrize(
    "operation",
    [
        tensorflow_operation("op", "math.truediv", "in", y=0),
        tensorflow_operation("op", "math.truediv", "in", y=[1.0, 2.0]),
        tensorflow_operation("op", "math.atan2", "in", y=2.0),
        keras_operation("op", "TrueDivide", "in", 2.0, 3.0),
        keras_operation("op", "Power", "in", 2.0),
        keras_operation("op", "Add", "in", float("nan")),
        keras_operation("op", "Add", "in", True),
    ],
)
def test_other_operations_are_refused(operation):
    with pytest.raises(ConvertError, match="layer 'op' is a TFOpLambda"):
        keras_graph(KerasModel(with_operations(operation), {}))


BROKEN = functional((conv("a"), ["in"]))
BROKEN["config"]["layers"][1]["inbound_nodes"] = 3


def wide(shape):
    config = {"name": "in", "batch_shape": [None, *shape]}
    return {"class_name": "Sequential", "config": {"name": "m", "layers": [
        {"class_name": "InputLayer", "config": config}, conv("a")]}}  # fmt: skip


def bare(class_name, **config):
    return sequential(layer(class_name, "it", **config))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (SHARED, "layer 'a' is called more than once: weights shared"),
        (TWICE, "layer 'm' is called more than once"),
        (TWO_INPUTS, r"'net' has 2 inputs \(in, in2\)"),
        (TWO_OUTPUTS, r"'net' has 2 outputs \(a, b\).*keras.Model\(inputs, outputs\)"),
        (LOOP, "is not connected at a, b"),
        (UNKNOWN, "is not connected at nowhere"),
        (TRAINING, "'d' is called with training=True"),
        (OPERATION, r"layer 'op' is a TFOpLambda \(keras.ops Add\)"),
        (wide([8, 9, 3]), "8x9 images; only square"),
        (wide([8, 8, 4]), r"takes \[8, 8, 4\]"),
        (wide([20]), "a backbone takes images"),
        ({"class_name": "Sequential", "config": {"name": "m", "layers": [conv("a")]}},
         "does not say what it takes in"),
        ({"class_name": "MyModel", "config": {"name": "m"}}, "of class MyModel; only Sequential"),
        ({"class_name": "Sequential", "config": {"name": "m"}}, "does not list its layers"),
        (sequential(), "has no layers"),
        (bare("Lambda", function=["4wEA", None, None]), "'it' is a Lambda: code .* never executed"),
        (bare("TFOpLambda", function="math.truediv"), r"is a TFOpLambda \(math.truediv\)"),
        (bare("LSTM", units=3), "'it' is of class LSTM, which has no equivalent"),
        (bare("MaxPool2d"), "did you mean MaxPooling2D"),
        (bare("MaxPooling2D", data_format="channels_first"), "channels_first"),
        (bare("Convolution2D", nb_filter=2, nb_row=3, nb_col=3, dim_ordering="th"),
         "channels_first"),
        (bare("Conv2D", filters=2), "not as Keras writes it .*kernel_size"),
        (bare("Conv2D", filters="x", kernel_size=[1, 1]), "not as Keras writes it"),
        (bare("Conv2D", filters=2, kernel_size=[3], strides=1), "not as Keras writes it"),
        (bare("Conv2D", filters=2, kernel_size=3, padding="causal"), "padding causal"),
        (bare("Dense", units=2, activation="my_relu"), "'my_relu' is none of Keras' own"),
        (bare("BatchNormalization", renorm=True), "renorm"),
        (bare("GroupNormalization", axis=1), "axis 1 is not supported"),
        (bare("Resizing", height=4, width=4, crop_to_aspect_ratio=True), "crop_to_aspect_ratio"),
        (bare("Resizing", height=4, width=4, interpolation="lanczos3"), "lanczos3"),
        (bare("UpSampling2D", interpolation="bicubic"), "bicubic"),
        (bare("ZeroPadding2D", padding=[[1, 1]]), "not as Keras writes it"),
        (sequential({"class_name": "Conv2D", "config": [1]}), "does not list its layers"),
        (sequential({"class_name": None, "config": {}}), "does not list its layers"),
        (sequential(3), "does not list its layers"),
        (BROKEN, "configuration is not as Keras writes it .TypeError"),
        (bare("Normalization"), "has no mean and variance"),
        (bare("Add"), "is called with 1 tensors"),
    ],
)  # fmt: skip
def test_refused_by_name(config, said):
    with pytest.raises(ConvertError, match=said) as refused:
        graph_of(config)
    assert "\n" not in str(refused.value)


def test_mean_and_variance_become_constants():
    weights = {"it": {"mean": np.array([1.0, 2, 3]), "variance": np.ones(3), "count": np.int64(4)}}
    found = graph_of(bare("Normalization", axis=[-1]), weights)
    node = found.graph["blocks"][0]["nodes"][0]
    assert node["options"]["mean"] == [1.0, 2.0, 3.0] and found.layers == {}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ["linear", {}]),
        ("swish", ["silu", {}]),
        ({"class_name": "function", "config": "relu", "module": "builtins"}, ["relu", {}]),
        ({"class_name": "LeakyReLU", "config": {"negative_slope": 0.1}},
         ["leaky_relu", {"negative_slope": 0.1}]),
        ({"class_name": "ReLU", "config": {"max_value": 6.0}},
         ["relu", {"max_value": 6.0, "negative_slope": 0.0, "threshold": 0.0}]),
    ],
)  # fmt: skip
def test_activation_spellings(value, expected):
    assert activation(value) == expected


@pytest.mark.parametrize(
    ("class_name", "config", "expected"),
    [
        ("LeakyReLU", {"alpha": {"type": "ndarray", "value": 0.25}}, {"negative_slope": 0.25}),
        ("LeakyReLU", {}, {"negative_slope": 0.3}),
        ("ThresholdedReLU", {"theta": 0.5}, {"theta": 0.5}),
        ("ELU", {"alpha": 2}, {"alpha": 2.0}),
    ],
)
def test_activation_layers(class_name, config, expected):
    assert translate("it", class_name, config)[1]["activation"][1] == expected


def test_options_of_keras_1():
    options = {"nb_filter": 8, "nb_row": 1, "nb_col": 3, "subsample": [2, 2], "bias": False}
    kind, found = translate("it", "Convolution2D", {**options, "border_mode": "same"}, "1")
    assert kind == "conv" and found["kernel"] == [1, 3] and found["strides"] == [2, 2]
    assert found["padding"] == "SAME" and found["bias"] is False
    assert translate("it", "Merge", {"mode": "concat", "concat_axis": 3}) == (
        "concatenate", {"axis": 3}
    )  # fmt: skip
    assert translate("it", "Merge", {"mode": "sum"}) == ("add", {})


@pytest.mark.parametrize("class_name", sorted(IDENTITY))
def test_training_time_layers_pass_on(class_name):
    assert translate("it", class_name, {"name": "it", "rate": 0.9}) == ("identity", {})


def test_random_crop_is_no_identity():
    # At inference it crops the centre or resizes.
    with pytest.raises(ConvertError, match="RandomCrop, which has no equivalent"):
        translate("it", "RandomCrop", {"height": 4, "width": 4})


@pytest.mark.parametrize(
    ("version", "function"),
    [("2.11.0", lambda x: np.clip(0.2 * x + 0.5, 0, 1)),
     ("3.9.0", lambda x: np.clip(x + 3, 0, 6) / 6)],
)  # fmt: skip
def test_hard_sigmoid_is_that_of_the_version(version, function):
    graph = graph_of(bare("Activation", activation="hard_sigmoid"), version=version).graph
    chain = graph_chain(json.dumps(graph), Contract(scale=1 / 40, mean=(3.0, 3.0, 3.0)))
    images = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(1, 8, 8, 3)
    found = chain.apply({}, images)
    np.testing.assert_allclose(found, function(images / 40 - 3), atol=1e-6)


def test_merging_maps_and_vectors_puts_axes_behind_the_batch():
    gate = layer("GlobalAveragePooling2D", "gate")
    graph = graph_of(functional((gate, ["in"]), (layer("Multiply", "m"), ["in", "gate"]))).graph
    chain = graph_chain(json.dumps(graph), Contract())
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    x = images.astype(np.float32)
    # 1e-6: a mean over 64 numbers in another order.
    np.testing.assert_allclose(
        chain.apply({}, images), x * x.mean((1, 2))[:, None, None], rtol=1e-6
    )


# Which input contract "auto" takes.

RESCALE = layer("Rescaling", "rescale", scale=1 / 255)
FLIP = layer("RandomFlip", "flip")


@pytest.mark.parametrize(
    ("layers", "name"),
    [
        ([conv("conv2d")], "unit"),
        ([RESCALE, conv("conv2d")], "raw"),
        ([sequential(FLIP, layer("Resizing", "r", height=6, width=6), RESCALE), conv("c")], "raw"),
        ([conv("conv2d"), RESCALE], "unit"),
        ([conv("Conv1"), layer("BatchNormalization", "block_1_project_BN")], "tf"),
        ([RESCALE, layer("BatchNormalization", "block_1_project_BN")], "raw"),
        ([conv("conv_dw_1")], "tf"),
        ([layer("ReLU", "mixed10")], "tf"),
        ([conv("block1_conv1"), conv("block5_conv3")], "caffe"),
        ([layer("BatchNormalization", "conv2_block1_3_bn")], "caffe"),
        ([layer("BatchNormalization", "conv2_block1_preact_bn")], "tf"),
        ([layer("ReLU", "conv2_block1_concat")], "torch"),
        ([conv("block1_conv1")], "unit"),
    ],
)
def test_guessed_contract(layers, name):
    graph = graph_of(sequential(*layers)).graph
    contract, why = own_contract(graph, "auto")
    assert contract == CONTRACTS[name] and name in why
    if name != "raw":
        assert "set preprocessing to one of raw, unit, unit_bgr, tf, torch, caffe" in why


def test_said_contract():
    graph = graph_of(sequential(conv("a"))).graph
    assert own_contract(graph, "unit_bgr") == (CONTRACTS["unit_bgr"], "")
    with pytest.raises(ConfigError, match="unknown preprocessing 'units'; did you mean unit"):
        own_contract(graph, "units")


def test_contract_of_grey_networks():
    graph = graph_of(wide([8, 8, 1])).graph
    contract, _ = own_contract(graph, "tf")
    assert contract.order == "L" and contract.mean == (1.0,) and contract.std == (1.0,)
    with pytest.raises(ConfigError, match="takes grey ones"):
        own_contract(graph, "caffe")


def test_contracts_are_those_of_keras():
    # keras.applications.imagenet_utils.preprocess_input of a pixel, computed by hand from its
    # documented constants.
    pixel = np.array([[[[255, 127.5, 0]]]], np.float32)
    chains = {n: graph_chain(json.dumps(graph_of(bare("ReLU")).graph | {"blocks": []}), c)
              for n, c in CONTRACTS.items()}  # fmt: skip
    found = {n: np.ravel(c.apply({}, pixel)) for n, c in chains.items()}
    expected = {
        "raw": [255, 127.5, 0],
        "unit": [1, 0.5, 0],
        "unit_bgr": [0, 0.5, 1],
        "tf": [1, 0, -1],
        "torch": [(1 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, -0.406 / 0.225],
        "caffe": [-103.939, 127.5 - 116.779, 255 - 123.68],
    }
    for name, values in expected.items():
        # 1e-6: constants like 1 / 127.5 are rounded to float32.
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-6, err_msg=name)


def test_weights_are_found_under_nested_paths():
    inner = sequential(conv("c"), name="inner")
    found = graph_of(sequential(inner, conv("c")), drawn({"inner/c": {"bias": [4]}}))
    assert found.layers == {"c": "inner/c", "c_1": "c"}
    assert jax.tree.leaves(found.graph["input"]) == [8, 8, 3]
