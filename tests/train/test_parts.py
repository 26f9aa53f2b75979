"""Batches in parts and compiler options on CPU: the same results, nothing lost at the edges."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from tlflax import tree
from tlflax.model import Architecture, Model
from tlflax.train import compiler, memory, parts, stage_run
from tlflax.train.step import make_eval_step, make_prefix


@pytest.mark.parametrize(
    ("rows", "side", "number"),
    [(32, 160, 4), (16, 160, 2), (8, 160, 1), (32, 224, 8), (4, 224, 1), (1, 600, 1), (500, 16, 1)],
)
def test_parts_of_200_000_pixels(rows, side, number):
    assert parts.parts_of(rows, side) == number


def test_other_devices_want_the_whole_batch(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert parts.parts_of(256, 224) == 1
    assert compiler.options(forward=True, anything=1) is None


@pytest.mark.parametrize("rows", [1, 2, 5, 7])
def test_every_row_is_there_once(monkeypatch, rows):
    monkeypatch.setattr(parts, "_PIXELS", 2 * 3 * 3)
    images = jnp.arange(rows * 27.0).reshape(rows, 3, 3, 3)
    seen = []

    def function(x):
        seen.append(x.shape)
        return x.sum((1, 2)) * 2

    found = jax.jit(lambda x: parts.in_parts(function, x))(images)
    np.testing.assert_array_equal(found, images.sum((1, 2)) * 2)
    # Traced once, for parts of two (one row alone needs none).
    assert seen == [(min(rows, 2), 3, 3, 3)]


def test_networks_in_parts_compute_the_same(monkeypatch):
    network = tiny.model()
    variables = network.init(0)
    images = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3)).astype(np.uint8)

    def outputs():
        prefix = make_prefix(network.module(), "block2_pool", pool=False)
        evaluate = make_eval_step(network.module())
        calls = ((prefix, images), (evaluate, {"image": images}))
        loops = ["scan[" in str(f.trace(variables, x).jaxpr) for f, x in calls]
        return loops, [f(variables, x) for f, x in calls]

    loops, whole = outputs()
    assert loops == [False, False]
    monkeypatch.setattr(parts, "_PIXELS", 3 * 16 * 16)
    assert parts.parts_of(7, 16) == 3
    loops, cut = outputs()
    assert loops == [True, True]
    for a, b in zip(whole, cut, strict=True):
        # Other shapes, perhaps other forms of a sum of up to 576 terms.
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_full_step_in_parts_is_the_same_training(tmp_path, monkeypatch):
    stage = {"train": "all", "epochs": 1}
    whole = tiny.fit(tmp_path / "whole", stage, network=tiny.model(dropout=0.0))
    monkeypatch.setattr(parts, "_PIXELS", 5 * 16 * 16)
    monkeypatch.setattr(parts, "gains", lambda parameters: True)
    made = []
    real = stage_run.make_train_step
    monkeypatch.setattr(
        stage_run,
        "make_train_step",
        lambda *a, **k: (made.append(k["accumulate"]), real(*a, **k))[1],
    )
    cut = tiny.fit(tmp_path / "cut", stage, network=tiny.model(dropout=0.0))
    assert made == [8]  # 16 rows of which 5 fit, or 2 with their gradients
    a, b = tiny.flat(whole.variables), tiny.flat(cut.variables)
    for path in a:
        # Three Adam steps divide by the gradient's size: rounding counts where it is small.
        np.testing.assert_allclose(a[path], b[path], rtol=1e-3, atol=2e-4, err_msg=path)


def test_which_networks_gain():
    def flat(name):
        return tree.flatten(Model(Architecture(name, "auto", ("a", "b"), 64)).abstract["params"])

    assert parts.gains(flat("mobilenet_v2_0.35"))
    assert not parts.gains(flat("vgg16"))


def test_live_statistics_see_the_whole_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "_PIXELS", 5 * 16 * 16)
    monkeypatch.setattr(parts, "gains", lambda parameters: True)
    job = tiny.job(tmp_path, {"train": "all", "bn": "train"}, {"train": "all", "accumulate": 2})
    pairs = zip(job.stages, job.policies, strict=True)
    chosen = [parts.parts_of_stage(job, stage, policy) for stage, policy in pairs]
    assert chosen == [1, 2]


def test_an_option_that_is_not_known_is_left_out(monkeypatch):
    monkeypatch.setattr(compiler, "_LIBRARY", "xla_cpu_no_such_thing")
    assert compiler.options(forward=True) is None
    found = compiler.options(forward=True, xla_cpu_enable_fast_math=False)
    assert found == {"xla_cpu_enable_fast_math": False}
    assert jax.jit(lambda x: x + 1, compiler_options=found)(1) == 2


def test_the_option_that_is_used_is_known_here():
    # A version of XLA that renames it is slower, and this says so first.
    assert compiler.options(forward=True) == {compiler._LIBRARY: ""}
    assert compiler.options() == {compiler._LIBRARY: compiler._SUMS}


def test_freed_memory_is_kept_where_glibc_is(monkeypatch):
    # What this machine says, first.
    assert memory.keep_freed_memory() == (memory.platform.libc_ver()[0] == "glibc")
    asked, taken = [], True

    def mallopt(name, value):
        asked.append((name, value))
        return int(taken)

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=mallopt))
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("glibc", "2.39"))
    assert memory.keep_freed_memory()
    # M_MMAP_MAX, M_TRIM_THRESHOLD and M_TOP_PAD of glibc's malloc.h.
    assert sorted(asked) == [(-4, 0), (-2, 2**26), (-1, 2**31 - 1)]
    taken = False
    assert not memory.keep_freed_memory()
    asked.clear()
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    assert not memory.keep_freed_memory() and asked == []
