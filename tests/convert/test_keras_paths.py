"""`.weights.h5` files of Keras 3 for zoo networks: by layer name, and by class and order alone."""

import os
import re

import h5py
import numpy as np
import pytest
from keras_layout import NETWORKS, SIZE, inventory, is_depthwise, keras_arrays
from keras_models import snake

from tlflax import tree
from tlflax.backbones.table import get
from tlflax.convert.keras_file import read_keras
from tlflax.convert.keras_form import convert
from tlflax.convert.keras_paths import by_order, is_class_path
from tlflax.convert.load import convert_keras
from tlflax.errors import ConvertError

NAME = "mobilenet_v2_0.35"


def class_of(layer, weights):
    if "moving_mean" in weights:
        return "BatchNormalization"
    if "depthwise_kernel" in weights:
        return "DepthwiseConv2D"
    return "Conv2D" if weights["kernel"].ndim == 4 else "Dense"


def stored_paths(layers):
    """Layer -> its group, for (layer, weights) in the order of Keras' ``model.layers``."""
    used, found = {}, {}
    for layer, weights in layers:
        plain = snake(class_of(layer, weights))
        counter = used.get(plain, 0)
        used[plain] = counter + 1
        found[layer] = f"layers/{plain}_{counter}" if counter else f"layers/{plain}"
    return found


def write(path, arrays, named, windows=False):
    """What ``model.save_weights`` of Keras 3 writes; names since 3.6."""
    with h5py.File(path, "w") as file:
        for layer, group in stored_paths(arrays.items()).items():
            name = f"{group}/vars"
            place = file.create_group(name.replace("/", "\\") if windows else name)
            if named:
                place.attrs["name"] = layer
            for index, array in enumerate(arrays[layer].values()):
                place[str(index)] = array
        file.create_group("optimizer/vars")["0"] = np.int64(1)
    return path


@pytest.fixture(scope="module")
def arrays():
    return {layer: weights for layer, weights in keras_arrays(NAME).items() if weights}


@pytest.mark.parametrize(
    ("named", "windows"), [(True, False), (False, False), (True, True), (False, True)]
)
def test_mobilenet_from_either_file(named, windows, arrays, tmp_path):
    path = write(tmp_path / "w.weights.h5", arrays, named, windows)
    read = read_keras(path)
    assert all(is_class_path(name) for name in read) is (not named)
    found, dropped = convert(read, inventory(NAME)[0], get(NAME), path.name)
    plain = {f"{n}/{w}": a for n, ws in arrays.items() for w, a in ws.items()}
    expected, _ = convert_keras(plain, inventory(NAME)[0], ())
    assert dropped == []
    flat = tree.flatten(found)
    for path, array in tree.flatten(expected).items():
        np.testing.assert_array_equal(flat[path], array, err_msg=path)


def test_classifier_of_a_nameless_file_is_left_out(arrays, tmp_path):
    top = {"predictions": {"kernel": np.zeros((1280, 10), "f4"), "bias": np.zeros(10, "f4")}}
    read = read_keras(write(tmp_path / "w.weights.h5", arrays | top, named=False))
    _, dropped = convert(read, inventory(NAME)[0], get(NAME), "w")
    assert dropped == ["dense_0"]


def test_one_layer_too_few(arrays, tmp_path):
    less = {k: v for k, v in arrays.items() if k != "block_5_expand"}
    read = read_keras(write(tmp_path / "w.weights.h5", less, named=False))
    with pytest.raises(ConvertError, match=r"has 34 layers of class conv2d, not 35.*Keras 3\.7"):
        convert(read, inventory(NAME)[0], get(NAME), "w")


def test_another_order_is_refused(arrays, tmp_path):
    turned = dict(reversed(arrays.items()))
    read = read_keras(write(tmp_path / "w.weights.h5", turned, named=False))
    with pytest.raises(ConvertError, match=r"in its place.*It has no layer names"):
        convert(read, inventory(NAME)[0], get(NAME), "w")


def test_not_a_weight_file(tmp_path):
    with h5py.File(tmp_path / "w.weights.h5", "w") as file:
        file["layers/data"] = np.zeros(3)
    with pytest.raises(ConvertError, match="not a Keras weight file"):
        read_keras(tmp_path / "w.weights.h5")


