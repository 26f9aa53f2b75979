"""The layouts in which Keras weight files exist all give the same numbers."""

import h5py
import numpy as np
import pytest
from keras_layout import draw, keras_arrays, mobl, write_h5

from tlflax import tree
from tlflax.backbones.inventory import describe
from tlflax.backbones.table import get
from tlflax.convert.keras_h5 import read_keras_h5
from tlflax.convert.rules import keras_layer, keras_rule
from tlflax.convert.store import convert_file

NAME = "mobilenet_v2_0.35"
TOP = {"predictions": {"kernel": np.ones((1280, 9), np.float32), "bias": np.ones(9, np.float32)}}


@pytest.fixture(scope="module")
def arrays():
    return keras_arrays(NAME)


def load(path, name=NAME):
    return convert_file(get(name), get(name).chain(), path)


def equal(a, b):
    a, b = tree.flatten(a), tree.flatten(b)
    return set(a) == set(b) and all(np.array_equal(a[k], b[k]) for k in a)


def test_every_leaf_is_its_own_array(arrays, tmp_path):
    variables = load(write_h5(tmp_path / "w.h5", arrays)).variables
    params, stats = variables["params"], variables["batch_stats"]
    block, bn = "block_13_project_BN", "block_13_depthwise_BN"
    np.testing.assert_array_equal(
        params["Conv1_relu"]["Conv1"]["kernel"], draw("Conv1", "kernel", (3, 3, 3, 16))
    )
    kernel = draw("block_13_depthwise", "depthwise_kernel", (3, 3, 192, 1))
    found = params[block]["block_13_depthwise"]["kernel"]
    assert found.shape == (3, 3, 1, 192) and found.flags.c_contiguous
    np.testing.assert_array_equal(found[:, :, 0], kernel[..., 0])
    for collection, leaf, weight in (
        (params, "scale", "gamma"),
        (params, "bias", "beta"),
        (stats, "mean", "moving_mean"),
        (stats, "var", "moving_variance"),
    ):
        np.testing.assert_array_equal(collection[block][bn][leaf], draw(bn, weight, (192,)))


@pytest.mark.parametrize(
    ("style", "root"),
    [("mobl", ""), ("keras3", ""), ("keras2", "model_weights"), ("keras3", "model_weights")],
)
def test_other_layouts_give_the_same(style, root, arrays, tmp_path):
    plain = load(write_h5(tmp_path / "a.h5", arrays))
    other = load(write_h5(tmp_path / "b.h5", arrays, style, root))
    assert equal(plain.variables, other.variables) and other.notes == ()
    assert plain.certificate["parameters"] == 410_208


@pytest.mark.parametrize("style", ["keras2", "vgg2016"])
def test_vgg_names_of_2016_and_of_today(style, tmp_path):
    top = {"flatten": {}} if style == "vgg2016" else {}
    for layer in ("fc1", "fc2", "predictions") if top else ():
        top[layer] = {"kernel": np.ones((2, 2), np.float32), "bias": np.ones(2, np.float32)}
    weights = load(write_h5(tmp_path / "w.h5", keras_arrays("vgg16") | top, style), "vgg16")
    assert weights.certificate["left_out"][:1] == ["fc1/fc1_W_1"][: len(top)]
    layer = weights.variables["params"]["block5_conv3"]["block5_conv3"]
    np.testing.assert_array_equal(layer["bias"], draw("block5_conv3", "bias", (512,)))
    np.testing.assert_array_equal(layer["kernel"], draw("block5_conv3", "kernel", (3, 3, 512, 512)))


def test_squeezenet_names_of_keras_1(tmp_path):
    top = {"conv10": {"kernel": np.ones((1, 1, 512, 9)), "bias": np.ones(9)}}
    path = write_h5(tmp_path / "w.h5", keras_arrays("squeezenet_1.1") | top, "keras1")
    with h5py.File(path) as file:
        stored = list(file["fire3/expand3x3"].attrs["weight_names"])
        assert stored == ["uniform7", "fire3/expand3x3_b"]
    weights = load(path, "squeezenet_1.1")
    assert weights.certificate["left_out"] == ["conv10/uniform26", "conv10/conv10_b"]
    layer = weights.variables["params"]["fire3_concat"]["fire3_expand3x3"]
    np.testing.assert_array_equal(layer["bias"], draw("fire3_expand3x3", "bias", (64,)))
    kernel = draw("fire3_expand3x3", "kernel", (3, 3, 16, 64))
    np.testing.assert_array_equal(layer["kernel"], kernel)


