"""One train step of a block or two, small enough to compile in a fraction of a second."""

import jax
import numpy as np
import optax
import tiny

from tlflax.train.state import split_variables
from tlflax.train.step import make_train_step

BELOW, BLOCK = "block2_pool", "block3"
ROWS = 12


def a_batch(rows=ROWS, shape=(4, 4, 32), seed=0):
    """Features of the block below (or images, for three channels); a few rows are padding."""
    rng = np.random.default_rng(seed)
    weight = np.ones(rows, np.float32)
    # Not the same number in all parts: a mean of their means would be another number.
    weight[[i for i in (1, 4, 10) if i < rows]] = 0
    image = rng.integers(0, 255, (rows, *shape), np.uint8)
    if shape[-1] != 3:
        image = rng.standard_normal((rows, *shape), np.float32)
    return {"image": image, "label": np.arange(rows, dtype=np.int32) % 3, "weight": weight}


def prepared(model, train=BLOCK, bn="stored", tx=None):
    """Policy, state (on the host) and frozen leaves; the logits do not start at zero."""
    (stage,) = tiny.stages({"train": train, "bn": bn})
    policy = model.policy(stage)
    variables = model.init(0)
    logits = variables["params"]["head"]["logits"]
    # From zero logits no gradient would reach the backbone.
    noise = np.random.default_rng(1).standard_normal(logits["kernel"].shape, np.float32)
    logits["kernel"] = noise / 8
    state, frozen = split_variables(variables, policy, tx or optax.sgd(0.1))
    return policy, jax.tree.map(np.array, state), frozen


def stepped(model, train=BLOCK, bn="stored", start=BELOW, batch=None, remat=False, **options):
    """Loss and new state (on the host) of one step."""
    tx = options.pop("tx", None) or optax.sgd(0.1)
    policy, state, frozen = prepared(model, train, bn, tx)
    module = model.module(policy.live, remat=remat)
    step = make_train_step(module, tx, seed=options.pop("seed", (0, 0)), start=start, **options)
    new, loss = step(state, frozen, a_batch() if batch is None else batch)
    return float(loss), jax.device_get(new)


def lowered(model, batch, train="all", bn="stored", start=None, remat=False, **options):
    """The program of a step, for a batch of which only the shapes count."""
    (stage,) = tiny.stages({"train": train, "bn": bn})
    policy = model.policy(stage)
    tx = options.pop("tx", None) or optax.sgd(0.1)
    state, frozen = jax.eval_shape(lambda v: split_variables(v, policy, tx), model.abstract)
    module = model.module(policy.live, remat=remat)
    step = make_train_step(module, tx, seed=options.pop("seed", (0, 0)), start=start, **options)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
    return step.lower(state, frozen, shapes)
