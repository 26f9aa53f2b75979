"""Export to timm's and torchvision's names; the live frameworks in the `slow` test."""

import copy
import json

import numpy as np
import pytest
from exported_runs import CLASSES, write_run
from safetensors import safe_open
from tiny import quick_compilation  # noqa: F401

from tlflax import tree
from tlflax.backbones.table import get
from tlflax.convert.__main__ import main as convert
from tlflax.convert.store import convert_file
from tlflax.errors import ConfigError, ConvertError
from tlflax.export import export_run
from tlflax.export import torch as exporter
from tlflax.export.trained import Trained


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("torch") / "run", "cifar_resnet20", 32)


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("torch") / "run", "torch_mobilenet_v2_1.0", 32)


def opened(path):
    with safe_open(path, "numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}
        return arrays, file.metadata()


def test_names_layout_and_contract(run_dir):
    path, lines = export_run(run_dir, "torch")
    assert path == run_dir / "model.torch.safetensors"
    assert "bit by bit the run's; akamaster names" in lines[0]
    arrays, metadata = opened(path)
    assert arrays["conv1.weight"].shape == (16, 3, 3, 3)
    assert arrays["layer2.0.bn1.running_var"].shape == (32,)
    assert arrays["layer2.0.bn1.num_batches_tracked"].dtype == np.int64
    trained = Trained(run_dir / "model.safetensors")
    logits = trained.variables["params"]["head"]["logits"]
    np.testing.assert_array_equal(arrays["linear.weight"], logits["kernel"].T)
    np.testing.assert_array_equal(arrays["linear.bias"], logits["bias"])
    assert metadata["format"] == "pt"
    contract = json.loads(metadata["tlflax"])
    assert contract["classes"] == list(CLASSES) and contract["names"] == "akamaster"
    assert contract["preprocessing"]["inside"] is False
    assert contract["preprocessing"]["std"] == list(get("cifar_resnet20").contract.std)


@pytest.mark.parametrize(
    ("style", "classifier", "first"),
    [
        ("", "classifier.1", "features.0.0.weight"),
        ("timm", "classifier", "conv_stem.weight"),
    ],
)
def test_styles(mobilenet, tmp_path, style, classifier, first):
    options = {"style": style} if style else {}
    path, _ = export_run(mobilenet, "torch", tmp_path / "m.safetensors", **options)
    arrays, _ = opened(path)
    assert arrays[f"{classifier}.weight"].shape == (3, 1280) and arrays[first].ndim == 4
    # What was exported is a weight file like any other: it converts, the classifier left out.
    spec = get("torch_mobilenet_v2_1.0")
    again = convert_file(spec, spec.chain(), path).variables
    ours = Trained(mobilenet / "model.safetensors").backbone()
    for collection in ours:
        a, b = tree.flatten(again[collection]), tree.flatten(ours[collection])
        assert a.keys() == b.keys() and all(np.array_equal(a[p], b[p]) for p in a)


def test_convert_recognises_the_file(mobilenet, tmp_path, capsys):
    path, _ = export_run(mobilenet, "torch", tmp_path / "m.safetensors")
    convert(["convert", str(path), str(tmp_path / "c.safetensors")])
    assert "torch_mobilenet_v2_1.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("endpoint", "head", "words"),
    [
        ("layer2", {}, "it is cut at layer2_2, theirs ends at layer3_2"),
        ("auto", {"hidden": (5, 4)}, "its head has 2 hidden layers, theirs has none"),
        ("auto", {"head": "flatten"}, "its head is 'flatten', theirs takes the mean"),
    ],
)
def test_what_they_cannot_hold(endpoint, head, words, tmp_path):
    run = write_run(tmp_path, "cifar_resnet20", 32, endpoint, **head)
    with pytest.raises(ConvertError, match=f"{words}.*--format stablehlo"):
        export_run(run, "torch")
    assert [p.name for p in run.iterdir()] == ["model.safetensors"]


def test_unknown_style(mobilenet):
    with pytest.raises(ConfigError, match=r"style 'tim'; did you mean timm\? \(it has torchv"):
        export_run(mobilenet, "torch", style="tim")
    with pytest.raises(ConfigError, match="style is for --format torch, not for stablehlo"):
        export_run(mobilenet, "stablehlo", style="timm")


@pytest.mark.parametrize("leaf", ["head/logits/bias", "backbone/layer3_2/layer3_2_conv2/kernel"])
def test_one_number_off_is_not_kept(run_dir, tmp_path, monkeypatch, leaf):
    real = exporter.write

    def write(trained, path):
        other, flat = copy.copy(trained), tree.flatten(trained.variables)
        changed = flat[f"params/{leaf}"].copy()
        changed.flat[0] = np.nextafter(changed.flat[0], np.float32(9))
        flat[f"params/{leaf}"] = changed
        other.variables = tree.unflatten(flat)
        real(other, path)

    monkeypatch.setattr(exporter, "write", write)
    with pytest.raises(ConvertError, match="does not hold the run's weights"):
        export_run(run_dir, "torch", tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


# (network, side, style); 64 is no multiple of what the transformers were trained at.
LIVE = [
    ("cifar_resnet20", 32, "akamaster"),
    ("resnet18", 64, "torchvision"),
    ("resnet18", 64, "timm"),
    ("torch_mobilenet_v2_1.0", 64, "torchvision"),
    ("torch_mobilenet_v2_1.0", 64, "timm"),
    ("torch_efficientnet_b0", 64, "torchvision"),
    ("torch_efficientnet_b0", 64, "timm"),
    ("convnext_tiny", 64, "torchvision"),
    ("convnext_tiny", 64, "timm"),
    ("vit_s16", 224, "timm"),
    ("vit_s16", 64, "timm"),
    ("torch_vit_b16", 64, "torchvision"),
    ("torch_vit_b16", 64, "torchvision-2022"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "side", "style"), LIVE)
def test_the_library_answers_as_the_run(name, side, style, tmp_path, capsys):
    for package in ("torch", style.partition("-")[0]):
        if package != "akamaster":
            pytest.importorskip(package, reason=f"{package} is not installed")
    path, lines = export_run(write_run(tmp_path, name, side), "torch", style=style)
    with capsys.disabled():
        print(f"\n{name} {side} {style}", *lines, sep="\n  ")
    assert any(line.startswith(f"loaded by {style}, torch") for line in lines)
    assert any("resampled" in line for line in lines) == ("vit" in name and side != 224)
    arrays, metadata = opened(path)
    assert json.loads(metadata["tlflax"])["names"] == style and len(arrays) > 20


@pytest.mark.slow
def test_a_classifier_of_the_wrong_name_is_found(tmp_path, monkeypatch):
    pytest.importorskip("timm", reason="timm is not installed")
    run = write_run(tmp_path, "resnet18", 64)
    spec = get("resnet18")
    monkeypatch.setitem(exporter._CLASSIFIERS, ("timm", spec.name), "head")
    with pytest.raises(ConvertError, match=r"timm cannot load .*fc\.weight"):
        export_run(run, "torch", style="timm")
    assert [p.name for p in run.iterdir()] == ["model.safetensors"]
