"""Where things are kept between runs, and by what a folder is known."""

import os
from pathlib import Path

STUDY = "study.json"
"""The file that makes a folder the run directory of several runs."""


def cache_dir(chosen: str | os.PathLike | None = None) -> Path:
    """``chosen``, else ``$TLFLAX_CACHE``, ``$XDG_CACHE_HOME/tlflax``, ``~/.cache/tlflax``."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(chosen or os.environ.get("TLFLAX_CACHE") or f"{base}/tlflax").expanduser()
