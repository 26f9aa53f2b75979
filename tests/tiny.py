"""Small images with learnable classes, and short trainings on them."""

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
CLASSES = ("diagonal", "horizontal", "vertical")
SIZE = 16


def write_stripes(root: Path, counts: dict[str, int], seed: int = 0) -> Path:
    """Writes noisy stripes in three directions: ``root/SPLIT/CLASS/000.png``."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:20, :20]
    waves = {"diagonal": (x + y) / 1.4, "horizontal": y, "vertical": x}
    for split, number in counts.items():
        for name, wave in waves.items():
            folder = root / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(number):
                image = 127 + 70 * np.sin(wave * 1.2 + rng.uniform(0, 6))[..., None]
                image = image + rng.normal(0, 30, (20, 20, 3))
                pixels = image.clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i:03}.png")
    return root


@functools.cache
def _temporary() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="tlflax-test-")


def _quick() -> dict:
    # Most of the time here is compiling: once per program, and without optimising.
    return {
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": os.environ["TLFLAX_TEST_PROGRAMS"],
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """Import it where programs are compiled and their speed does not matter."""
    import jax

    before = {name: jax.config.values[name] for name in _quick()}
    for name, value in _quick().items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(autouse=True, scope="module")
def coarse_pictures():
    """Import it where whole runs draw their pictures and nobody looks at them."""
    from tlflax.report import canvas

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(canvas, "DPI", 50)
        yield


@functools.cache
def stripes() -> Path:
    """Folder with 13 training, 7 validation and 5 test images a class."""
    # Odd numbers: every kind of batch has padding somewhere.
    return write_stripes(Path(_temporary().name) / "stripes", {"train": 13, "val": 7, "test": 5})


@functools.cache
def data():
    """The same, loaded."""
    from tlflax.data.source import load_dataset

    return load_dataset(f"folder:{stripes()}", cache_dir=Path(_temporary().name) / "cache")


@functools.cache
def model(dropout: float = 0.2, endpoint: str = "auto", head: str = "gap"):
    """glyph_cnn for three classes."""
    from tlflax.model import Architecture, Model

    return Model(Architecture("glyph_cnn", endpoint, CLASSES, SIZE, head, dropout=dropout))


def stages(*entries: dict) -> list:
    """Stages with defaults: named s0, s1, ..., two epochs, Adam at 3e-3."""
    from tlflax.policy.stage import make_stage

    base = {"epochs": 2, "lr": 3e-3}
    return [make_stage({"name": f"s{i}"} | base | entry) for i, entry in enumerate(entries)]


def job(folder: Path, *entries: dict, images=None, network=None, cache="auto", seed=0, **changes):
    """A training that has not begun."""
    from tlflax.features.caching import Caching
    from tlflax.train.devices import Placement
    from tlflax.train.interrupt import Guard
    from tlflax.train.loop import Job
    from tlflax.train.streams import Streams

    network, images = network or model(), images or data()
    placement = changes.pop("placement", None) or Placement()
    chosen = stages(*entries)
    splits = {"train": images.train, "val": images.val, "test": images.test}
    caching = cache if isinstance(cache, Caching) else Caching(cache)
    streams = Streams(network, splits, placement, 16, caching, say=lambda line: None)
    variables = changes.pop("variables", None) or network.init(seed)
    return Job(
        network, variables, chosen, [network.policy(s) for s in chosen], streams, folder, 16, seed,
        placement, changes.pop("guard", None) or Guard(), changes.pop("select", "accuracy"),
        images.fingerprint, say=lambda line: None, keep_stages=changes.pop("keep_stages", False),
    )  # fmt: skip


def fit(folder: Path, *entries: dict, **changes):
    """Runs it; returns the `Outcome`."""
    from tlflax.train.loop import train

    return train(job(folder, *entries, **changes))


def flat(variables) -> dict[str, np.ndarray]:
    """Leaves by path, on the host."""
    from tlflax import tree

    return {p: np.asarray(v) for p, v in tree.flatten(variables).items()}


def same(a, b) -> bool:
    """Whether two sets of variables are equal bit for bit."""
    a, b = flat(a), flat(b)
    return a.keys() == b.keys() and all(a[p].tobytes() == b[p].tobytes() for p in a)


def rows(folder: Path) -> list[dict]:
    """metrics.jsonl without the times."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def environment(**extra: str) -> dict[str, str]:
    """For a process of its own: this checkout, a small shared compilation cache."""
    found = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TLFLAX_CACHE": str(Path(_temporary().name) / "cache"),
    }
    found |= {name.upper(): str(value) for name, value in _quick().items()}
    return found | extra


def command(*arguments: str, **extra: str) -> subprocess.CompletedProcess:
    """Runs ``python -m tlflax.ARGUMENTS``."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        env=environment(**extra), capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def write_config(path: Path, text: str, **keys) -> Path:
    """Writes a config file: ``keys`` for `base`, ``text`` is the stages tuple."""
    keys = {
        "data": f"folder:{stripes()}", "backbone": "glyph_cnn", "weights": "none",
        "image_size": SIZE, "batch_size": 16,
    } | keys  # fmt: skip
    path.write_text(
        "from tlflax.config import base\n\n\n"
        'def get_config(arg=""):\n'
        f"    config = base(**{keys!r})\n"
        f"    config.stages = {text}\n"
        "    return config\n"
    )
    return path


def cut_at(monkeypatch, step):
    """Makes the ``step``-th train step of this process fail as if the power went."""
    from tlflax.train import stage_run

    real, done = stage_run.make_train_step, [0]

    def make(*args, **kwargs):
        inner = real(*args, **kwargs)

        def counted(*batch):
            done[0] += 1
            if done[0] > step:
                raise RuntimeError("killed")
            return inner(*batch)

        return counted

    monkeypatch.setattr(stage_run, "make_train_step", make)
