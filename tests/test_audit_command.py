"""`python -m tlflax.audit`: what is printed and written, the exit code, no jax."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from tiny import ROOT, command, write_stripes

from tlflax import audit
from tlflax.errors import ConfigError, DataError


@pytest.fixture
def folder(tmp_path):
    return write_stripes(tmp_path / "d", {"train": 4, "test": 2})


def run(*arguments):
    return audit.main(["audit", *map(str, arguments)])


def test_clean_set_exits_with_0_and_lists_the_classes(folder, capsys):
    run(folder)
    out = capsys.readouterr().out
    assert f"folder:{folder}: 18 images, 3 classes" in out
    assert "diagonal                  4        2" in out and "largest / smallest      1.0" in out
    assert "must be changed: nothing" in out and "width x height: min 20 x 20" in out


def test_leak_exits_with_2(folder, tmp_path):
    shutil.copy(folder / "train/vertical/000.png", folder / "test/vertical/x.png")
    out = tmp_path / "audit.json"
    done = command("tlflax.audit", f"folder:{folder}", "--out", str(out))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.strip() == "error: 1 thing must be changed: see above"
    assert "test/vertical/x.png = train/vertical/000.png" in done.stdout
    found = json.loads(out.read_text())
    assert found["must_change"] and found["findings"][0]["kind"] == "leak"


@pytest.mark.skipif(sys.platform == "darwin", reason="file names are UTF-8 there")
def test_a_file_name_that_is_no_text(folder, tmp_path):
    odd = os.fsencode(folder / "train/vertical") + b"/caf\xe9.png"
    with open(odd, "wb") as file:
        file.write(b"no picture")
    out = tmp_path / "audit.json"
    # Without it this depends on the locale of the tests.
    done = command("tlflax.audit", str(folder), "--out", str(out), PYTHONIOENCODING="utf-8")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "train/vertical/caf\\udce9.png" in done.stdout
    (found,) = (f for f in json.loads(out.read_text())["findings"] if f["severity"] == "error")
    assert os.fsencode(found["files"][0]).startswith(b"train/vertical/caf\xe9.png: not an image")


def test_long_lists_are_cut_and_complete_in_the_json(folder, tmp_path, capsys):
    run(folder, "--out", tmp_path / "a.json")
    out = capsys.readouterr().out
    assert "... 14 more (--out lists all)" in out and "written: " in out
    small = next(f for f in json.loads((tmp_path / "a.json").read_text())["findings"]
                 if f["kind"] == "small")  # fmt: skip
    assert len(small["files"]) == small["count"] == 18


def test_options(folder, capsys):
    run(folder, "--split", "test", "--image_size", "16", "--no-look-alikes")
    out = capsys.readouterr().out
    assert ": 6 images" in out and "below 16" not in out and "train" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--image_size", "0"), "at least 1"),
        (("--out", "/nowhere/a.json"), "no folder"),
        (("--split", "trian"), "did you mean train"),
    ],
)
def test_wrong_options(folder, arguments, message):
    with pytest.raises(ConfigError, match=message):
        run(folder, *arguments)


def test_layout_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="no class folders"):
        run(tmp_path)


def test_many_classes_are_cut(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(audit, "_CLASSES", 2)
    run(write_stripes(tmp_path / "d", {"train": 2}))
    assert "... 1 more classes (--out lists all)" in capsys.readouterr().out


def test_needs_no_jax(folder):
    code = (
        "import sys; from tlflax.audit import main; main(['audit', sys.argv[1]]);"
        "print('|', *(m for m in sys.modules if '.' not in m))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        capture_output=True, text=True, cwd=ROOT, check=True,
    )  # fmt: skip
    loaded = set(done.stdout.rsplit("|", 1)[1].split())
    assert not loaded & {"jax", "flax", "tensorflow", "tensorflow_datasets", "matplotlib"}


@pytest.mark.real
def test_real_sets(real):
    """7,430 photos: no copy pixel for pixel, and three pairs that are one photo each."""
    from tlflax.data.audit import examine

    pairs = {}
    for folder in sorted((real / "datasets").iterdir()):
        report = examine(str(folder))
        assert not report.failed
        assert {f.kind for f in report.findings} <= {"small", "alike"}
        pairs[folder.name] = [p for f in report.findings if f.kind == "alike" for p in f.files]
    assert pairs == {
        "cats_vs_dogs": ["train/dogs/dog.74.jpg = train/dogs/dog.180.jpg"],
        "cifar10": ["train/deer/0231.jpg = train/deer/0066.jpg"],
        "flowers5": [],
        "food101_10": [],
        "potato_leaf": ["train/LateBlight/LateB_700.jpg = train/LateBlight/LateB_379.jpg"],
    }
