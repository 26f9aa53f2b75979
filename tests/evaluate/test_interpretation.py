"""Looking inside, against the same computed in other ways."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from keras_models import drawn, write_h5
from tiny import quick_compilation  # noqa: F401

import tlflax as tl
from tlflax.backbones import table
from tlflax.errors import ConfigError
from tlflax.evaluate.interpretation import Lens, is_map
from tlflax.model import Architecture, Model

CLASSES = np.array([2, 0, 1])


def images(side, n=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3)).astype(np.uint8)


def with_head(model, variables):
    """Values for the head, which begins at zero, and for BatchNorm, which begins as identity."""
    rng = np.random.default_rng(1)

    def value(path, x):
        name = path[-1].key
        if path[0].key == "head":
            return jnp.asarray(rng.normal(0, 1, x.shape), x.dtype)
        spread = {"var": (1.0, 0.1), "scale": (1.0, 0.2), "mean": (0, 0.2), "bias": (0, 0.2)}
        return jnp.asarray(rng.normal(*spread[name], x.shape), x.dtype) if name in spread else x

    filled = jax.tree_util.tree_map_with_path(value, variables["params"])
    found = jax.tree_util.tree_map_with_path(value, {"x": variables["batch_stats"]})["x"]
    return {"params": filled, "batch_stats": found}


@pytest.fixture(scope="module")
def glyphs():
    model = tiny.model()
    variables = with_head(model, model.init(0))
    return Lens(model, variables, batch_size=2), variables


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A user's Keras network that ends in Flatten and Dense, under a new head."""
    golden = json.loads((tiny.ROOT / "tests" / "goldens" / "graph_nested.json").read_text())
    path = tmp_path_factory.mktemp("own") / "mine.h5"
    write_h5(path, golden["h5"], drawn(golden["weights"]))
    classifier = tl.classifier(str(path), classes=3)
    model, variables = classifier._looked_at()
    head = with_head(model, {"params": {"head": variables["params"]["head"]}, "batch_stats": {}})
    variables["params"]["head"] = head["params"]["head"]
    return Lens(model, variables), variables


def expected(outputs, weights):
    """The map of the paper from activations [N, h, w, C] and weights [N, C]."""
    return np.maximum((outputs * weights[:, None, None]).sum(-1), 0)


def logits_from(lens, variables, start):
    def run(outputs, labels):
        found = lens.model.module().apply(variables, outputs, start=start)
        return found[jnp.arange(len(labels)), labels]

    return run


def close(found, wanted, tolerance):
    assert wanted.max() > 0 and found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=tolerance * wanted.max())


def test_against_finite_differences_of_the_logit(glyphs):
    lens, variables = glyphs
    x = images(16)
    outputs = lens.activations(x, ["block2_pool"])["block2_pool"]
    logit, h = jax.jit(logits_from(lens, variables, "block2_pool")), 1e-3
    n, height, width, channels = outputs.shape
    weights = np.zeros((n, channels))
    for i in range(n):
        # Each channel moved as a whole: its mean gradient, from the logit alone.
        steps = h * np.eye(channels)[:, None, None]
        up, down = (np.asarray(logit(outputs[i] + s * steps, np.full(channels, CLASSES[i])))
                    for s in (1, -1))  # fmt: skip
        weights[i] = (up - down) / (2 * h) / (height * width)
    found = lens.grad_cam(x, "block2", CLASSES)
    assert found.endpoint == "block2_pool" and found.classes.tolist() == CLASSES.tolist()
    # Differences cross kinks of ReLU and of max pooling, and logits have 7 digits. Seen: 0.004.
    close(found.heat, expected(outputs, weights), 0.02)


