"""Where things are kept between runs."""

import os
from pathlib import Path


def cache_dir(chosen: str | os.PathLike | None = None) -> Path:
    """``chosen``, else ``$TLFLAX_CACHE``, ``$XDG_CACHE_HOME/tlflax``, ``~/.cache/tlflax``."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(chosen or os.environ.get("TLFLAX_CACHE") or f"{base}/tlflax").expanduser()
