"""The trained part of a model, apart from the frozen part.

``state`` holds what a step changes (and is donated); ``frozen`` what it only reads. Both are flat
dicts of slash-joined paths, so that a leaf is in exactly one of them.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tlflax import tree
from tlflax.policy.policy import Policy

State = dict[str, Any]


def fresh_sums() -> dict[str, jax.Array]:
    """Zeros for the running training metrics since the last evaluation."""
    return {name: jnp.zeros((), jnp.float32) for name in ("loss", "correct", "weight")}


def _is_live(path: str, policy: Policy) -> bool:
    return path.split("/")[1] in policy.live


def split_variables(
    variables: Mapping[str, Any], policy: Policy, tx: optax.GradientTransformation
) -> tuple[State, dict[str, tree.Flat]]:
    """Splits variables into ``(state, frozen)`` and starts the optimizer on the trained leaves.

    Args:
      variables: ``{"params": ..., "batch_stats": ...}``.
      policy: decides which leaf goes where.
      tx: the stage's optimizer.

    Returns:
      ``state`` with ``step``, ``trainable``, ``statistics`` (live BatchNorm), ``opt_state``,
      ``sums``; ``frozen`` with ``params`` and ``batch_stats``.
    """
    params = tree.flatten(variables["params"])
    stats = tree.flatten(variables["batch_stats"])
    trainable = {p: v for p, v in params.items() if policy.multipliers[p] > 0}
    live = {p: v for p, v in stats.items() if _is_live(p, policy)}
    state = {
        "step": jnp.zeros((), jnp.int32),
        "trainable": trainable,
        "statistics": live,
        "opt_state": tx.init(trainable),
        "sums": fresh_sums(),
    }
    frozen = {
        "params": {p: v for p, v in params.items() if p not in trainable},
        "batch_stats": {p: v for p, v in stats.items() if p not in live},
    }
    return state, frozen


def merge(state: State, frozen: Mapping[str, tree.Flat]) -> dict[str, Any]:
    """The full variables again."""
    return {
        "params": tree.unflatten({**frozen["params"], **state["trainable"]}),
        "batch_stats": tree.unflatten({**frozen["batch_stats"], **state["statistics"]}),
    }


def frozen_digest(variables: Mapping[str, Any], policy: Policy) -> str:
    """Digest of every leaf that must not change during a stage."""
    params = tree.flatten(variables["params"])
    stats = tree.flatten(variables["batch_stats"])
    leaves = {f"params/{p}": v for p, v in params.items() if policy.multipliers[p] == 0}
    leaves |= {f"batch_stats/{p}": v for p, v in stats.items() if not _is_live(p, policy)}
    return tree.digest(leaves)


def above(flat: tree.Flat, boundary: str | None, blocks: tuple[str, ...]) -> tree.Flat:
    """Leaves that a pass starting after ``boundary`` needs; all of them for ``None``."""
    if boundary is None:
        return flat
    # A cut inside a block leaves no block above the boundary: only the head remains.
    passed = set(blocks[: blocks.index(boundary) + 1]) if boundary in blocks else set(blocks)
    return {p: v for p, v in flat.items() if p.split("/")[1] not in passed or p[:5] == "head/"}