@pytest.mark.parametrize("endpoint", ["block1_pool", "block3_pool"])
def test_against_the_gradient_of_the_chain_from_the_endpoint(glyphs, endpoint):
    lens, variables = glyphs
    x = images(16)
    outputs = lens.activations(x, [endpoint])[endpoint]
    run = logits_from(lens, variables, endpoint)
    gradient = jax.grad(lambda a: run(a, CLASSES).sum())(jnp.asarray(outputs))
    found = lens.grad_cam(x, endpoint, CLASSES)
    close(found.heat, expected(outputs, np.asarray(gradient).mean((1, 2))), 1e-5)


def test_a_layer_inside_a_block_against_the_gradient_of_its_bias(glyphs):
    lens, variables = glyphs
    x = images(16)
    layer = "block2_bn1"
    outputs = lens.activations(x, [layer])[layer]
    positions = outputs.shape[1] * outputs.shape[2]

    def logit(bias, image, label):
        params = jax.tree.map(lambda v: v, variables["params"])
        params["backbone"]["block2_pool"][layer] |= {"bias": bias}
        found = lens.model.module().apply({**variables, "params": params}, image[None])
        return found[0, label]

    bias = variables["params"]["backbone"]["block2_pool"][layer]["bias"]
    # A bias is added at every position: its gradient is the sum over them.
    each = jax.vmap(jax.grad(logit), (None, 0, 0))(bias, jnp.asarray(x), jnp.asarray(CLASSES))
    found = lens.grad_cam(x, layer, CLASSES)
    close(found.heat, expected(outputs, np.asarray(each) / positions), 1e-5)


def test_a_users_own_network_that_ends_flat(own):
    lens, variables = own
    side = lens.model.architecture.image_size
    x = images(side)
    assert not is_map(lens.shapes[lens.model.endpoint])
    found = lens.grad_cam(x, classes=CLASSES)
    blocks = [b.name for b in lens.model.blocks]
    assert found.endpoint in blocks and is_map(lens.shapes[found.endpoint])
    after = blocks[blocks.index(found.endpoint) + 1 :]
    assert after and not any(is_map(lens.shapes[name]) for name in after)
    outputs = lens.activations(x, [found.endpoint])[found.endpoint]
    run = logits_from(lens, variables, found.endpoint)
    gradient = jax.grad(lambda a: run(a, CLASSES).sum())(jnp.asarray(outputs))
    close(found.heat, expected(outputs, np.asarray(gradient).mean((1, 2))), 1e-5)


def test_flatten_head_and_cut_inside_a_block():
    for model in (tiny.model(0.2, "block2_pool", "flatten"), tiny.model(0.2, "block2_relu1")):
        variables = with_head(model, model.init(0))
        lens, x = Lens(model, variables), images(16)
        assert list(lens.shapes)[-1] == model.endpoint
        found = lens.grad_cam(x, classes=CLASSES)
        assert found.endpoint == model.endpoint
        outputs = lens.activations(x, ["auto"])[model.endpoint]
        run = logits_from(lens, variables, model.endpoint)
        gradient = jax.grad(lambda a, run=run: run(a, CLASSES).sum())(jnp.asarray(outputs))
        close(found.heat, expected(outputs, np.asarray(gradient).mean((1, 2))), 1e-5)


def test_activations_are_those_of_the_chain(glyphs):
    lens, variables = glyphs
    x = images(16, n=5)
    names = ["block1", "block2_relu1", "auto"]
    found = lens.activations(x, names)
    assert list(found) == ["block1", "block2_relu1", "block3_pool"]
    for name, values in found.items():
        layer = lens.resolve(name)
        assert values.shape == (5, *lens.shapes[layer])
        module = lens.model.module()
        alone = module.apply(variables, jnp.asarray(x), stop=layer, method="features")
        np.testing.assert_allclose(values, alone, atol=1e-5)


