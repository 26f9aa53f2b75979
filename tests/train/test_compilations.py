"""How often a step is compiled, what it is compiled from, and what it does with its buffers."""

import jax
import optax
import pytest
import tiny
from small_step import BELOW, BLOCK, a_batch, lowered, prepared

from tlflax.train import step as steps
from tlflax.train.step import make_train_step


@pytest.fixture
def traces(monkeypatch):
    """How often each function has been traced; a new shape or type would add one."""
    counts = {"step": 0, "evaluate": 0, "prefix": 0}

    def counted(name, function):
        def inner(*args, **kwargs):
            counts[name] += 1
            return function(*args, **kwargs)

        return inner

    real = steps._apply

    def apply(module, variables, *args, **kwargs):
        kind = "prefix" if kwargs.get("method") else "step" if kwargs.get("train") else "evaluate"
        counts[kind] += 1
        return real(module, variables, *args, **kwargs)

    monkeypatch.setattr(steps, "_apply", apply)
    return counts


@pytest.mark.parametrize("cache", ["auto", pytest.param("off", marks=pytest.mark.slow)])
def test_one_compilation_for_all_epochs_and_batches(tmp_path, traces, cache):
    # 39 training images in 3 batches of 13, 21 for validation in 2 of 10 and 11: the last batch
    # of an epoch and the last one of an evaluation are padded to the rows of the others.
    out = tiny.fit(tmp_path, {"train": BLOCK, "epochs": 3}, cache=cache)
    assert [row["step"] for row in out.history] == [3, 6, 9]
    # Batches of 13 for training and 11 for validation are two shapes to the frozen prefix.
    assert traces == {"step": 1, "evaluate": 1, "prefix": 2}


def text(**options):
    return lowered(tiny.model(), a_batch(), BLOCK, "train", BELOW, **options).as_text()


def test_the_program_does_not_depend_on_the_seed():
    # This text is what the persistent compilation cache looks up.
    first = text(seed=(0, 0))
    assert text(seed=(7, 0)) == first
    assert text(seed=(2**31, 1)) == first
    assert text(seed=(0, 0), label_smoothing=0.1) != first


def test_the_state_is_donated():
    model, batch = tiny.model(), a_batch()
    tx = optax.adam(1e-3)
    policy, state, frozen = prepared(model, bn="train", tx=tx)
    step = make_train_step(model.module(policy.live), tx, seed=(0, 0), start=BELOW)
    state, frozen = jax.device_put((state, frozen))
    analysis = step.lower(state, frozen, batch).compile().memory_analysis()
    assert analysis is not None
    total = sum(x.nbytes for x in jax.tree.leaves(state))
    # Weights, statistics, moments: each new one takes the place of the old one.
    assert analysis.alias_size_in_bytes == total
    new, _ = step(state, frozen, batch)
    assert all(x.is_deleted() for x in jax.tree.leaves(state))
    assert not any(x.is_deleted() for x in jax.tree.leaves((new, frozen)))


@pytest.mark.slow
def test_a_second_run_with_another_seed_compiles_nothing(tmp_path):
    """Every program of the second run, of whatever kind, comes from the compilation cache."""
    misses: list[str] = []

    def listen(event, **kwargs):
        if event == "/jax/compilation_cache/cache_misses":
            misses.append(event)

    stages = ({"train": BLOCK, "bn": "train", "augment": "flip_crop"}, {"train": "from block2"})
    jax.monitoring.register_event_listener(listen)
    try:
        tiny.fit(tmp_path / "first", *stages, seed=0)
        assert misses
        misses.clear()
        tiny.fit(tmp_path / "second", *stages, seed=1)
        assert not misses
    finally:
        jax.monitoring.unregister_event_listener(listen)
