"""The live torchvision and timm networks against ours, where torch is installed."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from torch_layout import GOLDENS, NETWORKS, torch_arrays, write_official, write_pth

from tlflax.backbones.inventory import abstract_variables
from tlflax.backbones.table import get
from tlflax.convert import oracle_torch
from tlflax.convert.__main__ import main
from tlflax.convert.store import convert_file
from tlflax.convert.tensors import read_facts
from tlflax.convert.torch_file import read_torch
from tlflax.convert.torch_form import convert, to_source
from tlflax.convert.torch_names import styles
from tlflax.errors import ConvertError

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
# Networks come from either library; the 2022 names are read, but no live model has them.
STYLES = [(n, s) for n in NETWORKS for s in styles(get(n)) if s != "torchvision-2022"]


@pytest.fixture(autouse=True)
def torch():
    module = pytest.importorskip("torch", reason="torch is not installed")
    for library in ("torchvision", "timm"):
        pytest.importorskip(library, reason=f"{library} is not installed")
    return module


@pytest.fixture(scope="module")
def script():
    path = ROOT / "scripts" / "make_torch_goldens.py"
    spec = importlib.util.spec_from_file_location("make_torch_goldens", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("name", "style"), STYLES)
def test_every_element_of_every_layer(name, style, tmp_path, capsys):
    """The command's own --verify: both read the same file, all elements are compared."""
    spec, dest = get(name), tmp_path / "w.safetensors"
    arrays = torch_arrays(name, style)
    if style == styles(spec)[0]:
        source = write_official(tmp_path, spec.source.file_name, arrays)
    else:
        source = write_pth(tmp_path / "w.pth", arrays)
    main(["convert", str(source), str(dest), "--backbone", name, "--verify"])
    certificate = read_facts(dest)["certificate"]
    worst = max(e["max_rel"] for e in certificate["endpoints"].values())
    with capsys.disabled():
        count = len(certificate["endpoints"])
        print(f"\n{name}, {style}: {count} layers, largest error {worst:.1e}")
    assert certificate["method"] == "torch" and "torch" in certificate["versions"]
    assert set(spec.chain()) <= set(certificate["endpoints"])
    assert worst <= oracle_torch.TOLERANCE


@pytest.mark.parametrize("name", NETWORKS)
def test_goldens_can_be_made_again(name, script):
    for side, made in script.torch_statistics(name, NETWORKS[name].sides).items():
        with np.load(GOLDENS / f"torch_{name}_{side}.npz") as stored:
            for key in ("layers", "shapes", "parameters", "statistics"):
                assert np.array_equal(made[key], stored[key])
            # Another CPU, or another release of torch, may sum in another order.
            scale = stored["values"][:, 2:3]
            assert np.max(np.abs(made["values"] - stored["values"])[:, 1:] / scale) < 1e-4


def test_weight_table_can_be_made_again(script):
    made = script.weight_table(list(NETWORKS))
    with np.load(GOLDENS / "torch_weights.npz") as stored:
        assert set(made) == set(stored.files)
        for key, array in made.items():
            assert np.array_equal(array, stored[key])


# What torch writes today; jax's own warnings are errors in these tests.
@pytest.mark.parametrize("zipped", [True, False])
def test_files_that_torch_writes(zipped, torch, tmp_path):
    model = oracle_torch.build(get("cifar_resnet20"), "akamaster", 32)
    state = model.state_dict()
    state["linear.weight"] = torch.randn(64, 10).t()  # strides of a transposed view
    state["linear.bias"] = torch.arange(10).bfloat16()
    state["conv1.weight"] = torch.nn.Parameter(torch.randn(32, 3, 3, 3))[16:]
    optimizer = torch.optim.Adam(model.parameters())
    wrapped = {"epoch": 3, "best": torch.tensor(0.5), "optimizer": optimizer.state_dict()}
    wrapped |= {"state_dict": {f"module.{n}": v for n, v in state.items()}}
    path = tmp_path / "w.pth"
    torch.save(wrapped, path, _use_new_zipfile_serialization=zipped)
    found = read_torch(path)
    assert list(found) == list(state)
    for name, value in state.items():
        np.testing.assert_array_equal(found[name], value.detach().float().numpy())
    spec = get("cifar_resnet20")
    assert convert_file(spec, spec.chain(), path).notes == ()


@pytest.mark.parametrize("zipped", [True, False])
def test_whole_models_are_refused(zipped, torch, tmp_path):
    path = tmp_path / "w.pth"
    torch.save(torch.nn.Linear(2, 3), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ConvertError, match=r"asks for torch\.nn\.modules\.linear\.Linear.*state_"):
        read_torch(path)


@pytest.mark.parametrize(("name", "style"), STYLES)
def test_live_networks_take_what_goes_back(name, style, torch):
    """`to_source` of one style's weights loads into the other library's model, strictly."""
    spec = get(name)
    target = abstract_variables(spec.chain(), spec.min_size)
    arrays = torch_arrays(name, styles(spec)[0])
    variables, _ = convert(arrays, target, spec, name)
    arrays = to_source(variables, spec, style)
    model = oracle_torch.build(spec, style, 224)
    state = {n: torch.from_numpy(a) for n, a in arrays.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    tops = tuple(f"{top}." for top in spec.top_layers)
    assert not unexpected and all(n.startswith(tops) for n in missing)


def test_verify_finds_a_wrong_network(tmp_path, monkeypatch):
    from tlflax.backbones import torch_layers

    monkeypatch.setattr(torch_layers, "_EPSILON", 1e-2)
    source = write_official(
        tmp_path, "resnet20-12fca82f.th", torch_arrays("cifar_resnet20", "akamaster")
    )
    dest = tmp_path / "w.safetensors"
    with pytest.raises(ConvertError, match="differs from its torch first at bn1"):
        main(["convert", str(source), str(dest), "--backbone", "cifar_resnet20", "--verify"])
    assert not dest.exists()