def test_predicted_classes_are_the_default_and_batches_change_nothing(glyphs):
    lens, variables = glyphs
    x = images(16, n=5)
    found = lens.grad_cam(x)
    logits = np.asarray(jax.jit(lens.model.module().apply)(variables, jnp.asarray(x)))
    assert found.classes.tolist() == logits.argmax(1).tolist()
    np.testing.assert_allclose(found.probabilities, jax.nn.softmax(logits), atol=1e-5)
    np.testing.assert_array_equal(found.pixels, x)
    alone = Lens(lens.model, variables).grad_cam(x[3:4])
    np.testing.assert_allclose(found.heat[3], alone.heat[0], rtol=1e-4, atol=1e-6)
    named = lens.grad_cam(x, classes="vertical")
    assert named.classes.tolist() == [2] * 5
    # Another class, another map.
    assert abs(named.heat - lens.grad_cam(x, classes=0).heat).max() > 0.1 * named.heat.max()
    assert (found.heat >= 0).all()


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("blok3", "unknown endpoint 'blok3' of glyph_cnn; did you mean block3"),
        ("block3_conv3", "did you mean block3_conv2"),
        ("mixed7", r"unknown endpoint 'mixed7' of glyph_cnn.*blocks: block1_pool, block2_pool"),
    ],
)
def test_unknown_endpoints(glyphs, endpoint, words):
    for ask in (glyphs[0].grad_cam, lambda x, name: glyphs[0].activations(x, [name])):
        with pytest.raises(ConfigError, match=words) as error:
            ask(images(16), endpoint)
        assert "\n" not in str(error.value)


def test_above_the_cut():
    model = tiny.model(0.2, "block2_pool")
    lens = Lens(model, model.init(0))
    for name in ("block3", "block3_conv1"):
        with pytest.raises(ConfigError, match="lies above the cut at 'block2_pool'"):
            lens.resolve(name)


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ("horizontl", "no class 'horizontl'; did you mean horizontal"),
        (3, r"no class 3 \(0..2: diagonal"),
        ([0, 1], "2 classes for 3 images"),
    ],
)
def test_unknown_classes(glyphs, classes, words):
    with pytest.raises(ConfigError, match=words):
        glyphs[0].grad_cam(images(16), classes=classes)


def test_without_a_map(own):
    lens, _ = own
    with pytest.raises(ConfigError, match=r"no map of positions \(its output is \d+\); these have"):
        lens.resolve_map(lens.model.endpoint)
    model = Model(Architecture("vit_s16", "auto", tiny.CLASSES, 32))
    tokens = Lens(model, {"params": {}})
    with pytest.raises(ConfigError, match=r"'blocks_3'.* 5x384\); these have: patch_embed_proj$"):
        tokens.resolve_map("blocks_3")
    with pytest.raises(ConfigError, match="'cls_token' of vit_s16 has no map"):
        tokens.resolve_map()
    assert tokens.resolve_map("patch_embed_proj") == "patch_embed_proj"


# One network of each kind: that its marks are on the way to its output is a property of its code.
FAMILIES = {(s.build, s.form): name for name, s in reversed(table.ZOO.items())}


@pytest.mark.parametrize("name", FAMILIES.values())
def test_every_layer_leads_to_the_output(name):
    """A mark whose result a network did not use would make its Grad-CAM zero."""
    spec = table.get(name)
    size = 64 if spec.min_size <= 64 else spec.min_size
    model = Model(Architecture(name, "auto", tiny.CLASSES, size))
    lens = Lens(model, {"params": {}})
    zeros = {k: jax.ShapeDtypeStruct((1, *s), jnp.float32) for k, s in lens.shapes.items()}

    def run(shift, variables, x):
        return lens._module.apply(variables, x, shift=shift)

    x = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
    program = jax.make_jaxpr(run)(zeros, model.abstract, x).jaxpr
    needed = set(map(id, program.outvars))
    for step in reversed(program.eqns):
        if any(id(v) in needed for v in step.outvars):
            needed |= {id(v) for v in step.invars}
    unused = [k for k, v in zip(sorted(zeros), program.invars, strict=False) if id(v) not in needed]
    assert unused == []
