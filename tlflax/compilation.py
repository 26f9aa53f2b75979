"""Compiled programs are kept on disk: the second run of a config compiles nothing.

XLA takes up to half a minute for the programs of one run. JAX can store them; this module
decides where, keeps the folder small and sees to it that it can only ever save time.
"""

import hashlib
import os
import platform
import warnings
import zlib
from pathlib import Path
from typing import Any

from tlflax.folders import cache_dir

SWITCH = "TLFLAX_COMPILATION_CACHE"
_OFF = ("off", "0", "false", "no")

# Everything is stored. Of the 49 programs of configs/quickstart.py 42 are small (1.8-3.2 kB, one
# operation each) and take 20-40 ms to compile, 2 ms to load: together a second or more of each
# start, and 100 kB.
_MIN_COMPILE_SECONDS = 0.0
_MIN_ENTRY_BYTES = -1
# The programs of one run of a large network take 2-10 MB.
_MAX_BYTES = 2**30
_SUFFIX = "-cache"
# Entries older than this file have been read through once (see `_drop_damaged`).
_CHECKED = ".checked"


def keep_compiled() -> Path | None:
    """Turns JAX's persistent compilation cache on, in the user's cache folder.

    Nothing is changed where the user has chosen a folder (``JAX_COMPILATION_CACHE_DIR`` or
    ``jax.config``), has turned JAX's cache off, or has set ``TLFLAX_COMPILATION_CACHE=off``; nor
    where the folder cannot be written to or belongs to somebody else (its content is executed).

    Returns:
      The folder that JAX uses, ``None`` if it uses none.
    """
    import jax

    config: Any = jax.config
    if not config.jax_enable_compilation_cache:
        return None
    if config.jax_compilation_cache_dir is not None:
        chosen = config.jax_compilation_cache_dir
        return Path(chosen) if chosen else None
    if os.environ.get(SWITCH, "").strip().lower() in _OFF:
        return None
    root = cache_dir() / "compiled"
    folder = root / _machine()
    try:
        if not _usable(root, folder):
            return None
        _drop_damaged(folder)
        _shrink(root, _MAX_BYTES)
    except OSError:
        # Full disk, lost mount: the run itself needs none of this.
        return None
    # A damaged or unwritable entry costs one compilation; it is not the user's business.
    warnings.filterwarnings(
        "ignore", "Error (reading|writing) persistent compilation cache", UserWarning
    )
    config.update("jax_compilation_cache_dir", str(folder))
    for option, variable, value in (
        ("jax_persistent_cache_min_compile_time_secs",
         "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", _MIN_COMPILE_SECONDS),
        ("jax_persistent_cache_min_entry_size_bytes",
         "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", _MIN_ENTRY_BYTES),
    ):  # fmt: skip
        if variable not in os.environ:
            config.update(option, value)
    return folder


def _usable(root: Path, folder: Path) -> bool:
    root.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
        return False
    return os.access(folder, os.R_OK | os.W_OK | os.X_OK)


def _machine() -> str:
    """A name for this kind of processor.

    Programs for the CPU use the instructions of the machine they were compiled on; a home
    folder may be shared by different machines.
    """
    facts = [platform.system(), platform.machine(), platform.processor()]
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        named = ("model name", "flags", "Features", "CPU part")
        facts += [next((x for x in lines if x.startswith(name)), "") for name in named]
    except OSError:
        pass  # not Linux
    return (
        f"{platform.machine() or 'cpu'}-{hashlib.sha256('|'.join(facts).encode()).hexdigest()[:12]}"
    )


def _entries(folder: Path) -> list[tuple[Path, os.stat_result]]:
    found = []
    for path in folder.rglob(f"*{_SUFFIX}"):
        try:
            found.append((path, path.stat()))
        except OSError:
            continue  # another process has just removed it
    return found


def _drop_damaged(folder: Path) -> None:
    """Removes entries that were cut short, by a kill or a full disk.

    JAX neither writes them atomically nor ever replaces them: such an entry would cost its
    compilation in every later run. Each entry is read through once, by the next start.
    """
    marker = folder / _CHECKED
    try:
        since = marker.stat().st_mtime_ns
    except OSError:
        since = 0
    fresh = [(path, s) for path, s in _entries(folder) if s.st_mtime_ns >= since]
    if not fresh and since:
        return
    # Set to the newest entry seen, not to now: one that is being written is looked at again.
    latest = max((s.st_mtime_ns for _, s in fresh), default=since)
    for path, _ in fresh:
        if not _whole(path):
            path.unlink(missing_ok=True)
    marker.touch()
    os.utime(marker, ns=(latest + 1, latest + 1))


def _whole(path: Path) -> bool:
    data = path.read_bytes()
    if data[:4] == b"\x28\xb5\x2f\xfd":  # Zstandard, which JAX uses where it is installed
        try:
            import zstandard  # pyright: ignore[reportMissingImports]
        except ImportError:
            return True
        try:
            zstandard.ZstdDecompressor().decompress(data)
        except zstandard.ZstdError:
            return False
        return True
    try:
        zlib.decompress(data)
    except zlib.error:
        return False
    return True


def _shrink(root: Path, limit: int) -> None:
    """Removes the entries used longest ago until the folder is 10 % below its limit.

    Done here and not by JAX's own limit, which needs a further package, and a lock and a listing
    of the folder for each program. A run's own programs come on top until the next start.
    """
    entries = _entries(root)
    size = sum(s.st_size for _, s in entries)
    if size <= limit:
        return
    for path, s in sorted(entries, key=lambda e: max(e[1].st_atime_ns, e[1].st_mtime_ns)):
        if size <= 0.9 * limit:
            return
        path.unlink(missing_ok=True)
        size -= s.st_size
