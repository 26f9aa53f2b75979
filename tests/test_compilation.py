"""Programs compiled by one process are found by the next, and nothing but time depends on it."""

import errno
import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from tlflax.compilation import SWITCH, _drop_damaged, _shrink, keep_compiled

ROOT = Path(__file__).resolve().parents[1]

# Says what JAX's cache did, which folder was used, and the bits of the result.
REPORT = """
import hashlib, json
import jax, numpy as np
from jax import monitoring
from tlflax.compilation import keep_compiled

events = []
monitoring.register_event_listener(lambda name, **_: events.append(name.rsplit("/", 1)[-1]))
folder = keep_compiled()


def report(state):
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        digest.update(np.asarray(leaf).tobytes())
    names = ("cache_hits", "cache_misses", "compile_requests_use_cache")
    count = {name: events.count(name) for name in names}
    print(json.dumps({"folder": str(folder), "state": digest.hexdigest(), **count}))
"""

SMALL = """
def step(x):
    return jax.numpy.tanh(x @ x.T) / x.sum()

x = np.linspace(-1, 1, 35, dtype=np.float32).reshape(5, 7)
report([jax.jit(step)(x), jax.numpy.cumsum(x)])
"""

# Three training steps of a real network.
TRAINING = """
from tlflax.model import Architecture, Model
from tlflax.policy.optimizer import make_optimizer
from tlflax.policy.stage import make_stage
from tlflax.train.state import split_variables
from tlflax.train.step import make_train_step

model = Model(Architecture("glyph_cnn", "auto", ("a", "b"), 16))
policy = model.policy(make_stage({"name": "all", "epochs": 1, "train": ("all",), "bn": "train"}))
rates = {path: policy.multipliers[path] for path in policy.trained}
tx = make_optimizer("adam", lambda step: 0.01, rates)
state, frozen = split_variables(model.init(0), policy, tx)
step = make_train_step(model.module(policy.live), tx, seed=(0, 0))
batch = {
    "image": np.resize(np.arange(251, dtype=np.uint8), (4, 16, 16, 3)),
    "label": np.array([0, 1, 1, 0], np.int32),
    "weight": np.ones(4, np.float32),
    "index": np.arange(4),
}
for _ in range(3):
    state, _ = step(state, frozen, batch)
report(state)
"""


def process(cache, program=SMALL):
    env = {k: v for k, v in os.environ.items() if not k.startswith("JAX_") and k != SWITCH}
    env |= {"TLFLAX_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-c", REPORT + program]
    done = subprocess.run(argv, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) | {"stderr": done.stderr}


def entries(folder):
    return sorted(Path(folder).rglob("*-cache"))


@pytest.mark.parametrize("program", [SMALL, pytest.param(TRAINING, marks=pytest.mark.slow)])
def test_the_next_process_compiles_nothing_and_gets_the_same_bits(tmp_path, program):
    cold = process(tmp_path, program)
    assert Path(cold["folder"]).parent == tmp_path / "compiled"
    stored = entries(tmp_path)
    assert cold["cache_misses"] == len(stored) >= 2
    assert any(path.name.startswith("jit_step-") for path in stored)
    warm = process(tmp_path, program)
    assert warm["cache_misses"] == 0
    assert warm["cache_hits"] == warm["compile_requests_use_cache"] >= 2
    assert warm["state"] == cold["state"] and warm["stderr"] == ""
    # One cut short as by a kill, after the last look; one spoilt since then.
    marker = Path(cold["folder"]) / ".checked"
    os.utime(marker, (1000, 1000))
    (short, spoilt), rest = stored[:2], stored[2:]
    short.write_bytes(short.read_bytes()[:-9])
    spoilt.write_bytes(b"nonsense")
    os.utime(spoilt, (900, 900))
    again = process(tmp_path, program)
    assert again["state"] == cold["state"] and again["stderr"] == ""
    assert again["cache_hits"] == len(rest) and again["cache_misses"] == 2
    zlib.decompress(short.read_bytes())  # whole again


@pytest.fixture
def config(monkeypatch):
    """JAX's settings as a new process has them; they are put back afterwards."""
    import jax

    names = (
        "jax_enable_compilation_cache", "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs", "jax_persistent_cache_min_entry_size_bytes",
    )  # fmt: skip
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.delenv(SWITCH, raising=False)
    yield jax.config
    for name, value in before.items():
        jax.config.update(name, value)


def test_settings_of_the_user_are_left_alone(config, monkeypatch, tmp_path):
    monkeypatch.setenv("TLFLAX_CACHE", str(tmp_path))
    config.update("jax_enable_compilation_cache", False)
    assert keep_compiled() is None and config.jax_compilation_cache_dir is None
    config.update("jax_enable_compilation_cache", True)
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "7")
    config.update("jax_persistent_cache_min_compile_time_secs", 7.0)
    folder = keep_compiled()
    assert folder and config.jax_compilation_cache_dir == str(folder)
    assert config.jax_persistent_cache_min_compile_time_secs == 7.0
    assert folder.stat().st_mode & 0o077 == 0
    assert keep_compiled() == folder


@pytest.mark.parametrize("kind", ["off", "a file", "full"])
def test_without_a_usable_folder_nothing_is_kept(config, monkeypatch, tmp_path, kind):
    monkeypatch.setenv("TLFLAX_CACHE", str(tmp_path))
    if kind == "off":
        monkeypatch.setenv(SWITCH, "OFF")
    elif kind == "a file":
        (tmp_path / "compiled").write_text("where the folder should be")
    else:

        def full(*_, **__):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Path, "touch", full)
    assert keep_compiled() is None and config.jax_compilation_cache_dir is None


def test_a_folder_of_somebody_else_is_not_used(config, monkeypatch, tmp_path):
    monkeypatch.setenv("TLFLAX_CACHE", str(tmp_path))
    assert keep_compiled()
    config.update("jax_compilation_cache_dir", None)
    mine = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    assert keep_compiled() is None and config.jax_compilation_cache_dir is None


def test_the_entries_used_longest_ago_go_first(tmp_path):
    for i in range(10):
        path = tmp_path / f"m{i % 2}" / f"jit_f-{i}-cache"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(100))
        os.utime(path, (1000 + i, 1000 + i))
    os.utime(tmp_path / "m0" / "jit_f-0-cache", (5000, 900))  # written first, read last
    (tmp_path / "m0" / "notes.txt").write_bytes(bytes(5000))
    _shrink(tmp_path, 1000)
    assert len(entries(tmp_path)) == 10
    _shrink(tmp_path, 500)  # nine tenths of it remain
    assert sorted(p.name[6] for p in entries(tmp_path)) == list("0789")
    assert (tmp_path / "m0" / "notes.txt").exists()


def test_each_entry_is_read_through_once(tmp_path):
    good, bad = tmp_path / "a-cache", tmp_path / "b-cache"
    good.write_bytes(zlib.compress(b"program"))
    bad.write_bytes(zlib.compress(os.urandom(1000))[:-4])
    _drop_damaged(tmp_path)
    assert good.exists() and not bad.exists()
    marker = (tmp_path / ".checked").stat().st_mtime_ns
    good.write_bytes(b"damaged")
    os.utime(good, ns=(marker - 1, marker - 1))
    _drop_damaged(tmp_path)
    assert good.exists()
    os.utime(good, ns=(marker + 10**9, marker + 10**9))
    _drop_damaged(tmp_path)
    assert not good.exists()
