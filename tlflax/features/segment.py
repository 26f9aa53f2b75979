"""One file of stored features: records of (key, checksum, row), memory mapped.

A segment is written once, under a temporary name, and renamed when it is complete; after that it
never changes. It is an ordinary ``.npy`` file of a structured type, so ``numpy.load`` opens it.
"""

import mmap
import os
import uuid
import zlib
from collections.abc import Sequence
from pathlib import Path

import ml_dtypes
import numpy as np

from tlflax.atomic import replacing

KEY_BYTES = 32
# numpy files know no bfloat16: its bits are kept as uint16.
_STORED = {"float32": np.float32, "bfloat16": np.uint16}
_SEEN = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}


def record(shape: tuple[int, ...], dtype: str) -> np.dtype:
    """Type of one record; 64 bytes of key, checksum and padding, then the row."""
    return np.dtype(
        [
            ("key", np.uint8, KEY_BYTES),
            ("check", np.uint32),
            ("pad", np.uint8, 64 - KEY_BYTES - 4),
            ("row", _STORED[dtype], shape),
        ]
    )


def pack(keys: Sequence[bytes], rows: np.ndarray, dtype: str) -> np.ndarray:
    """Records of ``rows [N, ...]``, converted to ``dtype``."""
    packed = np.zeros(len(keys), record(rows.shape[1:], dtype))
    packed["row"] = rows.astype(_SEEN[dtype]).view(_STORED[dtype])
    for i, key in enumerate(keys):
        packed["key"][i] = np.frombuffer(key, np.uint8)
        packed["check"][i] = zlib.crc32(packed["row"][i].tobytes())
    return packed


class Segment:
    """Records in memory or in a file, read row by row.

    Args:
      records: from `pack`, or from a mapped file.
      dtype: ``float32`` or ``bfloat16``.
      mapped: the map below ``records``, if it is a file.
    """

    def __init__(self, records: np.ndarray, dtype: str, mapped: mmap.mmap | None = None):
        self.records, self._dtype, self._mapped = records, _SEEN[dtype], mapped

    def __len__(self) -> int:
        return len(self.records)

    @property
    def on_disk(self) -> bool:
        """Whether the records are a mapped file."""
        return self._mapped is not None

    @property
    def nbytes(self) -> int:
        """Size of the records in bytes."""
        return self.records.nbytes

    def keys(self) -> list[bytes]:
        """Key of each record, in order."""
        found = [key.tobytes() for key in self.records["key"]]
        self.release()
        return found

    def sound(self, i: int) -> bool:
        """Whether row ``i`` still has the checksum it was written with."""
        return zlib.crc32(self.records["row"][i].tobytes()) == self.records["check"][i]

    def take(self, positions: np.ndarray) -> np.ndarray:
        """Copies rows ``[len(positions), ...]`` out."""
        return self.records["row"][positions].view(self._dtype)

    def release(self) -> None:
        """Gives pages that were read back to the system, whose file cache keeps them."""
        if self._mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._mapped.madvise(mmap.MADV_DONTNEED)


def write(folder: Path, records: np.ndarray) -> Path:
    """Writes a new segment file into an existing folder.

    Raises:
      OSError: the disk is full, or the folder cannot be written to.
    """
    path = folder / f"{uuid.uuid4().hex}.npy"
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.lib.format.write_array(file, records, allow_pickle=False)
        file.flush()
        # The name must not outlive the contents when the machine goes down.
        os.fsync(file.fileno())
    return path


def read(path: Path, shape: tuple[int, ...], dtype: str) -> Segment | None:
    """Maps a segment file; ``None`` if it is no complete segment of this type of row."""
    wanted = record(shape, dtype)
    try:
        with open(path, "rb") as file:
            if np.lib.format.read_magic(file) != (1, 0):
                return None
            (count,), fortran, found = np.lib.format.read_array_header_1_0(file)
            size = os.fstat(file.fileno()).st_size
            if found != wanted or fortran or size != file.tell() + count * wanted.itemsize:
                return None
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            records = np.frombuffer(mapped, wanted, count, offset=file.tell())
    except (OSError, ValueError):
        return None
    return Segment(records, dtype, mapped)
