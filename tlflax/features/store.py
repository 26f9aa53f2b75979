"""Features of images on disk, shared by all runs: a folder of segments, looked up by image.

A store belongs to one frozen prefix (see `tlflax.features.identity`) and holds one row for each
image that has ever been run through it, whatever the split, the run or the seed. Segments never
change: they are added, and deleted where room is needed (who has them open can still read them), so
any number of processes may read and fill a store at the same time; at worst a row is there twice.
"""

import contextlib
import itertools
import json
import os
from collections.abc import Iterable, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np

from tlflax.atomic import replacing
from tlflax.features import segment
from tlflax.features.segment import Segment
from tlflax.features.space import IDENTITY, all_bytes, delete, free, gigabytes, idle, size

# Left free on the disk, whatever the budget says.
_SPARE_BYTES = 2**30
# Without a folder that can be written to, features up to this size are kept in memory.
MEMORY_BYTES = 2**30
# Pages of a mapped file count as this process' memory until they are given back. The system maps
# neighbours of a page along with it: several times this may be held.
_RELEASE_BYTES = 8 * 2**20
_PAGE_BYTES = 4096


class StoreFull(Exception):
    """The rows do not fit: neither on the disk nor in memory. The message says why."""


class Store:
    """Rows of one frozen prefix.

    Args:
      root: folder of all stores.
      name: of this one, from its identity.
      shape: of one row.
      dtype: ``float32`` or ``bfloat16``.
      identity: what the rows depend on; written down for people.
      budget_bytes: largest size of all stores together.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        shape: tuple[int, ...],
        dtype: str,
        identity: dict[str, Any],
        budget_bytes: int,
    ):
        self.root, self.folder = root, root / name
        self.shape, self.dtype, self.identity = tuple(shape), dtype, identity
        self.budget_bytes = budget_bytes
        self.notes: list[str] = []
        self._segments: list[Segment] = []
        self._known: dict[str, int] = {}
        self._where: dict[bytes, tuple[int, int]] = {}
        self._handed_out: set[int] = set()

    @property
    def row_bytes(self) -> int:
        """Bytes of one record."""
        return segment.record(self.shape, self.dtype).itemsize

    @property
    def on_disk(self) -> bool:
        """Whether anything of it is kept for later runs."""
        return bool(self._known)

    def refresh(self) -> None:
        """Looks for segments that have been added, by whomever."""
        for path in sorted(self.folder.glob("*.npy")) if self.folder.is_dir() else ():
            if path.name not in self._known:
                found = segment.read(path, self.shape, self.dtype)
                self._known[path.name] = -1 if found is None else self._add(found)

    def missing(self, keys: Iterable[bytes]) -> list[int]:
        """Positions of the keys that have no row yet."""
        return [i for i, key in enumerate(keys) if key not in self._where]

    def damaged(self, keys: Iterable[bytes]) -> int:
        """Deletes segments with a row whose checksum is wrong; returns how many rows that loses."""
        places = sorted({self._where[key] for key in keys if key in self._where})
        bad = set()
        for s, group in itertools.groupby(places, key=lambda place: place[0]):
            if not all(self._segments[s].sound(row) for _, row in group):
                bad.add(s)
            self._segments[s].release()
        return self._delete(bad)

    def reserve(self, rows: int, wanted: Iterable[bytes] = ()) -> None:
        """Makes room for ``rows`` more.

        Stores that were not used for longest go first; then own rows that nobody asks for.

        Args:
          rows: how many.
          wanted: keys of own rows that are to stay.

        Raises:
          StoreFull: there is no room.
        """
        needed = rows * self.row_bytes
        if needed > self.budget_bytes:
            raise StoreFull(
                f"they need {gigabytes(needed)}, more than cache_gb "
                f"({self.budget_bytes / 2**30:g} GB)"
            )
        over = all_bytes(self.root) + needed - self.budget_bytes
        if over > 0:
            self._make_room(over, needed, wanted)
        left = free(self.root)
        if left is not None and left < needed + _SPARE_BYTES:
            raise StoreFull(
                f"they need {gigabytes(needed)}, and the disk of {self.root} has "
                f"{gigabytes(left)} left (set TLFLAX_CACHE to a folder on another disk)"
            )

    def _make_room(self, over: int, needed: int, wanted: Iterable[bytes]) -> None:
        """Deletes ``over`` bytes, or nothing where that much cannot go."""
        others, own = idle(self.root, self.folder), self._unwanted(wanted)
        if sum(others.values()) + sum(own.values()) < over:
            mine = size(self.folder)
            blocking = (
                f"other features in {self.root} are in use"
                if all_bytes(self.root) - sum(others.values()) > mine
                else f"{gigabytes(mine)} of the same frozen blocks are in use"
            )
            raise StoreFull(
                f"they need {gigabytes(needed)} and {blocking}; "
                f"raise cache_gb (now {self.budget_bytes / 2**30:g})"
            )
        for folder, count in others.items():
            if over > 0:
                delete(folder)
                over -= count
        for s, count in own.items():
            if over > 0:
                self._delete({s})
                # Without its map: only then is the space given back.
                nothing = segment.pack([], np.empty((0, *self.shape), np.float32), self.dtype)
                self._segments[s] = Segment(nothing, self.dtype)
                over -= count

    def _unwanted(self, wanted: Iterable[bytes]) -> dict[int, int]:
        """Own segments that hold nothing wanted -> bytes, oldest first.

        Rows that were handed out are not among them: this run will want them again.
        """
        kept = {self._where[key][0] for key in wanted if key in self._where} | self._handed_out
        old = []
        for name, s in self._known.items():
            if s >= 0 and s not in kept:
                with contextlib.suppress(OSError):  # evicted by another process in this moment
                    found = (self.folder / name).stat()
                    old.append((found.st_mtime_ns, s, found.st_size))
        return {s: count for _, s, count in sorted(old)}

    def _delete(self, segments: Set[int]) -> int:
        """Forgets segments and deletes their files; returns how many rows that loses."""
        lost = [key for key, (s, _) in self._where.items() if s in segments]
        for key in lost:
            del self._where[key]
        for name, s in self._known.items():
            if s in segments:
                with contextlib.suppress(OSError):  # read-only: they stay, for others to find
                    (self.folder / name).unlink(missing_ok=True)
        return len(lost)

    def append(self, keys: Sequence[bytes], rows: np.ndarray) -> None:
        """Adds rows ``[len(keys), *shape]`` as a segment of their own.

        Raises:
          StoreFull: they can be written nowhere and are too many for the memory.
        """
        records = segment.pack(keys, rows, self.dtype)
        try:
            self.touch()
            path = segment.write(self.folder, records)
        except OSError as error:
            held = sum(s.nbytes for s in self._segments if not s.on_disk)
            if held + records.nbytes > MEMORY_BYTES:
                raise StoreFull(
                    f"{self.folder} cannot be written to ({error.strerror}; set TLFLAX_CACHE to a "
                    "writable folder)"
                ) from error
            if not self.notes:
                self.notes.append(
                    f"features of the frozen blocks cannot be kept in {self.folder} "
                    f"({error.strerror}): they are held in memory and computed again by the next "
                    "run (set TLFLAX_CACHE to a writable folder)"
                )
            self._add(Segment(records, self.dtype))
        else:
            found = segment.read(path, self.shape, self.dtype)
            # Another process may have evicted it in this moment: the records are still here.
            self._known[path.name] = self._add(found or Segment(records, self.dtype))

    def touch(self) -> None:
        """Marks the store as used now.

        Raises:
          OSError: the folder cannot be written to.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / IDENTITY
        if path.exists():
            os.utime(path)
            return
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(self.identity, indent=2, sort_keys=True) + "\n")

    def find(self, keys: Sequence[bytes]) -> "Features":
        """The rows of ``keys``, in that order; all of them must be there."""
        places = np.array([self._where[key] for key in keys], np.int64).reshape(-1, 2)
        self._handed_out |= set(places[:, 0].tolist())
        return Features(self._segments, places[:, 0], places[:, 1], self.shape)

    def _add(self, found: Segment) -> int:
        index = len(self._segments)
        self._segments.append(found)
        for row, key in enumerate(found.keys()):
            self._where.setdefault(key, (index, row))
        return index


