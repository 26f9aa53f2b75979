import copy
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tiny
from exported_runs import CLASSES, write_run
from tiny import quick_compilation  # noqa: F401

from tlflax import tree
from tlflax.data.decode import Resize, resize
from tlflax.errors import ConvertError, DataError
from tlflax.export import export_run, stablehlo
from tlflax.predict import Predictor

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    # BatchNorm, a hidden layer, grey input prepared inside.
    return write_run(
        tmp_path_factory.mktemp("stablehlo"), "glyph_cnn", 16, hidden=(5,), activation="gelu"
    )


@pytest.fixture(scope="module")
def made(run_dir):
    """The file and what was said of it."""
    return export_run(run_dir, "stablehlo")


def photos(number, side=16):
    return np.random.default_rng(4).integers(0, 256, (number, side, side, 3), dtype=np.uint8)


def test_answers_as_the_run_for_any_batch(run_dir, made):
    path, lines = made
    assert path == run_dir / "model.stablehlo.zip"
    bundle, predictor = stablehlo.load(path), Predictor.open(run_dir)
    assert bundle.classes == CLASSES and bundle.image_size == 16
    for number in (1, 2, 7):
        found = bundle(photos(number))
        assert found.shape == (number, 3) and found.dtype == np.float32
        # One program on one device; only the vector code of another batch shape may differ.
        wanted = predictor.predict(photos(number)).probabilities
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert "reloaded with jax" in lines[0] and "on cpu" in lines[0]
    assert lines[-1] == "exported for cuda, tpu too; not run there"


def test_contract_is_all_that_is_needed(run_dir, made):
    contract = stablehlo.load(made[0]).contract
    assert contract["classes"] == list(CLASSES) and contract["image_size"] == 16
    assert contract["input"] == {"dtype": "uint8", "shape": ["b", 16, 16, 3], "channels": "RGB"}
    assert contract["output"]["shape"] == ["b", 3]
    assert contract["platforms"] == ["cpu", "cuda", "tpu"]
    assert contract["preprocessing"]["inside"] is True
    assert contract["run"]["backbone"] == "glyph_cnn"
    assert contract["run"]["endpoint"] == "block3_pool"
    assert contract["run"]["best"] == {"step": 7}
    assert len(contract["run"]["model_sha256"]) == 64
    assert {"jax", "flax", "tlflax"} <= set(contract["exported_with"])
    # Its resize rule, applied by hand, gives what `predict` does with an image of any size.
    rule = Resize(**contract["resize"])
    prepared = np.stack([resize(p, 16, rule) for p in photos(3, 41)])
    wanted = Predictor.open(run_dir).predict(photos(3, 41)).probabilities
    np.testing.assert_allclose(stablehlo.load(made[0])(prepared), wanted, rtol=1e-5)


def test_jax_alone_is_enough(run_dir, made, tmp_path):
    np.save(tmp_path / "x.npy", photos(2))
    code = f"""
import io, sys, zipfile
import jax.export
import numpy as np
x = np.load({str(tmp_path / "x.npy")!r})
raw = zipfile.ZipFile({str(made[0])!r}).read("function.jax_export")
bare = jax.export.deserialize(raw).call(x)
from tlflax.export.stablehlo import load
ours = load({str(made[0])!r})(x)
assert not {{"flax", "optax", "orbax", "PIL", "cv2", "safetensors"}} & set(sys.modules)
np.save({str(tmp_path / "y.npy")!r}, [bare, ours])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False,
        env=tiny.environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    wanted = Predictor.open(run_dir).predict(photos(2)).probabilities
    for found in np.load(tmp_path / "y.npy"):
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_lowered_for_every_platform(tmp_path):
    """Our depthwise convolution has a branch per platform: all must be in the file."""
    from jax import export

    run = write_run(tmp_path, "mobilenet_v2_0.35", 32, endpoint="block_1_project_BN")
    path, _ = export_run(run, "stablehlo")
    with zipfile.ZipFile(path) as archive:
        exported = export.deserialize(bytearray(archive.read("function.jax_export")))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    text = exported.mlir_module()
    assert "feature_group_count = 48" in text  # the native one, for cuda and tpu
    assert text.count("stablehlo.slice") >= 2 * 9  # nine shifted taps in both layers, for cpu


def test_equal_runs_give_equal_files_without_paths(run_dir, made, tmp_path):
    again, _ = export_run(run_dir, "stablehlo", tmp_path / "again.zip")
    assert again.read_bytes() == made[0].read_bytes()
    with zipfile.ZipFile(again) as archive:
        for name in archive.namelist():
            assert str(ROOT).encode() not in archive.read(name)
        assert b".py" not in archive.read("function.jax_export")


def test_what_answers_otherwise_is_not_kept(run_dir, tmp_path, monkeypatch):
    real = stablehlo.write

    def write(trained, path):
        other = copy.copy(trained)
        flat = tree.flatten(trained.variables)
        flat["params/head/logits/kernel"] = flat["params/head/logits/kernel"] * 1.001
        other.variables = tree.unflatten(flat)
        real(other, path)

    monkeypatch.setattr(stablehlo, "write", write)
    (tmp_path / "old.zip").write_text("what was there before")
    with pytest.raises(ConvertError, match="does not answer as the run does"):
        export_run(run_dir, "stablehlo", tmp_path / "old.zip")
    assert (tmp_path / "old.zip").read_text() == "what was there before"
    assert [p.name for p in tmp_path.iterdir()] == ["old.zip"]


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 16, 16, 3), np.float32),
        np.zeros((2, 20, 20, 3), np.uint8),
        np.zeros((16, 16, 3), np.uint8),
        np.zeros((2, 16, 16, 1), np.uint8),
    ],
)
def test_other_images_are_refused(made, images):
    with pytest.raises(DataError, match=r"RGB uint8 \[b, 16, 16, 3\], got .*contract\['resize'\]"):
        stablehlo.load(made[0])(images)


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {n: archive.read(n) for n in archive.namelist()}


def bad_files(made):
    good = members(made)
    contract, function = good["contract.json"], good["function.jax_export"]
    other = json.dumps(json.loads(contract) | {"format": "other"}).encode()
    return {
        "truncated": made.read_bytes()[:-200],
        "text": b"no zip",
        "no function": {"contract.json": contract},
        "no contract": {"function.jax_export": function},
        "no json": {"contract.json": b"{", "function.jax_export": function},
        "a list": {"contract.json": b"[]", "function.jax_export": function},
        "another kind": {"contract.json": other, "function.jax_export": function},
        "cut": {"contract.json": contract, "function.jax_export": function[: len(function) // 2]},
        "garbage": {"contract.json": contract, "function.jax_export": b"\1\2\3"},
        "empty": {"contract.json": contract, "function.jax_export": b""},
    }


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("truncated", "cannot read"),
        ("text", "cannot read"),
        ("no function", "cannot read"),
        ("no contract", "cannot read"),
        ("no json", "cannot read"),
        ("a list", "has no contract of the kind"),
        ("another kind", "has no contract of the kind"),
        ("cut", "this jax cannot read the function"),
        ("garbage", "this jax cannot read the function"),
        ("empty", "this jax cannot read the function"),
    ],
)
def test_bad_files(made, tmp_path, case, words):
    content, path = bad_files(made[0])[case], tmp_path / "bad.zip"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in content.items():
                archive.writestr(name, data)
    with pytest.raises(ConvertError, match=words):
        stablehlo.load(path)


def test_absent_file(tmp_path):
    with pytest.raises(ConvertError, match="cannot read"):
        stablehlo.load(tmp_path / "none.zip")
