import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tlflax.data import digits
from tlflax.data.decode import decode
from tlflax.data.source import load_dataset

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def test_digits_are_those_of_scikit_learn(cache):
    from sklearn.datasets import load_digits

    data = load_dataset("digits", cache_dir=cache)
    assert (len(data.train), len(data.val), len(data.test)) == (718, 179, 900)
    assert data.class_names == tuple("0123456789")
    assert np.bincount(data.test.labels).min() >= 85 and data.warnings == []
    bunch = load_digits()
    known = {
        np.round(x * 255 / 16).astype(np.uint8).tobytes(): int(y)
        for x, y in zip(bunch.images, bunch.target, strict=True)
    }
    for split in (data.train, data.val, data.test):
        for i in range(0, len(split), 37):
            image = decode(split.read(i), "x")
            assert image.shape == (8, 8, 3)
            assert known[image[..., 0].tobytes()] == split.labels[i]


def test_split_is_fixed(cache):
    rows = digits.examples()
    assert [len(rows["train"]), len(rows["test"])] == [897, 900]
    first = [label for _, label in rows["test"][:12]]
    assert first == [label for _, label in digits.examples()["test"][:12]]
    train, test = ({png for png, _ in rows[k]} for k in ("train", "test"))
    assert not train & test


def test_prepared_once(cache, monkeypatch):
    folder = digits.prepare(cache)
    monkeypatch.setattr(digits, "_build", None)
    assert digits.prepare(cache) == folder
    assert not list(folder.parents[1].glob(".preparing*"))


SCRIPT = """
import sys
from tlflax.data.source import load_dataset
import tlflax.data.pipeline
assert not {"jax", "grain", "tensorflow", "tensorflow_datasets"} & set(sys.modules), "imports"
data = load_dataset("digits", cache_dir=sys.argv[1])
assert "tensorflow" not in sys.modules
print(len(data.train), data.fingerprint)
"""


def test_two_processes_at_once_without_tensorflow(tmp_path):
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", SCRIPT, str(tmp_path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    results = [p.communicate(timeout=120) for p in started]
    assert [p.returncode for p in started] == [0, 0], results
    assert results[0][0] == results[1][0] and results[0][0].startswith("718 ")
    assert [err for _, err in results] == ["", ""]
    assert [p.name for p in (tmp_path / "prepared").iterdir()] == ["digits"]
