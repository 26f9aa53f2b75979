"""What is computed in bfloat16 and what never is."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from keras_models import NAMES, drawn, write_keras
from network_checks import numbers
from small_step import a_batch, stepped

from tlflax import tree
from tlflax.backbones.inventory import abstract_variables
from tlflax.errors import ConfigError
from tlflax.model import Architecture, Model
from tlflax.open_model import open_model
from tlflax.train import step as steps
from tlflax.train.state import split_variables

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"
# A number of classes that no layer of a network has: it marks the head's products.
CLASSES = tuple("abcdefghijklmnopqrs")
# One network of each family, at the smallest side that keeps a map above one pixel.
FAMILIES = {
    "vgg16": 32, "resnet50": 32, "resnet50_v2": 32, "inception_v3": 75, "mobilenet_0.25": 32,
    "mobilenet_v2_0.35": 32, "efficientnet_b0": 32, "squeezenet_1.1": 48, "cifar_resnet20": 32,
    "resnet18": 32, "torch_efficientnet_b0": 32, "vit_s16": 32, "convnext_tiny": 32,
}  # fmt: skip


def zoo_model(name, size):
    return Model(Architecture(name, "auto", CLASSES, size))


def own_model(name, folder):
    stored = json.loads((GOLDENS / f"graph_{name}.json").read_text())
    path = write_keras(folder / "m.keras", stored["keras"], drawn(stored["weights"]))
    return open_model(Architecture(str(path), "auto", CLASSES, 0), "unit")


def products(jaxpr):
    """Every matrix product and convolution in a program: name and input types."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ("dot_general", "conv_general_dilated"):
            yield eqn.primitive.name, [v.aval for v in eqn.invars]
        for inner in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from products(inner)


def traced_step(model, bn="stored", **options):
    """The step of the whole network in bfloat16, not compiled."""
    model = model.computing("bfloat16")
    (stage,) = tiny.stages({"train": "all", "bn": bn})
    policy, tx = model.policy(stage), optax.adam(1e-3)
    state, frozen = jax.eval_shape(lambda v: split_variables(v, policy, tx), model.abstract)
    made = steps.make_train_step(model.module(policy.live), tx, seed=(0, 0), **options)
    side = model.architecture.image_size
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), a_batch(4, (side, side, 3))
    )
    return made.compiled.trace(state, frozen, batch, np.zeros(2, np.uint32))


def check_products(trace):
    found = list(products(trace.jaxpr.jaxpr))
    heads = 0
    for name, inputs in found:
        types = {str(v.dtype) for v in inputs}
        if name == "dot_general" and any(len(CLASSES) in v.shape for v in inputs):
            assert types == {"float32"}, inputs
            heads += 1
        # Luma is part of the input contract, a product with a vector of three. A product with a
        # single row of ones is a sum, which depthwise gradients take in float32.
        elif not any(v.shape == (3,) or v.shape[0] == 1 for v in inputs):
            assert types == {"bfloat16"}, (name, inputs)
    # Logits, and their gradients with respect to the kernel and to the features.
    assert heads == 3
    assert len(found) > heads + 1
    new, loss = jax.tree.map(lambda v: v.dtype, trace.out_info)
    assert loss == jnp.float32
    assert {str(d) for d in jax.tree.leaves(new)} == {"float32", "int32"}


@pytest.mark.parametrize("bn", ["stored", "train"])
def test_every_product_of_the_backbone_has_bfloat16_inputs(bn):
    check_products(traced_step(zoo_model("glyph_cnn", 16), bn))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_product_of_every_family_has_bfloat16_inputs(name):
    check_products(traced_step(zoo_model(name, FAMILIES[name]), "train"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_product_of_own_networks_has_bfloat16_inputs(name, tmp_path):
    check_products(traced_step(own_model(name, tmp_path)))


@pytest.mark.parametrize("name", ["normalize", "rescale"])
def test_constants_of_a_graph_do_not_lead_back_to_float32(name):
    from tlflax.backbones.graph_layers import LAYERS

    options = {
        "axes": [-1], "mean": [1.0] * 3, "variance": [4.0] * 3, "invert": False,
        "scale": 0.5, "offset": -0.5,
    }  # fmt: skip
    x = jnp.full((1, 2, 2, 3), 3.0, jnp.bfloat16)
    y = LAYERS[name]("n", options, [x], False)
    assert y.dtype == jnp.bfloat16 and (y == 1.0).all()


def compared(model, variables):
    """Features in both precisions, and gradients of their mean square in bfloat16."""
    side = model.architecture.image_size
    images = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), np.uint8)
    half = model.computing("bfloat16").module()

    def features(variables, module):
        return steps._apply(module, variables, images, method="features")

    def loss(params):
        x = features({**variables, "params": params}, half)
        return jnp.mean(x.astype(jnp.float32) ** 2), x

    full = jax.jit(lambda v: features(v, model.module()))(variables)
    (_, low), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    assert full.dtype == jnp.float32 and low.dtype == jnp.bfloat16
    full, low = np.asarray(full, np.float64), np.asarray(low, np.float64)
    error = np.linalg.norm(low - full) / np.linalg.norm(full)
    return error, tree.flatten(gradient)