def test_hostile_links(arrays, tmp_path):
    path = write(tmp_path / "w.weights.h5", arrays, named=True)
    with h5py.File(path, "a") as file:
        file["layers/conv2d/more"] = h5py.ExternalLink("/etc/passwd", "/")
    with pytest.raises(ConvertError, match=r"w.weights.h5: .*is a link to another place"):
        read_keras(path)


# Networks whose order Keras determines by depth, as ours does not: refused, never mixed up.
UNORDERED = {"inception_v3"}


def keras_order(name):
    """Weighted layers in the order of Keras' ``model.layers``; arrays that only have shapes."""
    layout = NETWORKS[name]
    side = layout.sides[0] if SIZE not in layout.sides else SIZE
    folder = os.path.join(os.path.dirname(__file__), os.pardir, "goldens")
    with np.load(os.path.join(folder, f"{name}_{side}.npz")) as file:
        order = [str(layer) for layer in file["layers"]]
    weights: dict = {}
    target = inventory(name)[0]
    ours = {
        ("params", "kernel"): "kernel",
        ("params", "scale"): "gamma",
        ("params", "bias"): "bias",
    }
    ours |= {("batch_stats", "mean"): "moving_mean", ("batch_stats", "var"): "moving_variance"}
    for collection in target:
        for path, leaf in tree.flatten(target[collection]).items():
            *_, layer, kind = path.split("/")
            array = np.broadcast_to(np.float32(0), leaf.shape)
            kind = ours[collection, kind]
            kind = "depthwise_kernel" if kind == "kernel" and is_depthwise(layer) else kind
            weights.setdefault(layer, {})[kind] = array
    for kinds in weights.values():
        if "moving_mean" in kinds and "bias" in kinds:
            kinds["beta"] = kinds.pop("bias")
    rank = ("kernel", "depthwise_kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")
    return [
        (layer, dict(sorted(weights[layer].items(), key=lambda w: rank.index(w[0]))))
        for layer in order
        if layer in weights
    ]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[] if n in ("resnet50", "inception_v3") else [pytest.mark.slow])
        for n in NETWORKS
        if not re.fullmatch("efficientnet_b[5-7]", n)
    ],
)
def test_order_of_classes_is_that_of_keras(name):
    layers = keras_order(name)
    paths = stored_paths(layers)
    arrays, meant = {}, {}
    for layer, weights in layers:
        for index, (kind, array) in enumerate(weights.items()):
            arrays[f"{paths[layer]}/vars/{index}"] = array
            meant[f"{layer}/{kind}"] = id(array)
    if name in UNORDERED:
        with pytest.raises(ConvertError, match=r"save it again with Keras 3\.7"):
            by_order(arrays, inventory(name)[0], get(name), "w")
        return
    placed, left = by_order(arrays, inventory(name)[0], get(name), "w")
    assert {n: id(a) for n, a in placed.items()} == meant and left == []


# Keras 3.15 variables and numpy 2 (seen 2026-11); h5py asks for arrays.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v2_0.35", "resnet50", "inception_v3"])
def test_live_keras_weights(name, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    pytest.importorskip("keras", reason="needs Keras: pip install keras")
    from tlflax.convert.oracle_keras import keras_application

    spec, target = get(name), inventory(name)[0]
    model = keras_application(spec, max(spec.min_size, SIZE))
    found = []
    for file in ("w.weights.h5", "m.keras", "m.h5"):
        path = tmp_path / file
        (model.save_weights if "weights" in file else model.save)(path)
        found.append(convert(read_keras(path), target, spec, file)[0])
    first, *others = map(tree.flatten, found)
    for other in others:
        for path, array in first.items():
            np.testing.assert_array_equal(array, other[path], err_msg=path)
    # Without the names: the same, or refused.
    with h5py.File(tmp_path / "w.weights.h5", "a") as file:
        # What the function returns ends the visit, if it is anything.
        file.visititems(lambda _, item: item.attrs.pop("name", None) and None)
    read = read_keras(tmp_path / "w.weights.h5")
    assert all(is_class_path(path) for path in read)
    if name in UNORDERED:
        with pytest.raises(ConvertError, match="It has no layer names"):
            convert(read, target, spec, "w")
        return
    for path, array in tree.flatten(convert(read, target, spec, "w")[0]).items():
        np.testing.assert_array_equal(array, first[path], err_msg=path)
