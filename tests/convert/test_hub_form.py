"""Variables of TensorFlow Hub's modules: placed totally, whatever scope they are below."""

import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hub_layout import draw, slim_arrays
from keras_layout import draw_image, inventory

from tlflax import tree
from tlflax.backbones import inventory as backbone_inventory
from tlflax.backbones.table import ZOO, get
from tlflax.convert import hub_form, saved_model
from tlflax.convert.__main__ import recognise
from tlflax.convert.certificate import against_framework, outputs
from tlflax.convert.readers import WeightFile
from tlflax.convert.saved_model import SavedModel
from tlflax.convert.store import convert_arrays, load_weights
from tlflax.errors import ConvertError

TESTS = Path(__file__).resolve().parents[1]
RESNET = "hub_resnet50_v2"
HUB = [spec.name for spec in ZOO.values() if spec.form == "hub"]


def flat_target(name):
    target = inventory(name)[0]
    return {f"{c}/{p}": x.shape for c in target for p, x in tree.flatten(target[c]).items()}


def hub_arrays(name):
    """A module's variables, drawn by name; for ResNet from slim's own list of names."""
    if name == RESNET:
        return slim_arrays()
    shapes = flat_target(name)
    names = hub_form._source_names(get(name), shapes)
    arrays = {}
    for path, variable in names.items():
        shape = shapes[path]
        if variable.endswith("depthwise_kernel"):
            shape = (*shape[:2], shape[3], shape[2])
        arrays[variable] = draw(variable, shape)
    return arrays


@pytest.fixture(scope="module")
def arrays():
    return slim_arrays()


def convert(arrays, name=RESNET):
    return hub_form.convert(arrays, inventory(name)[0], get(name), "the module")


@pytest.mark.parametrize("scope", ["", "module/", "hub_module/", "keras_layer/variables/"])
@pytest.mark.parametrize("suffix", ["", ":0"])
def test_any_scope_and_tensor_names_are_accepted(scope, suffix, arrays):
    found, dropped = convert({f"{scope}{n}{suffix}": a for n, a in arrays.items()})
    assert dropped == [] and tree.count(tree.flatten(found)) == 23_564_800
    stem = found["params"]["pool1_pool"]["conv1_conv"]["kernel"]
    np.testing.assert_array_equal(stem, arrays["resnet_v2_50/conv1/weights"])
    stats = found["batch_stats"]["conv4_block6_out"]["conv4_block6_2_bn"]["var"]
    np.testing.assert_array_equal(
        stats,
        arrays["resnet_v2_50/block3/unit_6/bottleneck_v2/conv2/BatchNorm/moving_variance"],
    )


@pytest.mark.parametrize("scope", ["", "module/"])
def test_the_classifier_is_left_out(scope, arrays):
    top = {"resnet_v2_50/logits/weights": np.ones((1, 1, 2048, 1001), np.float32)}
    top["resnet_v2_50/logits/biases"] = np.ones(1001, np.float32)
    file = {f"{scope}{n}": a for n, a in (arrays | top).items()}
    found, dropped = convert(file)
    assert dropped == [f"{scope}{n}" for n in top]
    assert tree.count(tree.flatten(found)) == 23_564_800
    own = [n for n in file if hub_form.counted(n, get(RESNET))]
    assert sum(file[n].size for n in own) == get(RESNET).parameters
    assert len(own) == len(file) - 2


CONV2 = "resnet_v2_50/block2/unit_1/bottleneck_v2/conv2/weights"


def lacking(arrays):
    return {n: a for n, a in arrays.items() if n != CONV2}, f"1 of 270 variables absent: {CONV2}"


def extra(arrays):
    name = "resnet_v2_50/block2/unit_5/bottleneck_v2/conv2/weights"
    found = arrays | {name: np.zeros(3, np.float32)}
    return found, f"1 variables not used: {name}; did you mean resnet_v2_50/block"


def wrong_shape(arrays):
    changed = arrays | {CONV2: arrays[CONV2][:, :, :-1]}
    return changed, f"wrong shape: {CONV2} is (3, 3, 127, 128), needs (3, 3, 128, 128)"


def not_finite(arrays):
    broken = arrays[CONV2].copy()
    broken[0, 0, 0, 0] = np.nan
    return arrays | {CONV2: broken}, f"non-finite numbers in {CONV2}"


def other_network(arrays):
    found = {n.replace("resnet_v2_50", "resnet_v1_50"): a for n, a in arrays.items()}
    return found, "270 of 270 variables absent: resnet_v2_50/block1/"


def deeper(arrays):
    scope = "resnet_v2_50/block3/unit_"
    more = {n.replace(f"{scope}6", f"{scope}7"): a for n, a in arrays.items() if f"{scope}6" in n}
    return arrays | more, "not used: resnet_v2_50/block3/unit_7/"


@pytest.mark.parametrize("damage", [lacking, extra, wrong_shape, not_finite, other_network, deeper])
def test_what_does_not_fit_is_refused_in_one_line(damage, arrays):
    file, said = damage(arrays)
    with pytest.raises(ConvertError) as error:
        convert(file)
    assert said in str(error.value) and "the module" in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 900


def test_keras_weights_are_not_taken_for_a_module(arrays):
    spec, target = get(RESNET), inventory(RESNET)[0]
    with pytest.raises(ConvertError, match=f"it has keras weights, {RESNET} needs hub ones"):
        convert_arrays(spec, target, WeightFile("keras", arrays), Path("w.h5"))