class Features:
    """Outputs of the frozen prefix, ``[N, ...]``; takes the place of `tlflax.data` images.

    Args:
      segments: where the rows are.
      which: segment of each row, int [N].
      row: position in it, int [N].
      shape: of one row.
    """

    size = 0

    def __init__(
        self,
        segments: Sequence[Segment],
        which: np.ndarray,
        row: np.ndarray,
        shape: tuple[int, ...],
    ):
        self._segments, self._which, self._row = segments, which, row
        self.shape = shape
        self._read = 0

    def __len__(self) -> int:
        return len(self._which)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        item = self._segments[0].records.dtype["row"].itemsize if len(self) else 0
        return len(self) * item

    def batch(self, indices: np.ndarray) -> np.ndarray:
        """Rows ``[len(indices), ...]``, a copy."""
        self._count(len(indices))
        which = self._which[indices]
        first = self._segments[which[0]]
        if (which == which[0]).all():
            return first.take(self._row[indices])
        rows = None
        for s in np.unique(which):
            chosen = which == s
            found = self._segments[s].take(self._row[indices][chosen])
            if rows is None:
                rows = np.empty((len(indices), *found.shape[1:]), found.dtype)
            rows[chosen] = found
        assert rows is not None
        return rows

    def _count(self, rows: int) -> None:
        """Bounds the pages that are held; by whole pages, as that is how they are read."""
        row = self._segments[0].records.itemsize if self._segments else 0
        self._read += rows * max(row, _PAGE_BYTES)
        if self._read > _RELEASE_BYTES:
            self._read = 0
            for part in self._segments:
                part.release()