def test_mobilenet_v1_depthwise(tmp_path):
    arrays = keras_arrays("mobilenet_0.25") | {
        "conv_preds": {"kernel": np.ones((1, 1, 256, 9)), "bias": np.ones(9)}
    }
    weights = load(write_h5(tmp_path / "w.h5", arrays), "mobilenet_0.25")
    layer = weights.variables["params"]["conv_pw_2_relu"]["conv_dw_2"]["kernel"]
    np.testing.assert_array_equal(
        layer[:, :, 0], draw("conv_dw_2", "depthwise_kernel", (3, 3, 16, 1))[..., 0]
    )
    assert weights.certificate["left_out"] == ["conv_preds/kernel", "conv_preds/bias"]


def test_classifier_of_the_source_is_left_out_and_noted(arrays, tmp_path):
    weights = load(write_h5(tmp_path / "w.h5", arrays | TOP))
    assert weights.notes == ("2 arrays of the source's own classifier were left out",)
    assert weights.certificate["left_out"] == ["predictions/kernel", "predictions/bias"]
    assert weights.certificate["statement"].startswith("all 260 arrays placed")


def test_other_number_types_become_float32(arrays, tmp_path):
    half = {n: {w: a.astype(np.float16) for w, a in ws.items()} for n, ws in arrays.items()}
    variables = load(write_h5(tmp_path / "w.h5", half)).variables
    assert {a.dtype for a in tree.flatten(variables).values()} == {np.dtype(np.float32)}


def test_layer_names_split_over_several_attributes(arrays, tmp_path):
    path = write_h5(tmp_path / "w.h5", arrays)
    with h5py.File(path, "a") as file:
        names = list(file.attrs["layer_names"])
        del file.attrs["layer_names"]
        file.attrs["layer_names0"], file.attrs["layer_names1"] = names[:70], names[70:]
    assert len(read_keras_h5(path)) == 260


# Names of the published MobileNetV2 files, as programs that read them spell them out.
@pytest.mark.parametrize(
    ("published", "today"),
    [
        ("Conv1", "Conv1"),
        ("bn_Conv1", "bn_Conv1"),
        ("mobl0_conv_0_depthwise", "expanded_conv_depthwise"),
        ("bn0_conv_0_bn_project", "expanded_conv_project_BN"),
        ("mobl1_conv_1_expand", "block_1_expand"),
        ("bn1_conv_1_bn_expand", "block_1_expand_BN"),
        ("bn1_conv_bn_expand", "block_1_expand_BN"),
        ("mobl13_conv_13_depthwise", "block_13_depthwise"),
        ("bn10_conv_10_bn_project", "block_10_project_BN"),
        ("Conv_1_bn", "Conv_1_bn"),
        ("mobl1_conv_1_expand_2", "mobl1_conv_1_expand_2"),
        ("xmobl1_conv_1_expand", "xmobl1_conv_1_expand"),
        ("mobl1_conv_1_pool", "mobl1_conv_1_pool"),
        ("block1_conv1", "block1_conv1"),
        ("fire2/expand3x3", "fire2_expand3x3"),
        ("fire2/concat/x", "fire2/concat/x"),
        ("conv_dw_1_bn", "conv_dw_1_bn"),
    ],
)
def test_published_layer_names(published, today):
    assert keras_layer(published) == today


def test_layer_names_there_and_back():
    for block in describe(get(NAME).chain(), 32):
        for layer in block.layers:
            if not layer.endswith(("relu", "add")):
                assert keras_layer(mobl(layer)) == layer


@pytest.mark.parametrize(
    ("weight", "leaf"),
    [
        ("kernel", "kernel"),
        ("depthwise_kernel", "kernel"),
        ("beta", "bias"),
        ("moving_variance", "var"),
        ("block1_conv1_W_1", "kernel"),
        ("block1_conv1_b_1", "bias"),
        ("fc1_W", "kernel"),
        ("block1_conv1_b_12", "bias"),
        # Published ResNet files have had these as well as kernel:0 and bias:0.
        ("conv2_block1_1_conv_W_1", "kernel"),
        ("conv2_block1_1_conv_b_1", "bias"),
        ("uniform12", "kernel"),
        ("squeeze1x1_b", "bias"),
        ("uniform_b", "bias"),
        ("gamma_1", None),
        ("W", None),
        ("kernel_W_x", None),
        ("moving_mean_b", "bias"),
        ("", None),
    ],
)
def test_weight_names(weight, leaf):
    rule = keras_rule(weight)
    assert (rule.leaf if rule else None) == leaf
