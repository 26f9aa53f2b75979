"""What a source offers: named splits of encoded images that are read when asked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tlflax.errors import ConfigError, DataError, listing, suggest


@dataclass
class Split:
    """N encoded images with labels, read one at a time; a grain random access data source.

    Attributes:
        name: 'train', 'val' or 'test'.
        files: N stable ids shown to users: a path relative to the dataset folder, or
            'NAME/train/000012' for the catalogue.
        labels: int32 [N], positions in the dataset's class names.
        hashes: N SHA-256 of the encoded bytes (empty before the manifest filled them in).
        reader: returns the encoded bytes at a position of the whole source.
        rows: int64 [N], the position of each image for `reader`.
        stamps: N strings that change when the bytes may have changed (size and mtime).
        looks: N keys, equal for images whose decoded pixels are equal (empty before
            `tlflax.data.copies` filled them in); otherwise the image's own hash.
    """

    name: str
    files: list[str]
    labels: np.ndarray
    hashes: list[str]
    reader: Callable[[int], bytes] = field(repr=False)
    rows: np.ndarray = field(repr=False)
    stamps: list[str] = field(repr=False, default_factory=list)
    looks: list[str] = field(repr=False, default_factory=list)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> bytes:
        return self.read(index)

    def read(self, i: int) -> bytes:
        """Returns the encoded bytes of image `i` (thread-safe)."""
        return self.reader(int(self.rows[i]))

    def subset(self, indices: Sequence[int] | np.ndarray, name: str | None = None) -> "Split":
        """Returns the images at `indices`, in that order, under `name` (default: unchanged)."""
        rows = np.asarray(indices, np.int64)

        def pick(values: list[str]) -> list[str]:
            return [values[i] for i in rows] if values else []

        return replace(
            self,
            name=name or self.name,
            files=pick(self.files),
            labels=self.labels[rows],
            hashes=pick(self.hashes),
            rows=self.rows[rows],
            stamps=pick(self.stamps),
            looks=pick(self.looks),
        )


@dataclass
class Listing:
    """The images of a source as it gives them: nothing cut, nothing checked.

    Attributes:
        root: absolute path of the data: the key of its manifest.
        class_names: names in label order.
        splits: given splits, a subset of 'train', 'val', 'test'; 'train' is always there.
        warnings: what was left out or looks wrong, one line each.
        ignored: files inside class folders that are not taken for images.
    """

    root: str
    class_names: tuple[str, ...]
    splits: dict[str, Split]
    warnings: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)

    def restrict(self, classes: Sequence[str]) -> "Listing":
        """Keeps only the named classes (all if empty), in the source's own order.

        Raises:
            ConfigError: a name is unknown.
            DataError: fewer than two classes remain.
        """
        wanted = tuple(classes) or self.class_names
        for name in wanted:
            if name not in self.class_names:
                raise ConfigError(
                    f"classes: '{name}' is not a class of this dataset (it has "
                    f"{listing(self.class_names)}){suggest(name, self.class_names)}"
                )
        kept = [i for i, name in enumerate(self.class_names) if name in wanted]
        if len(kept) < 2:
            only = listing(self.class_names[i] for i in kept)
            raise DataError(f"only one class ({only}): a classifier needs at least two")
        if len(kept) == len(self.class_names):
            return self
        renumber = np.full(len(self.class_names), -1, np.int32)
        renumber[kept] = np.arange(len(kept))
        splits = {}
        for key, split in self.splits.items():
            part = split.subset(np.flatnonzero(renumber[split.labels] >= 0))
            part.labels = renumber[part.labels]
            splits[key] = part
        return replace(self, class_names=tuple(self.class_names[i] for i in kept), splits=splits)
