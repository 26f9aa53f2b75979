"""Wrong input ranges are told from the weights' statistics, right ones are left alone."""

import copy
import json

import numpy as np
import pytest
from tiny import quick_compilation as quick_compilation

from tlflax.backbones.chain import Chain
from tlflax.convert.own_contract import CONTRACTS
from tlflax.data.decode import Resize
from tlflax.data.pipeline import Images
from tlflax.data.source import load_dataset
from tlflax.errors import DataError
from tlflax.features import inputs
from tlflax.features.inputs import check_inputs, input_notes
from tlflax.model import Architecture, Model
from tlflax.open_model import open_model


def contract(name, order="RGB"):
    return inputs._usual(order)[name]


def prepared(model, name):
    """The same network with another input contract than its weights want."""
    other = copy.copy(model)
    other.chain = Chain(model.chain.blocks, contract(name, model.spec.contract.order))
    return other


def picked(source, size, rule, cache=None, count=inputs.LOOKED_AT):
    split = load_dataset(source, cache_dir=cache).train
    rows = np.linspace(0, len(split) - 1, count).round().astype(int)
    return Images(split.subset(rows), size, rule).batch(np.arange(count))


def weights_of(model, weights="official", folder=None):
    found = model.pretrained(weights, folder)
    return {c: {"backbone": v} for c, v in found.variables.items()}


@pytest.fixture(scope="module")
def glyphs():
    model = Model(Architecture("glyph_cnn", "auto", ("a", "b"), 32))
    return model, weights_of(model)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return picked("digits", 32, Resize(), tmp_path_factory.mktemp("cache"))


def test_grey_digits_under_the_right_contract_are_fine(glyphs, digits):
    model, variables = glyphs
    assert check_inputs(model, variables, digits) == []
    # Black on white instead of white on black: another range of outputs, the same contract.
    assert check_inputs(model, variables, 255 - digits) == []


@pytest.mark.parametrize("name", ["raw", "tf"])
def test_wrong_contract_of_a_zoo_network(glyphs, digits, name):
    model, variables = glyphs
    (note,) = check_inputs(prepared(model, name), variables, digits)
    assert note.startswith(f"glyph_cnn gets its images as '{name}' (L, x * ")
    assert "fit 'unit' (L, x * 0.00392157) much better" in note
    assert note.endswith("leave preprocessing at 'auto'")


def test_random_weights_take_anything(glyphs, digits):
    assert check_inputs(prepared(glyphs[0], "raw"), None, digits) == []