def with_noise(model):
    """Variables in which every leaf matters; from scratch a ConvNeXt block adds almost nothing."""
    variables = model.init(0)
    noise = numbers(model.spec, model.architecture.image_size)
    kept = {c: v["backbone"] for c, v in variables.items() if "backbone" in v}
    for collection, leaves in kept.items():
        variables[collection]["backbone"] = {b: noise[collection][b] for b in leaves}
    return variables


def check_close(model, variables):
    error, gradient = compared(model, variables)
    # One rounding to bfloat16 is 2^-9 = 0.2 % at most; those of up to 100 layers in a row add up
    # like a random walk, and each layer passes on what the ones below it did.
    assert error < 0.1
    assert error > 1e-4  # float32 would be below
    for path, value in gradient.items():
        assert value.dtype == jnp.float32 and np.isfinite(value).all(), path
    # Features of the backbone: its own leaves alone, some of them behind a rectifier that is off.
    below = [v for path, v in gradient.items() if path.startswith("backbone/")]
    assert 2 * sum(float(np.abs(v).max()) > 0 for v in below) >= len(below)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_families_in_bfloat16_are_close_to_float32(name):
    model = zoo_model(name, FAMILIES[name])
    check_close(model, with_noise(model))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_own_networks_in_bfloat16_are_close_to_float32(name, tmp_path):
    model = own_model(name, tmp_path)
    assert model.brought is not None
    check_close(model, model.load(model.init(0), model.brought))


@pytest.mark.slow
def test_a_step_keeps_float32_masters():
    model = tiny.model(dropout=0.0)
    options = {"bn": "train", "tx": optax.adam(1e-2)}
    loss, state = stepped(model.computing("bfloat16"), **options)
    expected, full = stepped(model, **options)
    assert {str(x.dtype) for x in jax.tree.leaves(state)} == {"float32", "int32"}
    # Six roundings to 8 bits (0.2 % each) of activations and weights.
    assert loss == pytest.approx(expected, rel=0.02) and loss != expected
    for path, value in full["statistics"].items():
        # Of 2^-8 of the largest: sums in float32 over values rounded to bfloat16.
        np.testing.assert_allclose(state["statistics"][path], value, atol=np.abs(value).max() / 64)
    low = [v.astype(jnp.bfloat16).astype(np.float32) for v in state["trainable"].values()]
    # Stored in bfloat16, an update of a hundredth would mostly be lost.
    assert all((v != w).any() for v, w in zip(state["trainable"].values(), low, strict=True))


def test_features_and_probabilities_are_of_the_precision():
    model = tiny.model(dropout=0.0)
    variables, images = model.init(0), a_batch(2, (16, 16, 3))["image"]
    half = model.computing("bfloat16").module()
    for module, maps in ((model.module(), jnp.float32), (half, jnp.bfloat16)):
        prefix = jax.eval_shape(steps.make_prefix(module, "block2_pool", False), variables, images)
        assert prefix.dtype == maps
        # A mean has digits that its terms have not.
        pooled = jax.eval_shape(steps.make_prefix(module, "block3_pool", True), variables, images)
        assert pooled.dtype == jnp.float32 and pooled.shape == (2, 128)
        evaluate = steps.make_eval_step(module)
        assert jax.eval_shape(evaluate, variables, {"image": images}).dtype == jnp.float32


def test_initial_values_do_not_depend_on_the_precision():
    model = Model(Architecture("glyph_cnn", "block1_pool", tiny.CLASSES, 16))
    assert tiny.same(model.init(3), model.computing("bfloat16").init(3))
    chain = abstract_variables(model.chain, 16)
    assert {str(x.dtype) for x in jax.tree.leaves(chain)} == {"float32"}


def test_auto_is_chosen_by_the_device(monkeypatch):
    assert steps.compute_precision("auto") == "float32"
    for backend in ("gpu", "tpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        assert steps.compute_precision("auto") == "bfloat16"
        assert steps.compute_precision("float32") == "float32"
    with pytest.raises(ConfigError, match="got 'bfloat'; did you mean bfloat16"):
        steps.compute_precision("bfloat")


@pytest.mark.slow
def test_a_run_records_its_precision_and_predicts_in_float32(tmp_path):
    from tlflax.config import base
    from tlflax.predict import Predictor
    from tlflax.run import run

    config = base(
        data=f"folder:{tiny.stripes()}", backbone="glyph_cnn", weights="none", image_size=16,
        batch_size=16, precision="bfloat16", stages=({"name": "all", "epochs": 2, "train": "all"},),
    )  # fmt: skip
    report = run(config, tmp_path / "r").results
    assert report["precision"] == "bfloat16"
    predictor = Predictor.open(tmp_path / "r")
    assert predictor.model.precision == "float32"
    found = predictor.predict([tiny.stripes() / "test"])
    # Probabilities of a bfloat16 pass, to 8 bits: the classes are the same but for near ties.
    assert len(found.probabilities) == 15
