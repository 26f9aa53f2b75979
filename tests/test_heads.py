"""One unit for two classes is what Keras' Dense(1, sigmoid) is."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from tiny import coarse_pictures, quick_compilation  # noqa: F401

import tlflax as tl
from tlflax import tree
from tlflax.errors import ConfigError
from tlflax.heads import Head
from tlflax.model import Architecture, Model
from tlflax.policy.stage import make_stage
from tlflax.predict import Predictor


def loss(logits, labels, smoothing=0.0):
    """As in a training step."""
    targets = optax.smooth_labels(jax.nn.one_hot(labels, 2), smoothing)
    return optax.softmax_cross_entropy(logits, targets)


def test_softmax_of_the_logits_is_the_sigmoid_and_the_loss_binary_cross_entropy():
    head = Head(2, "flatten", (4,), output="sigmoid")
    x = jax.random.normal(jax.random.key(0), (7, 2, 2, 3))
    variables = jax.jit(head.init)(jax.random.key(1), x)
    shapes = {p: v.shape for p, v in tree.flatten(variables["params"]).items()}
    assert shapes["logits/kernel"] == (4, 1) and shapes["logits/bias"] == (1,)
    # As initialised the kernel is zero and would prove nothing.
    kernel = jnp.array([[1.0], [-2.0], [0.5], [3.0]])
    variables["params"]["logits"] = {"kernel": kernel, "bias": jnp.array([0.3])}
    logits = jax.jit(head.apply)(variables, x)
    z = logits[:, 1]
    assert logits.shape == (7, 2) and not logits[:, 0].any() and jnp.ptp(z) > 0.1
    np.testing.assert_allclose(jax.nn.softmax(logits)[:, 1], jax.nn.sigmoid(z), rtol=1e-6)
    labels = jnp.array([0, 1, 1, 0, 1, 0, 0])
    binary = optax.sigmoid_binary_cross_entropy(z, labels)
    np.testing.assert_allclose(loss(logits, labels), binary, rtol=1e-6)
    # Keras smooths binary targets towards one half, which is smoothing over two classes.
    smooth = optax.sigmoid_binary_cross_entropy(z, labels * 0.9 + 0.05)
    np.testing.assert_allclose(loss(logits, labels, 0.1), smooth, rtol=1e-5)


def test_parameters_are_those_that_keras_prints():
    # Tutorial 4: VGG16 at 150 px, Flatten, Dense(256), Dense(1): 4 * 4 * 512 = 8192 features.
    model = Model(Architecture("vgg16", "auto", ("cat", "dog"), 150, "flatten", (256,),
                               output="sigmoid"))  # fmt: skip
    policy = model.policy(make_stage({"name": "head", "epochs": 1}))
    assert policy.trainable_parameters == 8192 * 256 + 256 + 256 + 1 == 2_097_665
    assert policy.frozen_parameters == 14_714_688


def test_other_numbers_of_classes_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="one unit, for two classes; there are 3: set output="):
        tl.classifier("glyph_cnn", classes=3, output="sigmoid")
    with pytest.raises(ConfigError, match="unknown output 'sigmiod'; did you mean sigmoid"):
        tl.classifier("glyph_cnn", classes=2, output="sigmiod")
    config = {
        "data": f"folder:{tiny.stripes()}", "backbone": "glyph_cnn", "output": "sigmoid",
        "stages": ({"name": "head", "epochs": 1},),
    }  # fmt: skip
    from tlflax.run import run

    with pytest.raises(ConfigError, match="there are 3"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sigmoid") / "run"
    model = tl.classifier(
        "glyph_cnn", classes=2, output="sigmoid", hidden=(8,), weights="none", endpoint="block2",
    )  # fmt: skip
    data = tl.dataset(f"folder:{tiny.stripes()}", image_size=16, classes=("horizontal", "vertical"))
    stages = [tl.stage("all", epochs=8, train="all", lr=1e-2, bn="train")]
    return tl.fit(model, data, stages, workdir=folder, batch_size=13, evaluate_start=True)


def test_a_run_learns_predicts_and_names_class_one(trained):
    report = trained.results
    assert report["test"]["accuracy"] >= 0.9
    # Class 1 is the second name in sorted order.
    assert report["data"]["class_names"] == ["horizontal", "vertical"]
    predictor = Predictor.open(trained.folder)
    found = predictor.predict([tiny.stripes() / "test" / "vertical"])
    assert (found.labels == 1).all() and found.probabilities[:, 1].mean() > 0.6
    assert predictor.variables["params"]["head"]["logits"]["kernel"].shape == (8, 1)


def test_the_start_is_evaluated_when_asked_for(trained):
    before = trained.results["before"]
    # The untrained head knows nothing: every probability one half, all answers the first class.
    assert before["test"]["accuracy"] == 0.5 and before["test"]["n"] == 10
    assert before["test"]["loss"] == pytest.approx(np.log(2), rel=1e-6)
    assert before["validation"]["accuracy"] == 0.5
    page = (trained.folder / "report.html").read_text()
    assert "Before training" in page


def test_exported_with_two_units_that_answer_alike(trained, tmp_path):
    from tlflax.export import export_run
    from tlflax.export.stablehlo import load

    path, _ = export_run(trained.folder, "stablehlo", tmp_path / "m.zip")
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    wanted = Predictor.open(trained.folder).predict(images).probabilities
    assert np.ptp(wanted[:, 1]) > 0.01
    np.testing.assert_allclose(load(path)(images), wanted, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_exported_to_keras(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras", reason="the live Keras is not installed")
    from tlflax.export import export_run

    path, _ = export_run(trained.folder, "keras", tmp_path / "m.keras")
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    wanted = Predictor.open(trained.folder).predict(images).probabilities
    found = keras.models.load_model(path).predict(images, verbose=0)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