@pytest.mark.parametrize("name", HUB)
def test_every_module_is_placed_by_its_own_names(name):
    file = hub_arrays(name)
    found, dropped = convert(file, name)
    shapes = flat_target(name)
    names = hub_form._source_names(get(name), shapes)
    flat = tree.flatten(found)
    assert set(flat) == set(shapes) and dropped == []
    assert len(set(names.values())) == len(names) == len(file)
    for path, array in flat.items():
        source = file[names[path]]
        if source.shape != array.shape:
            # The one change of layout: [kh, kw, C, 1] -> [kh, kw, 1, C].
            source = source.transpose(0, 1, 3, 2)
        np.testing.assert_array_equal(array, source)
    assert tree.count(flat) == get(name).parameters


def test_depthwise_kernels_change_their_layout():
    kernel = np.arange(18.0).reshape(3, 3, 2, 1)
    np.testing.assert_array_equal(hub_form._fitted(kernel, (3, 3, 1, 2))[..., 0, :], kernel[..., 0])
    # A convolution of one channel to one is itself; others keep their order.
    assert hub_form._fitted(kernel, (3, 3, 2, 1)) is kernel


def saved(tmp_path, monkeypatch, name, scope):
    """A folder that reads as a module with drawn variables."""
    folder = tmp_path / get(name).source.file_name
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"pb")
    (folder / "variables" / "variables.index").write_bytes(b"index")
    file = hub_arrays(name)
    found = {f"variables/{i}": a for i, a in enumerate(file.values())}
    names = dict(zip(found, (f"{scope}{n}" for n in file), strict=True))
    monkeypatch.setattr(
        saved_model, "open_saved_model", lambda path: SavedModel(found, names, (), [])
    )
    target = inventory(name)[0]
    monkeypatch.setattr(backbone_inventory, "abstract_variables", lambda chain, size: target)
    return folder, file


def test_an_official_folder_is_found_in_weights_dir_and_recognised(tmp_path, monkeypatch):
    folder, _ = saved(tmp_path, monkeypatch, RESNET, "module/")
    spec = get(RESNET)
    weights = load_weights(spec, spec.chain(), "official", str(tmp_path))
    assert "resnet_v2_50_feature_vector" in weights.source
    assert weights.certificate["parameters"] == spec.parameters
    found, again = recognise(folder)
    assert found.name == RESNET and again.sha256 == weights.sha256


def test_sources_are_those_of_kaggle():
    for name in HUB:
        source = get(name).source
        parts = source.url.removeprefix("kaggle:").split("/")
        # kagglehub: OWNER/MODEL/FRAMEWORK/VARIATION/VERSION
        assert source.url.startswith("kaggle:") and len(parts) == 5 and parts[4].isdigit()
        assert parts[2] == "tensorFlow2" and source.file and "/" not in source.file


# ---- with TensorFlow ----


@pytest.mark.tf
def test_modules_through_tensorflow_and_every_layer_of_resnet(tmp_path):
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("tensorflow is not installed")
    np.save(tmp_path / "images.npy", draw_image(64))
    jobs, expected = [], {}
    for name in HUB:
        expected[name] = hub_arrays(name)
        np.savez(tmp_path / f"{name}.npz", **expected[name])
        jobs += [(name, "tf2")] + [(name, "tf1")] * (name == RESNET)
    out = tmp_path / "layers.npz"
    words = ["run", tmp_path / f"{RESNET}.npz", tmp_path / "images.npy", out]
    folders = {job: tmp_path / "-".join(job) for job in jobs}
    for (name, layout), folder in folders.items():
        words += [layout, tmp_path / f"{name}.npz", folder]
    done = subprocess.run(
        [sys.executable, str(TESTS / "hub_tensorflow.py"), *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for (name, layout), folder in folders.items():
        weights = convert_arrays(
            get(name),
            inventory(name)[0],
            WeightFile("hub", saved_model.read_saved_model(folder)),
            folder,
        )
        flat, direct = tree.flatten(weights.variables), convert(expected[name], name)[0]
        assert all(np.array_equal(flat[p], a) for p, a in tree.flatten(direct).items())
        assert weights.certificate["parameters"] == get(name).parameters
        if (name, layout) == (RESNET, "tf2"):
            # What --verify does: the module's own graph, run by TensorFlow, against our chain.
            base = weights.certificate
            chain = get(name).chain()
            found = against_framework(get(name), chain, weights.variables, base, folder)
            assert found["method"] == "hub" and list(found["endpoints"]) == ["post_relu"]
            assert found["endpoints"]["post_relu"]["max_rel"] < 1e-5
            assert "tensorflow" in found["versions"]
    with np.load(out) as file:
        reference = {k: file[k] for k in file.files}
    resnet = convert(expected[RESNET])[0]
    found = outputs(get(RESNET).chain(), resnet, draw_image(64), set(reference))
    assert set(found) == set(reference) and len(found) == 168
    for layer, array in found.items():
        worst = np.abs(array - reference[layer]).max() / np.abs(reference[layer]).max()
        # Float32 sums in another order, through 50 layers.
        assert worst <= 1e-5, f"{layer} is off by {worst:.1e}"
    assert "tensorflow" not in sys.modules
