"""Disk space that all feature stores share: what is there, what it is for, what can go."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

IDENTITY = "identity.json"
"""The file of a store that says what its rows depend on; its time is that of the last use."""

# A store that was used within this time is taken to be in use, and not evicted.
_IN_USE_SECONDS = 600.0


def contents(root: Path) -> list[dict[str, Any]]:
    """What is stored: folder, bytes, seconds since the epoch of last use, identity."""
    found = []
    for path in _stores(root):
        try:
            identity = json.loads((path / IDENTITY).read_text())
        except (OSError, ValueError):
            identity = {}
        found.append(
            {"folder": path, "bytes": size(path), "used": _last_used(path), "identity": identity}
        )
    return found


def idle(root: Path, keep: Path) -> dict[Path, int]:
    """Stores that are not in use -> bytes; what was not used for longest comes first.

    Args:
      root: folder of all stores.
      keep: the one that is no candidate.
    """
    old = [p for p in _stores(root) if p != keep and time.time() - _last_used(p) > _IN_USE_SECONDS]
    return {p: size(p) for p in sorted(old, key=_last_used)}


def all_bytes(root: Path) -> int:
    """Bytes of all stores together."""
    return sum(size(p) for p in _stores(root))


def delete(folder: Path) -> None:
    """Deletes a store; who still reads it keeps his open files."""
    shutil.rmtree(folder, ignore_errors=True)


def size(folder: Path) -> int:
    """Bytes of the files in a folder."""
    total = 0
    for path in folder.glob("*"):
        try:
            total += path.stat().st_size
        except OSError:  # evicted by another process in this moment
            continue
    return total


def free(folder: Path) -> int | None:
    """Free bytes of the disk that ``folder`` is on, or would be; ``None`` if that is not known."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def gigabytes(count: int) -> str:
    """Bytes for people."""
    return f"{count / 2**30:.2g} GB"


def _stores(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else []


def _last_used(folder: Path) -> float:
    try:
        return (folder / IDENTITY).stat().st_mtime
    except OSError:
        return 0.0
