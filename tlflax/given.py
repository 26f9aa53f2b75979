"""Images given by hand: an array, Pillow images, files or folders, brought to a network's size."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tlflax.data.folder import SUFFIXES, hidden
from tlflax.errors import DataError, listing

_WANTED = (
    "images must be one uint8 array [N, H, W, 3], Pillow images, or paths of files and folders"
)


class Given:
    """Images given by hand, one by one in the size of a network.

    Args:
      images: RGB uint8 ``[N, H, W, 3]``; one or several Pillow images, of any sizes; or paths of
        image files and folders.
      model: the network.

    Attributes:
      files: N paths, or numbers.
      labels: int32 [N]: the class that a file's folder is named after, or -1.
    """

    def __init__(self, images: Any, model: Any):
        from PIL.Image import Image

        from tlflax.train.streams import resize_rule

        self._size, self._rule = model.architecture.image_size, resize_rule(model)
        # Pixels or Pillow images; None where they are in files.
        self._held: Sequence[Any] | np.ndarray | None = None
        if isinstance(images, str | Path | Image):
            images = [images]
        if hasattr(images, "__array__"):
            self._held = _checked(np.asarray(images))
        elif not isinstance(images, Iterable):
            raise DataError(f"{_WANTED}, got a {type(images).__name__}")
        else:
            images = list(images)
            if not images:
                raise DataError(f"{_WANTED}, got none")
            if images and all(isinstance(image, Image) for image in images):
                self._held = images
        if self._held is not None:
            self.files = [str(i) for i in range(len(self._held))]
            self.labels = np.full(len(self.files), -1, np.int32)
            return
        for path in images:
            if not isinstance(path, str | Path):
                raise DataError(f"{_WANTED}, got a list with a {type(path).__name__}")
        self.files, self.labels = find_images(images, model.classes)

    def __len__(self) -> int:
        return len(self.files)

    def pixels(self, i: int) -> np.ndarray:
        """Image ``i``, uint8 [S, S, 3].

        Raises:
          DataError: it cannot be read.
        """
        from tlflax.data.decode import decode, decode_pillow, resize

        name = self.files[i]
        if self._held is None:
            pixels = decode(_read(name), name)
        elif isinstance(self._held, np.ndarray):
            pixels = self._held[i]
        else:
            pixels = decode_pillow(self._held[i], f"image {name}")
        return resize(pixels, self._size, self._rule)

    def all(self) -> np.ndarray:
        """All images, uint8 [N, S, S, 3]."""
        return np.stack([self.pixels(i) for i in range(len(self))])


def _checked(images: np.ndarray) -> np.ndarray:
    if images.ndim == 3:
        images = images[None]
    if images.ndim != 4 or images.shape[-1] != 3 or not len(images):
        raise DataError(f"images must be RGB [N, H, W, 3], got shape {images.shape}")
    if images.dtype != np.uint8:
        low, high = float(images.min()), float(images.max())
        raise DataError(
            f"images must be uint8 in 0..255, got {images.dtype} in {low:g}..{high:g}; the model "
            "scales them itself, pass the pixels as they are in the file"
        )
    return images


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def find_images(
    paths: Sequence[str | Path], classes: Sequence[str]
) -> tuple[list[str], np.ndarray]:
    """Lists image files below ``paths``; the label is the parent folder's, -1 if it is no class.

    Hidden files are left out, as in a dataset: on other disks a Mac puts a ``._IMG.jpg``, which is
    no image, beside each one, and into archives a folder ``__MACOSX`` of them.

    Raises:
      DataError: a path does not exist or nothing is found.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            below = (p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
            files += sorted(
                p
                for p in below
                if not any(map(hidden, p.relative_to(path).parts)) and not p.is_dir()
            )
        elif path.is_file():
            files.append(path)
        else:
            raise DataError(f"{path} does not exist")
    if not files:
        raise DataError(f"no images ({listing(SUFFIXES)}) in {listing(map(str, paths))}")
    names = list(classes)
    labels = [names.index(p.parent.name) if p.parent.name in names else -1 for p in files]
    return [str(p) for p in files], np.array(labels, np.int32)