def test_black_images_are_refused(glyphs, digits):
    dark = digits // 255
    assert dark.max() == 1
    for variables in (glyphs[1], None):
        with pytest.raises(DataError, match=r"no pixel above 1 of 255.*division by 255"):
            check_inputs(glyphs[0], variables, dark)
    assert check_inputs(glyphs[0], None, digits // 100) == []


def test_weights_that_disagree_with_the_zoo_name_what_they_fit(glyphs, digits):
    """Statistics decide where a file of one's own was trained on something else."""
    model, variables = glyphs
    block = variables["batch_stats"]["backbone"]["block1_pool"]
    first = block["block1_bn1"]
    # The same convolution trained on 0..255 has 255 times the mean.
    changed = {"mean": first["mean"] * 255, "var": first["var"] * 255**2}
    stats = {
        **variables["batch_stats"]["backbone"],
        "block1_pool": {**block, "block1_bn1": changed},
    }
    other = {**variables, "batch_stats": {"backbone": stats}}
    (note,) = check_inputs(model, other, digits)
    assert "fit 'raw' (L, x * 1) much better" in note and "set preprocessing='raw'" in note
    assert check_inputs(prepared(model, "raw"), other, digits) == []


@pytest.fixture(scope="module")
def photos():
    """Pixels with the mean and spread of photos."""
    rng = np.random.default_rng(0)
    smooth = rng.normal(size=(8, 7, 7, 3)).repeat(8, 1).repeat(8, 2)
    return (115 + 58 * smooth).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", ["raw", "unit", "tf", "torch"])
def test_network_without_statistics_goes_by_its_own_contract(photos, name):
    model = Model(Architecture("squeezenet_1.1", "relu_conv1", ("a", "b"), 56))
    variables = model.init(0)
    assert check_inputs(model, variables, photos) == []
    (note,) = check_inputs(prepared(model, name), variables, photos)
    assert f"gets its images as {name!r}" in note and "trained with 'caffe' (BGR" in note
    assert "standard deviation near 58" in note and "leave preprocessing at 'auto'" in note


def test_measured_numbers_are_in_the_sentence(photos):
    model = Model(Architecture("squeezenet_1.1", "relu_conv1", ("a", "b"), 56))
    (note,) = check_inputs(prepared(model, "unit"), model.init(0), photos)
    values = photos.astype(float) / 255
    assert f"and get {values.mean():.2g} and {values.var((0, 1, 2)).mean() ** 0.5:.2g}" in note


def test_dark_photos_under_the_right_contract_are_left_alone(photos):
    """Their pixels would fit 'raw' better; without statistics that says nothing."""
    model = Model(Architecture("squeezenet_1.1", "relu_conv1", ("a", "b"), 56))
    assert check_inputs(model, model.init(0), photos // 4) == []


def own(kinds, used):
    """A user's network of nodes without weights that matter here."""
    nodes = [
        {"name": f"{kind}_{i}", "kind": kind, "inputs": [f"{kinds[i - 1]}_{i - 1}" if i else "in"],
         "options": {"scale": [1 / 255], "offset": [0.0]} if kind == "rescale" else {}}
        for i, kind in enumerate(kinds)
    ]  # fmt: skip
    graph = {"input": [8, 8, 3], "start": "in", "blocks": [{"name": "all", "nodes": nodes}]}
    model = Model(Architecture("glyph_cnn", "auto", ("a", "b"), 32))
    model.architecture = type(model.architecture)(
        **{**model.architecture.__dict__, "own": {"graph": json.dumps(graph), "contract": {}}}
    )
    model.chain = Chain(model.chain.blocks, CONTRACTS[used])
    return model


@pytest.mark.parametrize(
    ("kinds", "used", "said"),
    [
        (["rescale"], "unit", True),
        (["identity", "resize", "rescale"], "tf", True),
        (["rescale"], "raw", False),
        (["identity", "conv", "rescale"], "unit", False),
        (["normalize"], "unit", False),  # its statistics may well be of [0, 1].
        (["conv"], "unit", False),
    ],
)
def test_rescaled_twice(photos, kinds, used, said):
    notes = check_inputs(own(kinds, used), {"params": {"backbone": {}}}, photos)
    assert bool(notes) == said
    if said:
        assert "rescales them again; set preprocessing='raw'" in notes[0]


def test_images_from_all_over_a_split(glyphs, monkeypatch, capsys):
    model, variables = glyphs
    split = load_dataset("digits").train
    seen = []
    real = inputs.check_inputs
    monkeypatch.setattr(inputs, "check_inputs", lambda m, v, i: seen.append(i) or real(m, v, i))
    (note,) = input_notes(prepared(model, "raw"), variables, split)
    assert seen[0].shape == (32, 32, 32, 3) and f"warning: {note}" in capsys.readouterr().out
    assert input_notes(model, variables, split.subset([0, len(split) - 1])) == []
    assert seen[1].shape == (2, 32, 32, 3)


# Real weights and images: no false alarm, and every wrong contract is told.

PHOTOS = ("cats_vs_dogs", "cifar10", "flowers5", "food101_10", "potato_leaf")


@pytest.mark.real
@pytest.mark.parametrize("name", ["mobilenet_v2_0.35", "squeezenet_1.1"])
def test_real_zoo_networks(real, name):
    model = Model(Architecture(name, "auto", ("a", "b"), 0))
    variables = weights_of(model, folder=str(real / "weights" / "keras_h5"))
    c = model.spec.contract
    rule = Resize(c.method, c.antialias, c.fit, c.crop_fraction)
    right = "tf" if name.startswith("mobilenet") else "caffe"
    for folder in PHOTOS:
        images = picked(f"folder:{real}/datasets/{folder}", model.architecture.image_size, rule)
        assert check_inputs(model, variables, images) == []
        for wrong in {"raw", "unit", "tf", "caffe"} - {right}:
            (note,) = check_inputs(prepared(model, wrong), variables, images)
            assert f"{right!r} (" in note and "leave preprocessing at 'auto'" in note
    digits = picked("digits", model.architecture.image_size, rule)
    assert check_inputs(model, variables, digits) == []


@pytest.mark.real
@pytest.mark.parametrize(
    ("file", "right"), [("tiny_darknet_imagenet.h5", "unit"), ("waste4_keras_model.h5", "tf")]
)
def test_real_networks_of_ones_own(real, file, right):
    """Nobody says how they were trained: their statistics do."""
    path = str(real / "weights" / "keras_h5" / file)
    for used in ("raw", "unit", "tf", "caffe"):
        model = open_model(Architecture(path, "auto", ("a", "b"), 0), used)
        images = picked(f"folder:{real}/datasets/food101_10", 224, Resize())
        notes = check_inputs(model, weights_of(model), images)
        if used == right:
            assert notes == []
        else:
            assert f"set preprocessing={right!r}" in notes[0]
