"""One step: its random numbers, its loss, and what padding does (nothing)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from tlflax.train.state import merge, split_variables
from tlflax.train.step import make_train_step

# Donating what is only read (the frozen leaves) shows as this warning on a CPU.
pytestmark = pytest.mark.filterwarnings("error:Some donated buffers")

RNG = np.random.default_rng(0)
BATCH = {
    "image": RNG.integers(0, 255, (5, 16, 16, 3), np.uint8),
    "label": np.array([0, 1, 2, 0, 1]),
    "weight": np.ones(5, np.float32),
}


def one_step(seed=(0, 0), step=0, batch=BATCH, dropout=0.5, rate=0.0, **options):
    """Loss and state after one SGD step of the head (whose kernel does not start at zero)."""
    model = tiny.model(dropout=dropout, endpoint="block1_pool")
    variables = model.init(0)
    head = variables["params"]["head"]["logits"]
    head["kernel"] = jax.random.normal(jax.random.key(1), head["kernel"].shape)
    (stage,) = tiny.stages({})
    tx = optax.sgd(rate)
    state, frozen = split_variables(variables, model.policy(stage), tx)
    state = jax.tree.map(np.array, state | {"step": jnp.asarray(step, jnp.int32)})
    new, loss = make_train_step(model.module(), tx, seed=seed, **options)(state, frozen, batch)
    return float(loss), new, model, merge(new, frozen)


def test_dropout_is_a_function_of_seed_stage_and_step():
    losses = [one_step(*k)[0] for k in (((0, 0), 0), ((0, 0), 1), ((0, 1), 0), ((1, 0), 0))]
    assert len(set(losses)) == 4
    assert one_step((0, 0), 1)[0] == losses[1]
    assert one_step((0, 0), 0)[1]["step"] == 1


def by_hand(batch, smoothing=0.0):
    _, _, model, variables = one_step(dropout=0.0)
    logits = np.asarray(model.module().apply(variables, batch["image"]), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    target = np.eye(3)[batch["label"]] * (1 - smoothing) + smoothing / 3
    return -(target * log_p).sum(1), logits.argmax(1)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_and_running_sums(smoothing):
    loss, state, *_ = one_step(dropout=0.0, label_smoothing=smoothing)
    each, predicted = by_hand(BATCH, smoothing)
    assert loss == pytest.approx(each.mean(), rel=1e-5)
    sums = {k: float(v) for k, v in state["sums"].items()}
    assert sums["loss"] == pytest.approx(each.sum(), rel=1e-5)
    assert sums["correct"] == (predicted == BATCH["label"]).sum()
    assert sums["weight"] == 5


def test_padding_changes_nothing():
    padded = {k: np.concatenate([v, v[:3]]) for k, v in BATCH.items()}
    padded["weight"][5:] = 0
    a, state_a, *_ = one_step(dropout=0.0, rate=0.1)
    b, state_b, *_ = one_step(dropout=0.0, rate=0.1, batch=padded)
    assert a == pytest.approx(b, rel=1e-6)
    for path, value in state_a["trainable"].items():
        np.testing.assert_allclose(value, state_b["trainable"][path], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(state_a["sums"]["weight"], state_b["sums"]["weight"])
