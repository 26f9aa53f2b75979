import sys

import pytest

from tlflax import zoo
from tlflax.backbones.table import ZOO, get
from tlflax.command import run_command
from tlflax.errors import ConfigError


def _size(spec):
    return -(spec.parameters or 0)


def run(capsys, *args):
    zoo.main(["zoo", *args])
    return capsys.readouterr().out


def test_table_lists_every_network(capsys):
    lines = run(capsys).splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(ZOO)
    for spec, line in zip(ZOO.values(), lines[1:], strict=True):
        if spec.parameters:
            assert f"{spec.parameters:,}" in line
        assert (spec.source.file_name if spec.source else spec.packaged or "none") in line


# One of each architecture, the smallest; test_chain goes through every entry.
@pytest.mark.parametrize(
    "name", {s.build: s.name for s in sorted(ZOO.values(), key=_size)}.values()
)
def test_details_of_each(name, capsys):
    spec, out = ZOO[name], run(capsys, name, "--size", str(max(48, ZOO[name].min_size)))
    for block in spec.chain():
        assert f"\n{block} " in out
    if spec.parameters:
        assert f"{name}: {spec.parameters:,} parameters" in out
    assert spec.licence in out and "\ninput: " in out


def test_details_say_what_a_layer_is(capsys):
    out = run(capsys, "mobilenet_v2_1.0")
    (line,) = [line for line in out.splitlines() if line.startswith("block_13_project_BN ")]
    words = line.split()
    # 96 -> 576 (1x1), 576 (3x3), 576 -> 160 (1x1), and 4 numbers per BatchNorm channel.
    assert 96 * 576 + 9 * 576 + 576 * 160 + 4 * (576 + 576 + 160) == 157_888
    assert words[1:4] == ["7x7x160", "32", "157,888"] and "block_13_expand_relu," in words
    assert " block_13, features.14, blocks.5.0 " in line
    out = run(capsys, "vgg16", "--size", "150")
    (line,) = [line for line in out.splitlines() if line.startswith("block4_pool ")]
    assert line.split()[1:4] == ["9x9x512", "17", "0"]


def test_missing_width_means_one(capsys):
    assert run(capsys, "mobilenet_v2", "--size", "32").startswith("mobilenet_v2_1.0: 2,257,984")
    assert get("mobilenetv2") is get("mobilenet_v2") is ZOO["mobilenet_v2_1.0"]
    assert get("mobilenet_v2_0.50") is ZOO["mobilenet_v2_0.5"]
    assert get("mobilenet") is ZOO["mobilenet_1.0"] and get("resnet50v2") is ZOO["resnet50_v2"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vgg61", "did you mean vgg19, vgg16"),
        ("VGG16", "here it is called vgg16"),
        ("mobilenetv2_100", "here it is called mobilenet_v2_1.0"),
        ("mobilenet_v2_0.3", "did you mean mobilenet_v2_0.35"),
        ("mobilenet_0.3", "did you mean mobilenet_"),
        ("ResNet50V2", "here it is called resnet50_v2"),
        ("xception", "(all: vgg16, vgg19"),
        ("MobileNetV2", "here it is called mobilenet_v2_1.0"),
    ],
)
def test_unknown_name_is_one_line_and_exit_code_2(name, said, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["zoo", name])
    with pytest.raises(SystemExit) as stopped:
        run_command(zoo.main)
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert error.startswith(f"error: unknown backbone '{name}'") and error.count("\n") == 1
    assert said in error and "python -m tlflax.zoo" in error


def test_too_small_a_size(capsys):
    with pytest.raises(ConfigError, match=r"--size 31 is below the smallest size of vgg16, 32"):
        run(capsys, "vgg16", "--size", "31")
    for size in ("0", "-5"):
        with pytest.raises(ConfigError, match="below the smallest size"):
            run(capsys, "vgg16", "--size", size)


def test_specs_are_consistent():
    for name, spec in ZOO.items():
        assert spec.name == name and spec.licence
        assert spec.source or spec.packaged or name == "simple_cnn"
        assert spec.min_size <= spec.size
        assert len({len(spec.contract.mean), len(spec.contract.std)}) == 1 or name == "glyph_cnn"
        if spec.source:
            # Folders of Kaggle and files of the Hugging Face hub have no name that tells.
            assert spec.source.file or spec.source.url.endswith(spec.source.file_name)
            assert spec.top1 or name == "hub_efficientnet_b0"
            kind, _, digits = (spec.source.hash or "none:").partition(":")
            assert len(digits) == {"none": 0, "md5": 32, "sha256": 64, "sha256-prefix": 8}[kind]
