"""Frozen means frozen: values, statistics, optimizer state, and the work that is not done."""

import jax
import numpy as np
import pytest
import tiny

from tlflax import tree
from tlflax.policy.optimizer import OPTIMIZERS, make_optimizer, make_schedule
from tlflax.train import stage_run
from tlflax.train.state import split_variables
from tlflax.train.step import make_train_step

TUNE = {"train": ("block3",), "epochs": 1}


def is_frozen(path: str) -> bool:
    return path.startswith(("params/backbone/block1", "params/backbone/block2", "batch_stats/"))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_leaves_and_statistics_keep_every_bit(name):
    model = tiny.model(endpoint="block2_pool")
    (stage,) = tiny.stages({"train": "block2"} | {"optimizer": name, "clip": 1.0})
    decay = 0.5 if name in ("adamw", "sgd", "momentum") else 0.0
    policy = model.policy(stage)
    rates = {p: policy.multipliers[p] for p in policy.trained}
    tx = make_optimizer(name, make_schedule("constant", 0.01, 3, 0), rates, weight_decay=decay)
    start = model.init(0)
    state, frozen = split_variables(start, policy, tx)
    before = tiny.flat(start)
    # No leaf of the optimizer's state belongs to a frozen parameter: shapes and number.
    trained = sorted(v.shape for p, v in tree.flatten(start["params"]).items() if p in rates)
    slots = {"sgd": 0, "momentum": 1, "rmsprop": 1}.get(name, 2)
    arrays = sorted(x.shape for x in jax.tree.leaves(state["opt_state"]) if x.ndim)
    assert arrays == sorted(trained * slots)
    # From the images once, elsewhere from where the training begins: less to compile.
    below = None if name == "adamw" else "block1_pool"
    step = make_train_step(model.module(), tx, seed=(0, 0), start=below)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (4, 16, 16, 3), np.uint8)
    batch = {
        "image": rng.standard_normal((4, 8, 8, 16), np.float32) if below else images,
        "label": np.array([0, 1, 2, 0]),
        "weight": np.ones(4, np.float32),
    }
    state = jax.tree.map(np.array, state)
    for _ in range(3):
        state, _ = step(state, frozen, batch)
    after = tiny.flat(stage_run.merge(state, frozen))
    assert after.keys() == before.keys()
    for path, value in before.items():
        trains = path.startswith(("params/head", "params/backbone/block2"))
        assert (after[path].tobytes() == value.tobytes()) != trains, path


def test_live_statistics_move_and_only_those(tmp_path):
    start = tiny.flat(tiny.model().init(0))
    out = tiny.fit(tmp_path, TUNE | {"bn": "train", "augment": "flip_crop"})
    after = tiny.flat(out.variables)
    for path, value in start.items():
        moved = after[path].tobytes() != value.tobytes()
        assert moved == (not is_frozen(path) or path.startswith("batch_stats/backbone/block3"))
    assert out.stages[0]["frozen_unchanged"] is True
    assert out.stages[0]["policy"][2]["batchnorm"] == "batch"


def test_a_broken_freeze_is_found(tmp_path, monkeypatch):
    real = stage_run.make_train_step

    def leaking(*args, **kwargs):
        step = real(*args, **kwargs)

        def leak(state, frozen, batch):
            # What chain(freeze, adamw) does: a little decay everywhere.
            for path in frozen["params"]:
                frozen["params"][path] = frozen["params"][path] * 0.999
            return step(state, frozen, batch)

        return leak

    monkeypatch.setattr(stage_run, "make_train_step", leaking)
    with pytest.raises(RuntimeError, match="frozen leaves changed during stage 's0'"):
        # block2 is frozen above the trained block: a step reads it.
        small = tiny.model(endpoint="block2_pool")
        tiny.fit(tmp_path, {"train": "block1"}, network=small, cache="off")


def test_a_head_step_costs_a_forward_pass():
    from tlflax.model import Architecture, Model

    network = Model(Architecture("mobilenet_v2_0.35", "auto", ("a", "b"), 64, dropout=0.2))
    variables = network.abstract
    batch = {
        "image": jax.ShapeDtypeStruct((4, 64, 64, 3), np.uint8),
        "label": jax.ShapeDtypeStruct((4,), np.int32),
        "weight": jax.ShapeDtypeStruct((4,), np.float32),
    }

    def step(*train):
        (stage,) = tiny.stages({"train": train})
        policy = network.policy(stage)
        rates = {p: policy.multipliers[p] for p in policy.trained}
        tx = make_optimizer(
            "adamw", make_schedule("cosine", 1e-3, 10, 0.1), rates, weight_decay=1e-4, clip=1.0
        )
        state, frozen = jax.eval_shape(lambda v: split_variables(v, policy, tx), variables)
        made = make_train_step(network.module(), tx, seed=(0, 0))
        return made.lower(state, frozen, batch)

    def flops(lowered) -> float:
        return lowered.cost_analysis()["flops"]

    module = network.module()
    forward = jax.jit(lambda v, x: module.apply(v, x)).lower(variables, batch["image"])
    # Forward and backward through a [B, 1280] x [1280, 2] product.
    head = 3 * 2 * 4 * 1280 * 2
    # Two multiplier groups in the head: partition must not bring the backward pass back.
    frozen = step(("head/logits/bias", 0.5))
    limit = 1.1 * (flops(forward.compile()) + head)
    assert flops(frozen.compile()) < limit
    # Full training is over it, compiled or not (compiling it takes half a minute).
    assert flops(step("all")) > 2 * limit
