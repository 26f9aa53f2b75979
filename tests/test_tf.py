"""The whole way of a catalogue dataset: prepared with TensorFlow, read without it."""

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.tf

ROOT = Path(__file__).parent.parent

# Runs scripts/prepare_data.py with the dataset's own tfds code; only the download is replaced,
# by archives in the layout of the official ones.
PREPARE = """
import runpy, sys
import tensorflow_datasets as tfds
folder, data_dir = sys.argv[1:3]
tfds.download.DownloadManager.download = lambda self, urls: [
    f"{folder}/{url.rsplit('/', 1)[-1]}" for url in urls
]
sys.argv = ["prepare_data.py", "horses_or_humans", "--data-dir", data_dir]
runpy.run_path("scripts/prepare_data.py", run_name="__main__")
"""

READ = """
import sys
from tlflax.data.decode import decode
from tlflax.data.source import load_dataset
data = load_dataset("tfds:horses_or_humans", data_dir=sys.argv[1], cache_dir=sys.argv[2])
assert "tensorflow" not in sys.modules
assert data.class_names == ("horses", "humans")
for split in (data.train, data.val, data.test):
    for i, label in enumerate(split.labels):
        # The test draws horses dark and humans bright.
        assert (decode(split.read(i), split.files[i]).mean() > 128) == bool(label)
print(len(data.train), len(data.val), len(data.test))
"""


def archive(path: Path, per_class: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    with zipfile.ZipFile(path, "w") as file:
        for name, low in (("horses", 0), ("humans", 150)):
            for i in range(per_class):
                pixels = rng.integers(low, low + 100, (300, 300, 3), dtype=np.uint8)
                buffer = io.BytesIO()
                Image.fromarray(pixels).save(buffer, "PNG")
                file.writestr(f"{name}/{name[:-1]}{i:02d}-1.png", buffer.getvalue())


def test_catalogue_dataset_is_prepared_with_and_read_without_tensorflow(tmp_path):
    pytest.importorskip("tensorflow")
    archive(tmp_path / "horse-or-human.zip", 10, seed=0)
    archive(tmp_path / "validation-horse-or-human.zip", 4, seed=1)
    data_dir = str(tmp_path / "data")

    def run(code, *args):
        done = subprocess.run(
            [sys.executable, "-c", code, *args], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    run(PREPARE, str(tmp_path), data_dir)
    assert list(Path(data_dir).rglob("*.array_record*"))
    assert run(READ, data_dir, str(tmp_path / "cache")).split()[-3:] == ["16", "4", "8"]
