"""Optimizers against hand-written updates and plain optax on the same leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tlflax.policy.optimizer import OPTIMIZERS, SCHEDULES, make_optimizer, make_schedule

PATHS = ("backbone/a/c/kernel", "backbone/a/c/bias", "head/logits/kernel")


def leaves(seed):
    keys = jax.random.split(jax.random.key(seed), len(PATHS))
    return {p: jax.random.normal(k, (3, 2)) for p, k in zip(PATHS, keys, strict=True)}


def run(tx, params, steps=5):
    state = tx.init(params)
    for i in range(steps):
        updates, state = tx.update(leaves(100 + i), state, params)
        params = optax.apply_updates(params, updates)
    return params


def by_hand(name, params, lr, decay=0.0, steps=5):
    """Textbook formulas in numpy float64, with Keras' epsilon."""
    eps, out = 1e-7, {}
    for path, start in params.items():
        w = np.asarray(start, np.float64)
        m, v = np.zeros_like(w), np.zeros_like(w)
        wd = decay if path.endswith("kernel") else 0.0
        for i in range(steps):
            g, t = np.asarray(leaves(100 + i)[path], np.float64), i + 1
            if name in ("sgd", "momentum"):
                m = (0.9 * m if name == "momentum" else 0) + g + wd * w
                w = w - lr * m
            elif name == "rmsprop":
                v = 0.9 * v + 0.1 * g * g
                w = w - lr * g / np.sqrt(v + eps)
            else:
                m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
                first = m / (1 - 0.9**t)
                if name == "nadam":
                    first = 0.9 * m / (1 - 0.9 ** (t + 1)) + 0.1 * g / (1 - 0.9**t)
                w = w - lr * (first / (np.sqrt(v / (1 - 0.999**t)) + eps) + wd * w)
        out[path] = w
    return out


def close(a, b):
    # Five float32 updates against float64.
    for path in a:
        np.testing.assert_allclose(a[path], b[path], rtol=2e-5, atol=2e-6, err_msg=path)


def one(name, **options):
    rates = dict.fromkeys(PATHS, 1.0)
    return make_optimizer(name, optax.constant_schedule(0.05), rates, **options)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_formula(name):
    close(run(one(name), leaves(0)), by_hand(name, leaves(0), 0.05))


@pytest.mark.parametrize("name", ["adamw", "sgd", "momentum"])
def test_weight_decay_shrinks_kernels_only(name):
    decayed = run(one(name, weight_decay=0.3), leaves(0))
    close(decayed, by_hand(name, leaves(0), 0.05, decay=0.3))
    plain = run(one(name), leaves(0))
    np.testing.assert_array_equal(decayed[PATHS[1]], plain[PATHS[1]])
    assert np.abs(decayed[PATHS[0]] - plain[PATHS[0]]).max() > 1e-3


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_multipliers_scale_updates_like_separate_optimizers(name):
    rates = dict(zip(PATHS, (0.1, 0.1, 1.0), strict=True))
    decay = 0.2 if name == "adamw" else 0.0
    together = run(
        make_optimizer(name, optax.constant_schedule(0.05), rates, weight_decay=decay), leaves(0)
    )
    for multiplier in (0.1, 1.0):
        paths = [p for p in PATHS if rates[p] == multiplier]
        close(
            {p: together[p] for p in paths},
            by_hand(name, {p: leaves(0)[p] for p in paths}, 0.05 * multiplier, decay),
        )


def test_nearly_equal_multipliers_stay_apart():
    rates = dict(zip(PATHS, (1.0, 1.0000001, 1.0), strict=True))
    tx = make_optimizer("sgd", optax.constant_schedule(1.0), rates)
    assert len(tx.init(leaves(0)).inner_states) == 2


def test_clip_is_global_over_all_groups():
    rates = dict(zip(PATHS, (0.1, 0.5, 1.0), strict=True))
    tx = make_optimizer("sgd", optax.constant_schedule(1.0), rates, clip=1.0)
    gradient = {p: jnp.full((3, 2), 50.0) for p in PATHS}
    updates, _ = tx.update(gradient, tx.init(leaves(0)), leaves(0))
    unscaled = {p: u / rates[p] for p, u in updates.items()}
    # Clipping in each of the three groups would give 1.73, in two of them 1.41.
    assert np.sqrt(sum(np.sum(u**2) for u in unscaled.values())) == pytest.approx(1.0, abs=1e-5)
    small = {p: jnp.full((3, 2), 0.01) for p in PATHS}
    updates, _ = tx.update(small, tx.init(leaves(0)), leaves(0))
    np.testing.assert_allclose(updates[PATHS[2]], -0.01, rtol=1e-6)


def test_state_has_trained_leaves_only():
    params = leaves(0)
    tx = one("adam")
    sizes = [x.size for x in jax.tree.leaves(tx.init(params))]
    # Two moments a leaf, and a counter in each of Adam and its schedule.
    assert sorted(sizes) == [1, 1] + [6] * 6


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 9, 10])
@pytest.mark.parametrize("warmup", [0.0, 0.3, 1.0])
def test_schedules_are_finite_positive_and_bounded(name, steps, warmup):
    rates = rates_of(name, steps, warmup)
    assert np.isfinite(rates).all()
    assert (rates >= 0).all()
    assert rates.max() <= 0.2 * (1 + 1e-6)
    assert rates[0] > 0, "the first step would change nothing"


def rates_of(name, steps, warmup=0.0):
    f = make_schedule(name, 0.2, steps, warmup)
    # One length for all: each would be compiled anew.
    return np.array(jax.vmap(f)(jnp.arange(100)))[:steps]


def test_schedule_shapes():
    assert rates_of("constant", 10) == pytest.approx(0.2)
    np.testing.assert_allclose(
        rates_of("cosine", 50), 0.1 * (1 + np.cos(np.pi * np.arange(50) / 50)), atol=1e-7
    )
    assert rates_of("cosine", 100)[-1] < 0.2 * 1e-3
    np.testing.assert_allclose(rates_of("linear", 50), 0.2 * (1 - np.arange(50) / 50), atol=1e-7)


@pytest.mark.parametrize("name", ["constant", "cosine", "linear"])
def test_warmup_rises_evenly_to_the_peak(name):
    rates = rates_of(name, 100, 0.1)
    np.testing.assert_allclose(rates[:10], 0.2 * np.arange(1, 11) / 10, rtol=1e-5)
    assert rates[10] == pytest.approx(0.2)
    assert rates.argmax() in (9, 10)


@pytest.mark.parametrize(("steps", "top"), [(5, 2), (9, 3), (10, 3), (100, 30)])
def test_one_cycle_rises_then_falls(steps, top):
    rates = rates_of("one_cycle", steps)
    assert rates.argmax() == top
    assert rates[top] == pytest.approx(0.2, rel=1e-5)
    assert (np.diff(rates[: top + 1]) > 0).all()
    assert (np.diff(rates[top:]) < 0).all()
    assert rates[0] == pytest.approx(0.2 / 25, rel=1e-5)
