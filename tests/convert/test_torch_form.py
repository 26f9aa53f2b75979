"""Names and layouts of torch's weights, in both directions."""

import jax
import numpy as np
import pytest
from torch_layout import torch_arrays, weight_shapes, write_legacy, write_official, write_pth

from tlflax import tree
from tlflax.backbones.inventory import abstract_variables
from tlflax.backbones.table import ZOO, get
from tlflax.convert import torch_form
from tlflax.convert.__main__ import recognise
from tlflax.convert.forms import form
from tlflax.convert.store import convert_file, load_weights
from tlflax.convert.torch_file import read_torch
from tlflax.convert.torch_form import convert, counted, to_source
from tlflax.convert.torch_names import source_names, styles
from tlflax.errors import ConvertError

NETWORKS = [s.name for s in ZOO.values() if s.form == "torch"]
NAME = "cifar_resnet20"
SPEC = get(NAME)


@pytest.fixture(scope="module")
def targets():
    kept = {}

    def target(name):
        if name not in kept:
            kept[name] = abstract_variables(get(name).chain(), get(name).min_size)
        return kept[name]

    return target


@pytest.fixture(scope="module")
def arrays():
    return torch_arrays(NAME, "akamaster")


def paths(target):
    return [f"{c}/{p}" for c in target for p in tree.flatten(target[c])]


@pytest.mark.parametrize(
    ("name", "style"), [(name, style) for name in NETWORKS for style in styles(get(name))]
)
def test_names_and_shapes_are_the_live_networks_own(name, style, targets):
    """One to one with the stored state dict, without the classifier."""
    spec, target = get(name), targets(name)
    names = source_names(spec, style, paths(target))
    assert len(set(names.values())) == len(names)
    stored = weight_shapes(name, style)
    wanted = {n: s for n, s in stored.items() if counted(n, spec)}
    assert set(names.values()) == set(wanted)
    left = set(stored) - set(wanted)
    tops = {n.rpartition(".")[0] for n in left if not n.endswith("num_batches_tracked")}
    assert len(tops) == (0 if name.startswith("cifar") else 1)
    empty = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), target)
    made = to_source(empty, spec, style)
    assert {n: a.shape for n, a in made.items()} == {
        n: s for n, s in stored.items() if n in wanted or n.endswith("num_batches_tracked")
    }
    assert sum(a.size for n, a in made.items() if counted(n, spec)) == spec.parameters


# One of each layout: matrices, LayerScale, gates, downsampling, attention of either library.
@pytest.mark.parametrize(
    "name", ["resnet18", "torch_mobilenet_v2_1.0", "torch_efficientnet_b0", NAME]
)
def test_there_and_back_in_every_style(name, targets):
    spec, target = get(name), targets(name)
    for style in styles(spec):
        arrays = torch_arrays(name, style)
        variables, dropped = convert(arrays, target, spec, "w.pth")
        assert all(not counted(n, spec) for n in dropped)
        back = to_source(variables, spec, style)
        for key in back:
            if not key.endswith("num_batches_tracked"):
                np.testing.assert_array_equal(back[key], arrays[key])
        assert set(arrays) - set(back) == set(dropped)


def test_styles_of_small_pieces():
    """LayerScale and attention, whose names and shapes differ, without the large networks."""
    rng = np.random.default_rng(0)
    for name, layer, block, shapes in [
        ("convnext_tiny", "stages_0_1_gamma", "stages_0_1", {"scale": (96,)}),
        (
            "torch_vit_b16", "blocks_11_attn_qkv", "blocks_11",
            {"kernel": (768, 2304), "bias": (2304,)},
        ),
    ]:  # fmt: skip
        leaves = {k: jax.ShapeDtypeStruct(s, np.float32) for k, s in shapes.items()}
        values = {k: rng.standard_normal(v.shape, np.float32) for k, v in leaves.items()}
        variables = {"params": {block: {layer: values}}}
        target = {"params": {block: {layer: leaves}}}
        for style in styles(get(name)):
            back = to_source(variables, get(name), style)
            again, _ = convert(back, target, get(name), "w")
            for leaf, value in values.items():
                np.testing.assert_array_equal(again["params"][block][layer][leaf], value)
    gamma = to_source(
        {"params": {"stages_0_1": {"stages_0_1_gamma": {"scale": np.arange(96.0)}}}},
        get("convnext_tiny"),
        "torchvision",
    )["features.1.1.layer_scale"]
    np.testing.assert_array_equal(gamma[:, 0, 0], np.arange(96))


def test_orientation(arrays, targets):
    variables, _ = convert(arrays, targets(NAME), SPEC, "w.th")
    kernel = variables["params"]["layer2_0"]["layer2_0_conv1"]["kernel"]
    assert kernel.shape == (3, 3, 16, 32) and kernel.dtype == np.float32
    assert kernel[0, 2, 5, 7] == arrays["layer2.0.conv1.weight"][7, 5, 0, 2]
    matrix = variables["params"]["linear"]["linear"]["kernel"]
    np.testing.assert_array_equal(matrix, arrays["linear.weight"].T)
    stored = variables["batch_stats"]["relu"]["bn1"]
    np.testing.assert_array_equal(stored["var"], arrays["bn1.running_var"])


def absent(arrays):
    arrays.pop("layer2.1.bn1.running_mean")
    return "1 of 97 arrays absent: layer2.1.bn1.running_mean"


def extra(arrays):
    arrays["layer4.0.conv1.weight"] = np.zeros((3, 3), np.float32)
    return "1 arrays not used: layer4.0.conv1.weight; did you mean layer3.0.conv1.weight"


