"""InceptionV3's own parts; every layer against Keras is in test_goldens."""

import functools

import flax.linen as nn
import h5py
import jax
import numpy as np
import pytest
from keras_layout import counted, draw, draw_image, inventory, keras_arrays, write_h5
from test_goldens import outputs

from tlflax import tree
from tlflax.backbones.chain import Tap
from tlflax.backbones.inception_v3 import mean_3x3
from tlflax.backbones.inventory import describe, layer_to_block
from tlflax.backbones.layers import max_pool
from tlflax.backbones.names import resolve_endpoint
from tlflax.backbones.table import get
from tlflax.convert.__main__ import recognise
from tlflax.convert.keras_form import convert, our_layers
from tlflax.convert.keras_form import counted as counted_here
from tlflax.convert.readers import read
from tlflax.convert.rules import by_count
from tlflax.errors import ConvertError

SPEC = get("inception_v3")


def flat_arrays():
    return {f"{n}/{w}": a for n, ws in keras_arrays(SPEC.name).items() for w, a in ws.items()}


def renamed(first):
    """The arrays under names from Keras' counters that begin at ``first``."""
    names = {}
    for layer, name in counted(inventory(SPEC.name)[1]).items():
        kind, number = name.rsplit("_", 1)
        number = int(number) - 1 + first
        names[layer] = f"{kind}_{number}" if number else kind
    found = {}
    for name, array in flat_arrays().items():
        layer, weight = name.rsplit("/", 1)
        found[f"{names.get(layer, layer)}/{weight}"] = array
    return found


@functools.cache
def layers():
    """Layer -> block, at the smallest size."""
    return layer_to_block(describe(SPEC.chain(), 75))


def converted(arrays):
    return tree.flatten(convert(arrays, inventory(SPEC.name)[0], SPEC, "the file")[0])


def test_published_numbers():
    blocks = describe(SPEC.chain(), 150)
    names = [b.name for b in blocks]
    assert names[-11:] == [f"mixed{i}" for i in range(11)] and len(names) == 18
    mixed7 = names.index("mixed7")
    # Keras' own printed summaries: whole, and cut as the tutorials cut it.
    assert sum(b.parameters + b.statistics for b in blocks) == 21_802_784
    assert sum(b.parameters + b.statistics for b in blocks[: mixed7 + 1]) == 8_975_264
    assert (blocks[mixed7].shape, blocks[-1].shape) == ((7, 7, 768), (3, 3, 2048))
    full = {b.name: b.shape for b in describe(SPEC.chain(), 299)}
    assert full["mixed0"] == (35, 35, 256) and full["mixed4"] == (17, 17, 768)
    assert full["mixed8"] == (8, 8, 1280) and full["stem5_pool"] == (35, 35, 192)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("mixed7", "mixed7"),
        ("mixed1", "mixed1"),  # not mixed10
        ("Mixed_6e", "mixed7"),
        ("Conv2d_4a_3x3", "stem5_relu"),
        ("stem1", "stem1_relu"),
        ("mixed9_1", "mixed9_1"),
        ("mixed10_branch3x3dbl_3_1x3_bn", "mixed10_branch3x3dbl_3_1x3_bn"),
    ],
)
def test_endpoints_by_other_names(wanted, found):
    blocks = list(dict.fromkeys(layers().values()))
    assert resolve_endpoint(wanted, blocks, layers(), SPEC.aliases, "x") == found


def test_mixed9_1_is_in_mixed10():
    # Keras numbers the two inner concatenations 0 and 1 although the blocks are 9 and 10.
    assert layers()["mixed9_0"] == "mixed9" and layers()["mixed9_1"] == "mixed10"


@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (2, 2, 1, 3), (1, 7, 8, 5)])
def test_the_mean_leaves_the_padding_out(shape):
    rng = np.random.default_rng(0)
    x, g = (rng.uniform(1, 2, shape).astype(np.float32) for _ in range(2))

    def plain(x):
        return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)

    def both(x):
        return [(y, pull(g)[0]) for y, pull in (jax.vjp(mean_3x3, x), jax.vjp(plain, x))]

    (found, gradient), (expected, expected_gradient) = jax.jit(both)(x)
    # Float32, nine positive terms in another order.
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-6)


@pytest.mark.parametrize("window", [2, 3])
@pytest.mark.parametrize("side", [3, 8, 9])
def test_max_pool_is_the_window_reduction(window, side):
    x = np.random.default_rng(0).standard_normal((2, side, side + 1, 3), np.float32)

    def both(x):
        return max_pool(x, Tap(None, None), "pool", window), nn.max_pool(x, (window,) * 2, (2, 2))

    found, expected = jax.jit(both)(x)
    assert np.array_equal(found, expected)


@pytest.mark.slow
def test_every_part_equals_the_whole():
    """Each block from the one before it, the end of the chain, inner layers."""
    chain, images = SPEC.chain(), draw_image(75)
    variables = convert(flat_arrays(), inventory(SPEC.name)[0], SPEC, "the file")[0]
    record = outputs(chain, variables, images)
    blocks = list(chain)
    parts = [*zip([None, *blocks], blocks, strict=False), (None, "stem2_conv"), ("mixed8", None)]
    parts += [("mixed1", "mixed2_branch_pool_mean"), ("mixed3", "mixed4_branch7x7dbl_4_bn")]
    parts += [("mixed7", "mixed9_0")]

    def run(v, x, record):
        begin = {None: x} | record
        return [chain.apply(v, begin[a], start=a, stop=b) for a, b in parts]

    compiled = jax.jit(run, compiler_options={"xla_backend_optimization_level": 0})
    for (start, stop), found in zip(parts, compiled(variables, images, record), strict=True):
        expected = record[stop or blocks[-1]]
        assert found.shape == expected.shape
        # Float32: one compiled function may fuse a block differently from another.
        error = np.abs(found - expected).max() / np.abs(expected).max()
        assert error < 1e-5, f"{start} to {stop} is off by {error:.1e}"


