import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _own_folders(tmp_path_factory, monkeypatch):
    """No test reads or writes the user's caches: converted weights, downloads, Keras' files."""
    monkeypatch.setenv("TLFLAX_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
    monkeypatch.delenv("TLFLAX_WEIGHTS", raising=False)


@pytest.fixture(scope="session")
def real() -> Path:
    """The real weights and images: $TLFLAX_REAL, or ../shared/real beside the checkout."""
    folder = Path(os.environ.get("TLFLAX_REAL") or ROOT.parent / "shared" / "real")
    if not (folder / "weights").is_dir():
        pytest.skip(f"no real weights: {folder} does not exist (set TLFLAX_REAL)")
    return folder
