import gc
import os
import shutil
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Files of 8 s and more, the longest first: one that comes last is waited for by all workers.
LONG = (
    "train/test_loop.py", "test_tutorials.py", "test_inside.py", "evaluate/test_interpretation.py",
    "backbones/test_chain.py", "train/test_mixing.py", "ops/test_conv_forward.py",
    "test_predict.py", "train/test_streams.py", "test_run.py", "convert/test_convert_command.py",
    "ops/test_depthwise.py", "backbones/test_goldens.py", "train/test_interpolate.py",
    "train/test_freezing.py", "report/test_document.py", "export/test_export_torch.py",
    "export/test_stablehlo.py", "test_own_network.py", "test_misuse.py", "test_heads.py",
    "test_api.py",
)  # fmt: skip


def pytest_configure(config):
    # One folder of compiled programs for all workers of this session: half the time goes into
    # compiling, and many programs are needed by several files.
    if not hasattr(config, "workerinput"):
        os.environ["TLFLAX_TEST_PROGRAMS"] = tempfile.mkdtemp(prefix="tlflax-programs-")
        # Nobody reads where in the source an operation came from; writing it down takes 8 %.
        os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop("TLFLAX_TEST_PROGRAMS"), ignore_errors=True)


def _listed() -> list[str]:
    lines = (Path(__file__).parent / "slow.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    listed = set(_listed())
    ranks = {ROOT / "tests" / name: rank for rank, name in enumerate(LONG)}
    assert all(path.is_file() for path in ranks), "LONG names a file that there is not"
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))
    found, files = set(), set()
    for item in items:
        name = item.nodeid.removeprefix("tests/")
        files.add(name.partition("::")[0])
        fits = listed & {name, name.partition("[")[0]}
        if fits:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.long)
            found |= fits
    # A file of which only some tests were asked for says nothing.
    lost = sorted(name for name in listed - found if name.partition("::")[0] in files)
    if lost and len(files) > 50:
        raise pytest.UsageError(f"tests/slow.txt names tests that there are not: {', '.join(lost)}")


def pytest_collection_finish():
    # Modules and tests stay until the end; JAX makes collecting garbage expensive.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 25, 25)


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
