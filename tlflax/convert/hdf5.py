"""HDF5 files of unknown origin: what a path leads to is looked up link by link.

A file may hold links to other files, groups that contain themselves, or arrays that are stored in
another file or claim a size that nothing on disk stands for. None of these are followed.
"""

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import h5py.h5o
import numpy as np

from tlflax.errors import ConvertError

# Keras' deepest files (models in models in models) stay below 20 levels and 20,000 groups.
_DEPTH, _GROUPS = 64, 100_000
# Weights hardly compress; what is larger than this and 100 times its bytes on disk is no weight.
_SIZE, _EXPANSION = 1 << 26, 100
# What h5py raises on damaged files, or on objects that are not what their name promises.
DAMAGED = (OSError, KeyError, AttributeError, RuntimeError, TypeError, ValueError)


class Hostile(ConvertError):
    """Something in a file that no program of good faith writes; said without the file's name."""


@contextmanager
def opened(source: Path | io.BytesIO, what: str) -> Iterator[h5py.File]:
    """Opens a file for reading.

    Args:
      source: path, or the bytes of a file inside an archive.
      what: name for messages.

    Raises:
      ConvertError: not HDF5, truncated, damaged where it is read, or hostile.
    """
    try:
        with h5py.File(source, "r") as file:
            yield file
    except Hostile as error:
        raise ConvertError(f"{what}: {error}") from error
    except DAMAGED as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConvertError(
            f"cannot read {what} as a Keras .h5 file: {reason}. It may be truncated or of another "
            "kind: download it again and compare its size"
        ) from error


def member(group: Any, path: str) -> Any:
    """The object at ``path`` below ``group``.

    Raises:
      KeyError: absent.
      Hostile: a link on the way leads elsewhere.
    """
    for part in path.split("/"):
        if not part:
            continue
        link = group.get(part, getlink=True)
        if link is None:
            raise KeyError(f"{path!r} is not in the file")
        if not isinstance(link, h5py.HardLink):
            raise Hostile(
                f"{group.name.rstrip('/')}/{part} is a link to another place; links are not "
                "followed, save the model again"
            )
        group = group[part]
    return group


def array(group: Any, path: str, name: str = "") -> np.ndarray:
    """Reads the array at ``path`` below ``group``.

    Args:
      group: where to start.
      path: below it.
      name: for messages; by default the path.

    Raises:
      KeyError: absent.
      Hostile: behind a link, kept in another file, of an incredible size, or no numbers.
    """
    found, name = member(group, path), name or path
    if not isinstance(found, h5py.Dataset):
        raise KeyError(f"{name!r} is no array")
    if found.external or found.is_virtual:
        raise Hostile(f"{name} is stored in another file; save the model again")
    if found.dtype.kind not in "fiu":
        raise Hostile(f"{name} holds {found.dtype}, no numbers")
    size = math.prod(found.shape) * found.dtype.itemsize
    if size > max(_SIZE, _EXPANSION * found.id.get_storage_size()):
        raise Hostile(
            f"{name} claims {size:,} bytes, {found.id.get_storage_size():,} are stored: no weight "
            "of a network is like that"
        )
    return np.asarray(found[()])


def arrays_below(root: Any, skip: tuple[str, ...] = ()) -> dict[str, Any]:
    """Every array's object by its path below ``root``, in file order.

    Args:
      root: group.
      skip: names right below the root that are left out.

    Raises:
      Hostile: groups that contain themselves, too many of them, or links elsewhere.
    """
    found: dict[str, Any] = {}
    seen: set[int] = set()

    def visit(group: Any, prefix: str, depth: int) -> None:
        address = h5py.h5o.get_info(group.id).addr
        if address in seen or depth > _DEPTH or len(seen) > _GROUPS:
            raise Hostile(
                "groups are nested without end or contain one another at "
                f"{prefix[:60] or '/'}; no Keras file is like that"
            )
        seen.add(address)
        for name in group:
            if depth == 0 and name in skip:
                continue
            item = member(group, name)
            # Files written on Windows have backslashes within the names.
            path = f"{prefix}{name}".replace("\\", "/")
            if isinstance(item, h5py.Group):
                visit(item, f"{path}/", depth + 1)
            elif isinstance(item, h5py.Dataset):
                found[path] = item

    visit(root, "", 0)
    return found


def names(group: Any, attribute: str) -> list[str]:
    """A list of names in an attribute, or, beyond 64 KiB, in ``attribute0``, ``attribute1``..."""
    if attribute in group.attrs:
        values = list(group.attrs[attribute])
    else:
        values, part = [], 0
        while f"{attribute}{part}" in group.attrs:
            values += list(group.attrs[f"{attribute}{part}"])
            part += 1
    return [text(v) for v in values]


def text(value: Any) -> str:
    """A string attribute, which h5py gives as bytes or str."""
    return value.decode() if isinstance(value, bytes) else str(value)
