"""The jitted functions: train step, evaluation step, frozen prefix. Nothing else is compiled."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tlflax import tree
from tlflax.heads import over_positions
from tlflax.model import Classifier
from tlflax.train.state import State


def _cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Per-example loss ``[B]``."""
    targets = jax.nn.one_hot(labels, logits.shape[-1])
    if smoothing:
        targets = optax.smooth_labels(targets, smoothing)
    return optax.softmax_cross_entropy(logits, targets)


def make_train_step(
    module: Classifier,
    tx: optax.GradientTransformation,
    *,
    seed: tuple[int, int],
    start: str | None = None,
    label_smoothing: float = 0.0,
) -> Callable[[State, Mapping[str, tree.Flat], Mapping[str, Any]], tuple[State, jax.Array]]:
    """Builds ``step(state, frozen, batch) -> (state, loss)``; ``state`` is donated.

    Gradients are taken with respect to ``state["trainable"]`` alone, so everything below the
    lowest trained block has no backward pass. The dropout key is a function of (seed, step).

    Args:
      module: the classifier with its live BatchNorm blocks.
      tx: optimizer of the trained leaves.
      seed: (run seed, stage index).
      start: block whose outputs the batch holds in place of images.
      label_smoothing: in [0, 1).
    """
    live = bool(module.backbone.live)  # type: ignore[attr-defined]

    def step(state, frozen, batch):
        key = jax.random.fold_in(
            jax.random.fold_in(jax.random.key(seed[0]), seed[1]), state["step"]
        )
        weight = batch["weight"]

        def loss_of(trainable):
            variables = {
                "params": tree.unflatten({**frozen["params"], **trainable}),
                "batch_stats": tree.unflatten({**frozen["batch_stats"], **state["statistics"]}),
            }
            logits, updated = module.apply(
                variables,
                batch["image"],
                start=start,
                train=True,
                rngs={"dropout": key},
                mutable=["batch_stats"] if live else [],
            )
            losses = _cross_entropy(logits, batch["label"], label_smoothing)
            loss = jnp.sum(losses * weight) / jnp.maximum(jnp.sum(weight), 1.0)
            return loss, (logits, updated)

        (loss, (logits, updated)), gradient = jax.value_and_grad(loss_of, has_aux=True)(
            state["trainable"]
        )
        updates, opt_state = tx.update(gradient, state["opt_state"], state["trainable"])
        statistics = state["statistics"]
        if live:
            changed = tree.flatten(updated["batch_stats"])
            statistics = {path: changed[path] for path in statistics}
        correct = (logits.argmax(-1) == batch["label"]) * weight
        sums = state["sums"]
        new = {
            "step": state["step"] + 1,
            "trainable": optax.apply_updates(state["trainable"], updates),
            "statistics": statistics,
            "opt_state": opt_state,
            "sums": {
                "loss": sums["loss"] + loss * jnp.sum(weight),
                "correct": sums["correct"] + jnp.sum(correct),
                "weight": sums["weight"] + jnp.sum(weight),
            },
        }
        return new, loss

    return jax.jit(step, donate_argnums=0)


def make_eval_step(
    module: Classifier, start: str | None = None
) -> Callable[[Mapping[str, Any], Mapping[str, Any]], jax.Array]:
    """Builds ``evaluate(variables, batch) -> log-probabilities [B, classes]``."""

    def evaluate(variables, batch):
        logits: Any = module.apply(variables, batch["image"], start=start)
        return jax.nn.log_softmax(logits)

    return jax.jit(evaluate)


def make_prefix(
    module: Classifier, stop: str | None, pool: bool
) -> Callable[[Mapping[str, Any], jax.Array], jax.Array]:
    """Builds ``prefix(variables, images) -> features`` of the frozen part.

    Args:
      module: the classifier.
      stop: last block of the frozen part.
      pool: whether to average over the map already (the head would do it anyway, and the
        average is a fiftieth of the size).
    """

    def prefix(variables, images):
        x: Any = module.apply(variables, images, stop=stop, method="features")
        return over_positions(x) if pool else x

    return jax.jit(prefix)
