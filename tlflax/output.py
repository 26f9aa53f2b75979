"""The file that ``--out`` names: what is wrong with it is told before the work, and in one line."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tlflax.errors import ConfigError


def check_out(out: str) -> Path:
    """The path, if a file can be written there as far as can be told without doing it.

    Raises:
      ConfigError: it is a folder or a device, or its folder does not exist or cannot be written to.
    """
    path = Path(out)
    folder = path.absolute().parent
    if path.is_dir():
        raise ConfigError(f"--out {out} is a folder: name a file, in it or elsewhere")
    if folder.resolve() == Path("/dev") or (path.exists() and not path.is_file()):
        # A device, or a link of that name, would be replaced by a file.
        raise ConfigError(f"--out {out} is no ordinary file: name another")
    if not folder.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {path.parent}")
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"--out {out}: the folder {path.parent} cannot be written to")
    return path


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around the lines that write it.

    Raises:
      ConfigError: in place of an `OSError` (a full disk, a folder made read-only).
    """
    try:
        yield
    except OSError as error:
        raise ConfigError(f"--out {path} cannot be written: {error.strerror or error}") from error