def renamed(arrays):
    arrays["layer1.0.convA.weight"] = arrays.pop("layer1.0.conv1.weight")
    return "absent: layer1.0.conv1.weight; 1 arrays not used: layer1.0.convA.weight; did you mean"


def wrong_shape(arrays):
    arrays["layer3.0.conv1.weight"] = np.zeros((64, 16, 3, 3), np.float32)
    return "layer3.0.conv1.weight is (64, 16, 3, 3), needs (64, 32, 3, 3)"


def wrong_rank(arrays):
    arrays["bn1.weight"] = np.zeros((16, 1), np.float32)
    return "bn1.weight is (16, 1), needs (16,)"


def not_finite(arrays):
    arrays["linear.bias"] = np.full(10, np.nan, np.float32)
    return "w.th has non-finite numbers in linear.bias"


def too_large(arrays):
    arrays["linear.bias"] = np.full(10, 1e300)
    return "w.th has non-finite numbers in linear.bias"


def another_network(arrays):
    arrays.clear()
    arrays |= {n: np.zeros(s, np.float32) for n, s in weight_shapes("resnet18", "timm").items()}
    return "wrong shape: layer1.0.bn1.running_mean is (64,), needs (16,), "


@pytest.mark.parametrize(
    "change",
    [absent, extra, renamed, wrong_shape, wrong_rank, not_finite, too_large, another_network],
)
def test_what_does_not_fit_lists_both_sides(change, arrays, targets):
    changed = dict(arrays)
    said = change(changed)
    with pytest.raises(ConvertError) as raised:
        convert(changed, targets(NAME), SPEC, "w.th")
    text = str(raised.value)
    assert said in text and text.startswith("w.th ") and "\n" not in text
    if change not in (not_finite, too_large):
        assert text.startswith("w.th does not fit the network cifar_resnet20: ")


def test_unknown_style_is_suggested(targets):
    with pytest.raises(ConvertError, match=r"no weights of style 'timms'; did you mean timm\?"):
        to_source({"params": {}}, get("resnet18"), "timms")
    with pytest.raises(ConvertError, match=r"\(it has timm\)"):
        to_source({"params": {}}, get("vit_s16"), "torchvision")


def test_pixels_scaled_for_another_library_are_not_taken(targets):
    """timm's transformer and torchvision's differ in nothing but names and pixels."""
    spec = get("vit_b16")
    arrays = {n: np.zeros(()) for n in weight_shapes("torch_vit_b16", "torchvision")}
    with pytest.raises(ConvertError, match="150 of 150 arrays absent"):
        convert(arrays, targets("vit_b16"), spec, "vit_b_16.pth")


def test_counters_and_foreign_classifiers_are_passed_over(arrays, targets):
    plain = {n: a for n, a in arrays.items() if not n.endswith("num_batches_tracked")}
    assert len(plain) == 97 and len(arrays) == 116
    a, _ = convert(arrays, targets(NAME), SPEC, "w")
    b, _ = convert(plain, targets(NAME), SPEC, "w")
    assert tree.digest(tree.flatten(a)) == tree.digest(tree.flatten(b))
    spec = get("convnext_tiny")
    assert counted("head.norm.weight", spec) and not counted("head.fc.weight", spec)
    assert counted("classifier.0.bias", spec) and not counted("classifier.2.bias", spec)
    assert not counted("bn1.num_batches_tracked", SPEC) and counted("linear.bias", SPEC)
    assert not counted("fc.weight", get("resnet18")) and counted("bn1.weight", get("resnet18"))


@pytest.mark.parametrize(
    "write", [write_pth, lambda path, arrays: write_legacy(path, arrays, wrapped=True)]
)
def test_recognised_by_its_arrays_alone(write, arrays, tmp_path):
    spec, weights = recognise(write(tmp_path / "w.pth", arrays))
    assert spec.name == NAME and weights.certificate["left_out"] == []
    assert weights.notes == ()


@pytest.mark.parametrize(
    ("name", "style"),
    [("torch_mobilenet_v2_1.0", "timm"), ("torch_efficientnet_b0", "torchvision")],
)
def test_recognised_in_either_style(name, style, tmp_path):
    spec, weights = recognise(write_pth(tmp_path / "w.bin", torch_arrays(name, style)))
    assert spec.name == name and len(weights.certificate["left_out"]) == 2
    assert weights.certificate["parameters"] == spec.parameters


def test_official_file_is_found_by_name(arrays, tmp_path):
    path = write_official(tmp_path, SPEC.source.file_name, arrays)
    assert read_torch(path).keys() == arrays.keys()
    weights = load_weights(SPEC, SPEC.chain(), "official", str(tmp_path))
    # Same name, other bytes than the published: said.
    (note,) = weights.notes
    assert "not the published 12fca82f" in note and "a local file" in weights.source
    plain = convert_file(SPEC, SPEC.chain(), path)
    assert tree.digest(tree.flatten(plain.variables)) == tree.digest(
        tree.flatten(weights.variables)
    )


def test_keras_weights_are_told_apart(tmp_path, arrays):
    path = write_pth(tmp_path / "w.pth", arrays)
    with pytest.raises(ConvertError, match="it has torch weights, vgg16 needs keras ones"):
        convert_file(get("vgg16"), get("vgg16").chain(), path)


def test_every_form_of_the_table_is_known():
    assert {s.form for s in ZOO.values()} >= {"keras", "torch"}
    for spec in ZOO.values():
        assert callable(form(spec.form).convert) and callable(form(spec.form).counted)
    for name in NETWORKS:
        assert styles(get(name)) and torch_form.counted("x.weight", get(name))
