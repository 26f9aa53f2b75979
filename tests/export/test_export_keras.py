"""Export to Keras: what needs no Keras here, the live framework in the `slow` tests."""

import copy
import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import tiny
from exported_runs import CLASSES, write_run

from tlflax import tree
from tlflax.backbones.table import get
from tlflax.convert.rules import keras_rule
from tlflax.errors import ConvertError
from tlflax.export import export_run
from tlflax.export.keras import _cut, _fill, _inverse
from tlflax.predict import Predictor

# Keras 3.15 variables and numpy 2 (seen 2026-11); h5py asks for arrays.
numpy_2 = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def keras(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", os.environ.get("KERAS_BACKEND", "jax"))
    module = pytest.importorskip("keras", reason="the live Keras is not installed")
    module.utils.clear_session()
    return module


def test_without_keras(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    run = write_run(tmp_path, "glyph_cnn", 16)
    with pytest.raises(ConvertError, match=r"--format keras needs Keras .*: pip install keras"):
        export_run(run, "keras")
    assert [p.name for p in run.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("weight", "shape"),
    [("kernel", (3, 3, 4, 5)), ("depthwise_kernel", (3, 2, 7, 1)), ("kernel", (3, 3, 7, 1)),
     ("gamma", (6,)), ("kernel", (4, 3))],
)  # fmt: skip
def test_rules_backwards(weight, shape):
    rule = keras_rule(weight, shape)
    theirs = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    np.testing.assert_array_equal(_inverse(rule, rule.transform(theirs), shape), theirs)
    assert _inverse(rule, rule.transform(theirs)[..., :-1], shape) is None


class Weight:
    def __init__(self, name, *shape):
        self.name, self.shape, self.value = name, shape, None

    def assign(self, value):
        self.value = value


class Layer:
    def __init__(self, name, *weights):
        self.name, self.weights = name, list(weights)


def test_filling_is_total_on_both_sides():
    ours = {"params": {"block": {"c": {"kernel": np.ones((1, 1, 2, 3)), "bias": np.ones(3)}}}}
    kernel, bias = Weight("kernel", 1, 1, 2, 3), Weight("bias", 3)
    _fill([Layer("theirs", kernel), Layer("theirs", bias)], ours, {"theirs": "c"})
    assert kernel.value.shape == (1, 1, 2, 3) and bias.value.tolist() == [1, 1, 1]
    with pytest.raises(ConvertError, match=r"0 weights .* 1 of ours left over \(c/bias\)"):
        _fill([Layer("c", kernel)], ours, {})
    with pytest.raises(ConvertError, match=r"1 weights without a counterpart \(d/gamma \(3,\)\)"):
        _fill([Layer("c", kernel, bias), Layer("d", Weight("gamma", 3))], ours, {})
    with pytest.raises(ConvertError, match=r"c/kernel \(1, 1, 2, 4\)"):
        _fill([Layer("c", Weight("kernel", 1, 1, 2, 4), bias)], ours, {})


# Every kind of contract, head and naming: (network, side, endpoint, head).
NETWORKS = [
    ("glyph_cnn", 16, "auto", {"hidden": (5, 4), "activation": "gelu"}),  # grey
    ("glyph_cnn", 20, "block2_relu1", {"head": "flatten", "dropout": 0.3}),
    ("mobilenet_v2_0.35", 64, "block_13_expand_relu", {"hidden": (8,), "activation": "silu"}),
    ("vgg16", 32, "block2_pool", {"hidden": (8,), "activation": "elu"}),  # BGR
    ("inception_v3", 75, "mixed1", {"activation": "tanh", "hidden": (8,)}),  # counted layers
    ("efficientnet_b0", 32, "block2b_add", {}),  # prepares its pixels itself in Keras
]


@numpy_2
@pytest.mark.slow
@pytest.mark.parametrize(("name", "side", "endpoint", "head"), NETWORKS)
def test_keras_answers_as_the_run(name, side, endpoint, head, keras, tmp_path, capsys):
    run = write_run(tmp_path / "run", name, side, endpoint, **head)
    path, lines = export_run(run, "keras")
    with capsys.disabled():
        print(f"\n{name} {endpoint}", *lines, sep="\n  ")
    assert path == run / "model.keras"
    model = keras.models.load_model(path)
    images = np.random.default_rng(5).integers(0, 256, (3, side, side, 3), dtype=np.uint8)
    found = model.predict(images, verbose=0)
    wanted = Predictor.open(run).predict(images).probabilities
    # 1e-5 of the logits, which here are up to about 10.
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    with zipfile.ZipFile(path) as archive:
        contract = json.loads(archive.read("tlflax.json"))
    assert contract["classes"] == list(CLASSES) and contract["preprocessing"]["inside"]
    # Total: as many numbers as the run's model has (the mix of channels is no weight of it).
    mix = sum(w.shape.num_elements() if hasattr(w.shape, "num_elements") else np.prod(w.shape)
              for layer in model.layers if layer.name in ("luma", "rgb_to_bgr")
              for w in layer.weights)  # fmt: skip
    assert model.count_params() - mix == tree.count(tree.flatten(Predictor.open(run).variables))
    assert not [w for w in model.trainable_weights if w.path.startswith(("luma", "rgb_to_bgr"))]


@numpy_2
@pytest.mark.slow
def test_weights_and_network_apart(keras, tmp_path):
    run = write_run(tmp_path / "run", "glyph_cnn", 16)
    path, _ = export_run(run, "keras", tmp_path / "tuned.weights.h5")
    assert {p.name for p in tmp_path.iterdir()} == {"run", "tuned.weights.h5", "tuned.model.json"}
    text = (tmp_path / "tuned.model.json").read_text()
    assert json.loads(text)["tlflax"]["classes"] == list(CLASSES)
    model = keras.models.model_from_json(text)
    model.load_weights(path)
    images = np.random.default_rng(5).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    wanted = Predictor.open(run).predict(images).probabilities
    np.testing.assert_allclose(model.predict(images, verbose=0), wanted, atol=1e-5)


@numpy_2
@pytest.mark.slow
@pytest.mark.parametrize("leaf", ["head/logits/bias", "backbone/block1_pool/block1_conv2/kernel"])
def test_what_answers_otherwise_is_not_kept(leaf, keras, tmp_path, monkeypatch):
    from tlflax.export import keras as exporter

    run, real = write_run(tmp_path, "glyph_cnn", 16), exporter.write

    def write(trained, path):
        other, flat = copy.copy(trained), tree.flatten(trained.variables)
        flat[f"params/{leaf}"] = flat[f"params/{leaf}"] * 1.01
        other.variables = tree.unflatten(flat)
        real(other, path)

    monkeypatch.setattr(exporter, "write", write)
    with pytest.raises(ConvertError, match="nothing was written"):
        export_run(run, "keras")
    assert [p.name for p in run.iterdir()] == ["model.safetensors"]


@numpy_2
@pytest.mark.slow
def test_refused_by_name(keras, tmp_path):
    run = write_run(tmp_path / "a", "squeezenet_1.1", 64)
    with pytest.raises(ConvertError, match=r"has no squeezenet_1\.1: export it with --format stab"):
        export_run(run, "keras")
    assert [p.name for p in run.iterdir()] == ["model.safetensors"]


@numpy_2
@pytest.mark.slow
def test_a_cut_that_is_no_layer_of_keras(keras):
    image = keras.Input((8, 8, 3))
    network = keras.Model(image, keras.layers.ReLU(name="relu_1")(image))
    with pytest.raises(ConvertError, match="no single layer 'relu_2' to cut at; did you mean re"):
        _cut(network, "relu_2", get("glyph_cnn"), {})
    assert _cut(network, "ours", get("glyph_cnn"), {"relu_1": "ours"}).output.shape == (
        None,
        8,
        8,
        3,
    )


@pytest.mark.tf
@pytest.mark.slow
def test_with_keras_on_tensorflow(tmp_path):
    """Other kernels: 1e-4. In a process of its own, as a process has one Keras backend."""
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    run = write_run(tmp_path, "mobilenet_v2_0.35", 64)
    done = subprocess.run(
        [sys.executable, "-m", "tlflax.export", str(run), "--format", "keras"],
        env=tiny.environment(KERAS_BACKEND="tensorflow"), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "on tensorflow" in done.stdout and "(allowed 0.0001)" in done.stdout
