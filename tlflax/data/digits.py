"""scikit-learn's handwritten digits as a prepared tfds dataset: real data without a network."""

import contextlib
import hashlib
import io
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tlflax import folders
from tlflax.data import splits

_NAME, _VERSION = "digits", "1.0.0"
# Half of the 1797 images, so that one image is 0.11 % of the test accuracy.
_TEST_IMAGES = 900


def prepare(cache_dir: str | os.PathLike | None = None) -> Path:
    """Returns the prepared dataset's folder, making it first if it is not there.

    Safe when several processes start at once: each prepares into a folder of its own, the first
    to finish moves it into place.

    Args:
        cache_dir: see `tlflax.folders.cache_dir`.
    """
    root = folders.cache_dir(cache_dir) / "prepared"
    final = root / _NAME / _VERSION
    if (final / "dataset_info.json").is_file():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=root, prefix=".preparing-"))
    try:
        made = _build(scratch)
        try:
            os.rename(made, final)
        except OSError:
            if not (final / "dataset_info.json").is_file():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return final


def examples() -> dict[str, list[tuple[bytes, int]]]:
    """Returns (PNG bytes, label) of each split: train 897, test 900, stratified.

    The 8x8 grey levels 0..16 are scaled to 0..255.
    """
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    labels = np.asarray(bunch.target)
    # Hashes of pixels, not of PNG bytes: the same split whatever zlib wrote the files.
    hashes = [hashlib.sha256(p.tobytes()).hexdigest() for p in pixels]
    counts = np.bincount(labels)
    wanted = splits.targets(counts, _TEST_IMAGES, "test", counts)
    train, test = splits.cut(hashes, labels, wanted, seed=0)
    return {
        "train": [(_png(pixels[i]), int(labels[i])) for i in train],
        "test": [(_png(pixels[i]), int(labels[i])) for i in test],
    }


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _build(folder: Path) -> Path:
    """Prepares the dataset below `folder`; returns the version's folder."""
    import tensorflow_datasets as tfds

    class Digits(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """8x8 handwritten digits (UCI, as in scikit-learn)."""

        name = _NAME
        VERSION = tfds.core.Version(_VERSION)
        # Without it tfds looks for metadata files beside this module.
        pkg_dir_path = None

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(
                builder=self,
                description="8x8 handwritten digits from scikit-learn's load_digits.",
                features=tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                        "label": tfds.features.ClassLabel(names=[str(d) for d in range(10)]),
                    }
                ),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, dl_manager: Any) -> Any:
            return {name: self._generate_examples(rows) for name, rows in examples().items()}

        def _generate_examples(self, rows: list[tuple[bytes, int]]) -> Any:
            for key, (png, label) in enumerate(rows):
                yield key, {"image": io.BytesIO(png), "label": label}

    builder = Digits(data_dir=str(folder), file_format="array_record")
    # tfds prints its progress; a tenth of a second needs none.
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        builder.download_and_prepare()
    return Path(builder.data_dir)
