"""EfficientNet's own parts and its input; every layer against Keras is in test_goldens."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import hub_garden
import jax
import numpy as np
import pytest
from keras_layout import draw, draw_image, inventory, keras_arrays, write_h5
from test_goldens import outputs

from tlflax import tree
from tlflax.backbones.chain import preprocess
from tlflax.backbones.inventory import describe
from tlflax.backbones.table import get
from tlflax.convert import hub_form, keras_form
from tlflax.convert.__main__ import recognise
from tlflax.convert.hub_efficientnet import source_names
from tlflax.convert.readers import read
from tlflax.errors import ConvertError

SPEC, HUB = get("efficientnet_b0"), get("hub_efficientnet_b0")
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def keras_flat(name=SPEC.name):
    return {f"{n}/{w}": a for n, ws in keras_arrays(name).items() for w, a in ws.items()}


def garden_arrays():
    """The hub module's variables, with the numbers that Keras' layers have in the goldens."""
    found = {}
    for name, shape in hub_garden.shapes().items():
        layer, weight = name.rsplit("/", 1)
        layer = re.sub(r"(se_\w+)_conv2d", r"\1", hub_garden.keras_layer(layer))
        found[name] = draw(layer, weight, shape)
    return found


def from_keras(arrays):
    return keras_form.convert(arrays, inventory(SPEC.name)[0], SPEC, "the file")[0]


def from_hub(arrays):
    return hub_form.convert(arrays, inventory(HUB.name)[0], HUB, "the module")


@pytest.mark.slow
def test_every_part_equals_the_whole():
    """Each block from the one before it, the end of the chain, inner layers; an odd size."""
    chain, images = SPEC.chain(), draw_image(33)
    variables = from_keras(keras_flat())
    record = outputs(chain, variables, images)
    blocks = list(chain)
    parts = [*zip([None, *blocks], blocks, strict=False), ("block7a_project_bn", None)]
    parts += [(None, "block1a_se_reduce"), ("block5b_add", "block6a_expand_activation")]
    parts += [("block3a_project_bn", "block3b_se_squeeze"), ("block4b_add", "block4c_dwconv")]

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


def test_blocks_and_shapes():
    blocks = {b.name: b for b in describe(SPEC.chain(), 224)}
    assert list(blocks)[:5] == [
        "stem_activation",
        "block1a_project_bn",
        "block2a_project_bn",
        "block2b_add",
        "block3a_project_bn",
    ]
    assert len(blocks) == 18 and blocks["block6d_add"].shape == (7, 7, 192)
    assert (blocks["top_activation"].shape, blocks["top_activation"].stride) == ((7, 7, 1280), 32)
    assert "block6d_se_excite" in blocks["block6d_add"].layers


@pytest.mark.parametrize(
    ("name", "alias", "block"),
    [
        ("efficientnet_b0", "features.3", "block3b_add"),
        ("efficientnet_b0", "features.8", "top_activation"),
        ("efficientnet_b0", "blocks.6", "block7a_project_bn"),
        ("efficientnet_b7", "blocks.5.12", "block6m_add"),
        ("efficientnet_b7", "features.7", "block7d_add"),
        ("hub_efficientnet_b0", "stack_3", "block4c_add"),
        ("hub_efficientnet_b0", "stack_5/block_0", "block6a_project_bn"),
    ],
)
def test_names_of_other_frameworks(name, alias, block):
    spec = get(name)
    assert spec.aliases[alias] == block
    assert set(spec.aliases.values()) <= set(spec.chain())


# What is computed before the first convolution ------------------------------------------------


@pytest.mark.parametrize("name", [f"efficientnet_b{i}" for i in range(8)])
def test_contract_is_what_keras_computes_with_imagenet_weights(name):
    images = draw_image(8)
    x = images.astype(np.float64) / 255  # Rescaling
    x = (x - MEAN) / np.sqrt(STD)  # Normalization: the published variances are deviations
    x = x * (1 / np.sqrt(STD))  # the second Rescaling
    # Float32 arithmetic on values of order one.
    np.testing.assert_allclose(preprocess(images, get(name).contract), x, rtol=0, atol=1e-6)


def test_contract_is_what_the_hub_module_computes():
    images = draw_image(8)
    x = images.astype(np.float64) / 255  # the module's users
    x = (x * 255 - MEAN * 255) / (STD * 255)
    np.testing.assert_allclose(preprocess(images, HUB.contract), x, rtol=0, atol=1e-6)


def test_normalisation_of_the_file_is_checked_and_counted_apart():
    arrays, expected = keras_flat(), tree.flatten(from_keras(keras_flat()))
    assert [n for n in arrays if not keras_form.counted(n, SPEC)] == [
        "normalization/mean",
        "normalization/variance",
        "normalization/count",
    ]
    total = sum(a.size for n, a in arrays.items() if keras_form.counted(n, SPEC))
    assert total == SPEC.parameters == 4_049_564
    # Keras numbers the layer when it built one before; TensorFlow stored it as [1, 1, 1, 3] once.
    shaped = {"normalization_3/mean": arrays["normalization/mean"].reshape(1, 1, 1, 3)}
    shaped |= {"normalization_3/variance": arrays["normalization/variance"]}
    others = {n: a for n, a in arrays.items() if not n.startswith("normalization/")}
    for file in (others, shaped | others):
        found = tree.flatten(from_keras(file))
        assert all(np.array_equal(found[p], expected[p]) for p in expected)


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        ("variance", STD**2, r"normalization/variance is \(0.0524\d*, .* has \(0.229, 0.224"),
        ("variance", np.ones(3), r"normalization/variance is \(1, 1, 1\)"),
        ("mean", np.zeros(3), r"normalization/mean is \(0, 0, 0\), efficientnet_b0 has \(0.485"),
        ("mean", MEAN[::-1], r"normalization/mean is \(0.406, 0.456, 0.485\)"),
        ("mean", np.array(0.485), r"normalization/mean is \(0.485\)"),
    ],
)
def test_another_normalisation_is_refused(kind, value, said):
    changed = keras_flat() | {f"normalization/{kind}": value.astype(np.float32)}
    with pytest.raises(ConvertError, match=f"the file does not fit the network: its {said}"):
        from_keras(changed)


def test_published_file_is_read(tmp_path):
    path = write_h5(tmp_path / SPEC.source.file_name, keras_arrays(SPEC.name))
    file = read(path)
    assert len(file.arrays) == 309 + 3 and file.arrays["normalization/count"].shape == ()
    assert file.arrays["block1a_dwconv/depthwise_kernel"].shape == (3, 3, 32, 1)
    spec, weights = recognise(path)
    assert spec is SPEC
    expected, found = tree.flatten(from_keras(keras_flat())), tree.flatten(weights.variables)
    assert all(np.array_equal(found[p], expected[p]) for p in expected)


# TensorFlow Hub's module ----------------------------------------------------------------------


def test_hub_names_and_shapes_are_those_of_the_model_garden():
    shapes, target = hub_garden.shapes(), inventory(HUB.name)[0]
    flat = {f"{c}/{p}": leaf.shape for c in target for p, leaf in tree.flatten(target[c]).items()}
    names = source_names(flat)
    assert len(set(names.values())) == len(flat) == len(shapes) == 309
    for path, shape in flat.items():
        theirs = shapes[names[path]]
        # Depthwise kernels have their last axes the other way round.
        assert theirs == (shape if "_dwconv/" not in path else (*shape[:2], shape[3], shape[2]))
    assert sum(map(np.prod, shapes.values())) == HUB.parameters


@pytest.mark.parametrize("scope", ["", "module/"])
def test_hub_variables_land_where_keras_has_the_same_layer(scope):
    """The goldens then hold for the hub form as well: the chain is the same."""
    arrays = {f"{scope}{n}:0": a for n, a in garden_arrays().items()}
    arrays |= {f"{scope}logits/kernel": np.zeros((1280, 9)), f"{scope}logits/bias": np.zeros(9)}
    variables, left_out = from_hub(arrays)
    assert left_out == [f"{scope}logits/kernel", f"{scope}logits/bias"]
    found, expected = tree.flatten(variables), tree.flatten(from_keras(keras_flat()))
    assert set(found) == set(expected)
    assert all(np.array_equal(found[p], expected[p]) for p in expected)
    assert HUB.chain().blocks == SPEC.chain().blocks


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: a.pop("top_bn/beta"), "1 of 309 variables absent: top_bn/beta"),
        (lambda a: a.update(extra=np.ones(3)), "1 variables not used: extra"),
        (lambda a: a.update({"stem_bn/gamma": np.ones(31)}), r"stem_bn/gamma is \(31,\)"),
        (lambda a: a.update({"top_bn/gamma": np.full(1280, np.nan)}), "non-finite .* top_bn/gamma"),
    ],
)
def test_a_damaged_module_is_refused(change, said):
    arrays = garden_arrays()
    change(arrays)
    with pytest.raises(ConvertError, match=said):
        from_hub(arrays)


# Against the frameworks themselves ------------------------------------------------------------


@pytest.mark.slow
def test_live_keras_with_imagenet_weights(tmp_path, monkeypatch):
    """keras.applications as its users call it: weights="imagenet", its own layers in front."""
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    from keras.src.applications import efficientnet

    path = write_h5(tmp_path / SPEC.source.file_name, keras_arrays(SPEC.name))
    asked = []

    def get_file(name, url, **options):
        asked.append((name, url, options["file_hash"]))
        return str(path)

    monkeypatch.setattr(efficientnet.file_utils, "get_file", get_file)
    options = {"include_top": False, "input_shape": (75, 75, 3)}
    keras.utils.clear_session()  # it numbers the layers of a process
    model = keras.applications.EfficientNetB0(weights="imagenet", **options)
    assert asked == [(SPEC.source.file_name, SPEC.source.url, SPEC.source.hash.split(":")[1])]
    assert [x.name for x in model.layers if "rescaling" in x.name] == ["rescaling", "rescaling_1"]
    images = draw_image(75)
    prepared = keras.applications.efficientnet.preprocess_input(images.astype(np.float32))
    expected = model.predict(prepared, verbose=0)
    found = jax.jit(SPEC.chain().apply)(from_keras(read(path).arrays), images)
    # Float32 sums in another order, through 80 layers.
    assert np.abs(found - expected).max() / np.abs(expected).max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("side", [64, 75])
def test_live_model_garden(side, tmp_path):
    """The published structure in TensorFlow, saved as the module was: every layer."""
    for package in ("tensorflow", "tf_keras"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    arrays, images = garden_arrays(), draw_image(side)
    np.savez(tmp_path / "arrays.npz", **arrays)
    np.save(tmp_path / "images.npy", images)
    names = ("arrays.npz", "images.npy", "module", "out.npz")
    files = [str(tmp_path / name) for name in names]
    script = Path(hub_garden.__file__)
    done = subprocess.run([sys.executable, str(script), *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    file = read(tmp_path / "module")
    assert file.form == "hub" and set(file.arrays) == set(arrays)
    record = outputs(HUB.chain(), from_hub(file.arrays)[0], images)
    with np.load(tmp_path / "out.npz") as stored:
        theirs = {k.replace("|", "/"): stored[k] for k in stored.files}
    record["top_pool"] = record["top_activation"].mean(axis=(1, 2))
    compared = set()
    for name, expected in theirs.items():
        layer = hub_garden.keras_layer(name)
        if layer.endswith(("_drop", "se_reduce_conv2d", "se_expand_conv2d")):
            continue
        error = np.abs(record[layer] - expected).max() / np.abs(expected).max()
        # Float32 sums in TensorFlow's order.
        assert error < 1e-5, f"{name} is off by {error:.1e}"
        compared.add(layer)
    assert compared == set(record)
