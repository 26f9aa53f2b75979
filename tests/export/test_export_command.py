import dataclasses
import tempfile

import pytest
import tiny
from exported_runs import write_run
from tiny import quick_compilation  # noqa: F401

from tlflax.errors import ConfigError, ConvertError
from tlflax.export import export_run
from tlflax.export.__main__ import main
from tlflax.export.trained import Trained


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("export") / "run", "glyph_cnn", 16)


def test_one_line_and_exit_code_2(tmp_path):
    done = tiny.command("tlflax.export", str(tmp_path / "gone"), "--format", "stablehlo")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "gone does not exist: give the directory of a finished run" in done.stderr


def test_unfinished_run(tmp_path):
    with pytest.raises(ConfigError, match="holds no run"):
        export_run(tmp_path, "stablehlo")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ConfigError, match="is not finished"):
        export_run(tmp_path, "keras")


@pytest.mark.parametrize(
    ("format", "out", "words"),
    [
        ("stablehl", None, r"unknown format 'stablehl'; did you mean stablehlo\? \(one of stable"),
        ("onnx", None, "unknown format 'onnx' .one of stablehlo, keras, torch"),
        ("stablehlo", "m.bin", "--out must end in .zip, got m.bin"),
        ("keras", "m.h5", r"--out must end in \.keras or \.weights\.h5, got m\.h5"),
        ("torch", "m.pth", r"--out must end in \.safetensors, got m\.pth"),
        ("stablehlo", "no/m.zip", "there is no folder"),
        ("stablehlo", "folder.zip", "is a folder"),
        ("torch", "run/model.safetensors", "is the run's own model"),
    ],
)
def test_refused(finished, tmp_path, format, out, words):
    (tmp_path / "folder.zip").mkdir()
    (tmp_path / "run").symlink_to(finished)
    with pytest.raises(ConfigError, match=words):
        export_run(finished, format, out and tmp_path / out)


def test_unwritable(finished, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    with pytest.raises(ConfigError, match=r"cannot write .*m\.zip: Permission denied"):
        export_run(finished, "stablehlo", tmp_path / "m.zip")


def test_the_models_file_stands_for_its_folder(finished, tmp_path, capsys):
    model = finished / "model.safetensors"
    main(["export", str(model), "--format", "stablehlo", "--out", str(tmp_path / "m.zip")])
    out = capsys.readouterr().out
    assert out.splitlines()[-1].startswith(f"written: {tmp_path / 'm.zip'} (0.")
    assert "log probabilities of 4 random image(s), relative error" in out


@pytest.mark.parametrize(
    ("form", "format", "words"),
    [
        ("keras", "torch", "glyph_cnn did not come from torch.*--format stablehlo or keras"),
        ("hub", "torch", "--format stablehlo"),
        ("graph", "torch", "--format stablehlo"),
        ("hub", "keras", "glyph_cnn is no network of keras.applications.*--format stablehlo"),
        ("torch", "keras", r"--format stablehlo \(or torch\)"),
        ("graph", "keras", "is a Keras model of your own.*--format stablehlo"),
    ],
)
def test_networks_of_another_form(finished, form, format, words, monkeypatch):
    before = {p.name for p in finished.iterdir()}
    real = Trained.__init__

    def renamed(self, path):
        real(self, path)
        self.model.spec = dataclasses.replace(self.model.spec, form=form)

    monkeypatch.setattr(Trained, "__init__", renamed)
    with pytest.raises(ConvertError, match=words):
        export_run(finished, format)
    assert {p.name for p in finished.iterdir()} == before


def test_a_backbone_is_no_run():
    from tlflax.backbones.table import get
    from tlflax.convert.store import converted_files

    with pytest.raises(ConvertError, match="holds a backbone without head"):
        export_run(converted_files(get("glyph_cnn"))[0], "stablehlo")


def test_a_run_that_was_trained(tmp_path, capsys):
    """Not written by the tests' own hand: what `tlflax.main` leaves behind."""
    from tlflax import run as runs

    config = {
        "data": f"folder:{tiny.stripes()}", "backbone": "glyph_cnn", "weights": "none",
        "image_size": 16, "batch_size": 16,
        "stages": ({"name": "a", "epochs": 1, "train": "all", "lr": 3e-3, "bn": "train"},),
    }  # fmt: skip
    runs.run(config, tmp_path / "run")
    main(["export", str(tmp_path / "run"), "--format", "stablehlo"])
    assert "written: " in capsys.readouterr().out
    from tlflax.export.stablehlo import load

    bundle = load(tmp_path / "run" / "model.stablehlo.zip")
    assert bundle.classes == tiny.CLASSES
    assert bundle.contract["run"]["best"]["step"] > 0
    assert bundle.contract["run"]["weights"]["source"].startswith("none")
