import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parents[2] / "scripts" / "prepare_data.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("prepare_data", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_tensorflow_one_line_says_what_to_install(script, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert script.main(["cifar10"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "pip install -e '.[tf]'" in error


def test_unknown_name_suggests(script, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert script.main(["cifar_10"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "cifar10" in error


class FakeBuilder:
    data_dir = "somewhere/tiny/1.0.0"

    def __init__(self, error=None):
        self.error = error

    def download_and_prepare(self):
        if self.error:
            raise self.error


def run_with(script, monkeypatch, builder):
    import tensorflow_datasets as tfds

    asked = {}

    def make(name, **options):
        asked.update(options, name=name)
        return builder

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(tfds, "builder", make)
    return script.main(["tiny", "--data-dir", "here"]), asked


def test_prepares_array_record_in_the_folder_asked_for(script, monkeypatch, capsys):
    code, asked = run_with(script, monkeypatch, FakeBuilder())
    assert code == 0 and "--config.data=tfds:tiny" in capsys.readouterr().out
    assert asked == {"name": "tiny", "data_dir": "here", "file_format": "array_record"}


def test_failed_download_is_one_line(script, monkeypatch, capsys):
    code, _ = run_with(script, monkeypatch, FakeBuilder(ConnectionError("no route\nto host")))
    error = capsys.readouterr().err
    assert code == 2 and error == "error: 'tiny' could not be downloaded: no route\n"