@pytest.mark.parametrize("first", [0, 1, 94, 1000])
def test_only_the_order_of_the_counters_counts(first):
    expected, arrays = converted(flat_arrays()), renamed(first)
    assert not set(arrays) & set(flat_arrays())
    assert ("conv2d/kernel" in arrays) == (first == 0)
    # Neither does the order of the layers in the file, nor does a number sort as text.
    found = converted(dict(sorted(arrays.items())))
    assert set(found) == set(expected)
    assert all(np.array_equal(found[path], expected[path]) for path in expected)


def test_a_file_with_classifier_is_read():
    top = {"predictions/kernel": np.zeros((2048, 9)), "predictions/bias": np.zeros(9)}
    arrays = renamed(1) | top
    found, left_out = convert(arrays, inventory(SPEC.name)[0], SPEC, "the file")
    assert left_out == list(top)
    assert sum(arrays[n].size for n in arrays if counted_here(n, SPEC)) == SPEC.parameters
    assert tree.count(tree.flatten(found)) == SPEC.parameters


def test_published_file_is_read(tmp_path):
    path = write_h5(tmp_path / SPEC.source.file_name, keras_arrays(SPEC.name), "counted")
    with h5py.File(path) as file:
        assert list(file["conv2d_94"].attrs["weight_names"]) == ["conv2d_94/kernel:0"]
        assert "conv2d" not in file and "batch_normalization_94" in file
        weights = list(file["batch_normalization_1"].attrs["weight_names"])
        kinds = ("beta", "moving_mean", "moving_variance")  # without scale there is no gamma
        assert weights == [f"batch_normalization_1/{kind}:0" for kind in kinds]
    file = read(path)
    assert len(file.arrays) == 94 * 4
    spec, weights = recognise(path)
    assert spec is SPEC
    expected, found = converted(flat_arrays()), tree.flatten(weights.variables)
    assert all(np.array_equal(found[p], expected[p]) for p in expected)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: a.pop("conv2d_50/kernel"), "1 of 376 leaves not filled: .*mixed5_branch"),
        (lambda a: a.update({"conv2d_95/kernel": a["conv2d_94/kernel"]}), "not used: conv2d_95/"),
        (lambda a: a.pop("batch_normalization_94/beta"), "mixed10_branch_pool_bn/bias"),
        (lambda a: a.update({"conv2d_3/kernel": a["conv2d_4/kernel"]}), "wrong shape: stem3_conv"),
        (lambda a: a.update({"batch_normalization_2/gamma": np.ones(32)}), "not used: stem2_bn/g"),
    ],
)
def test_a_damaged_file_is_refused(change, said):
    arrays = renamed(1)
    change(arrays)
    with pytest.raises(ConvertError, match=said):
        converted(arrays)


def test_counters_of_other_kinds_stay_apart():
    ours = ["stem1_conv", "stem1_bn", "stem3_pool", "mixed0_branch_pool_mean", "mixed0"]
    theirs = ["conv2d_7", "batch_normalization_3", "max_pooling2d", "average_pooling2d_2", "mixed0"]
    assert by_count(theirs, ours) == dict(zip(theirs[:4], ours, strict=False))
    assert by_count(["dense_1", "conv2d_transpose_3", "conv2d_x"], ours) == {}
    # Networks that name their layers are not traced for the order of them.
    assert our_layers(["block1_conv1", "Conv_1_bn"], get("vgg16")) == {}


# Keras 3.15 variables and numpy 2 (seen 2026-11); h5py and this test both ask for arrays.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.slow
@pytest.mark.parametrize("before", [0, 1])
def test_files_that_keras_writes_today(before, tmp_path, monkeypatch):
    """Whether or not another network was built before in the session."""
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    keras.utils.clear_session()
    options = {"include_top": False, "weights": None, "input_shape": (75, 75, 3)}
    for _ in range(before):
        keras.applications.InceptionV3(**options)
    model = keras.applications.InceptionV3(**options)
    for weight in model.weights:  # initial BatchNorm weights are all alike
        layer, kind = weight.path.split("/")
        weight.assign(draw(layer, kind, tuple(weight.shape)))
    assert any(layer.name == f"conv2d_{94 * before + 93}" for layer in model.layers)
    model.save(tmp_path / "m.h5")
    model.save(tmp_path / "m.keras")
    model.save_weights(tmp_path / "m.weights.h5")
    every = [
        convert(read(tmp_path / file).arrays, inventory(SPEC.name)[0], SPEC, file)[0]
        for file in ("m.h5", "m.weights.h5", "m.keras")
    ]
    variables, *others = every
    for other in others:
        assert jax.tree.all(jax.tree.map(np.array_equal, variables, other))
    images = draw_image(75)
    prepared = keras.applications.inception_v3.preprocess_input(images.astype(np.float32))
    expected = model.predict(prepared, verbose=0)
    found = SPEC.chain().apply(variables, images)
    # Float32 sums in another order, through 48 layers.
    assert np.abs(found - expected).max() / np.abs(expected).max() < 1e-5
