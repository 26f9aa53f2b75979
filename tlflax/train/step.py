"""The jitted functions: train step, evaluation step, frozen prefix. Nothing else is compiled.

What differs between runs of one network (the seed, the stage) is an argument of these functions
and no constant in them, so that the program compiled for one seed serves every other.

In a ``bfloat16`` module the backbone's parameters are cast here, inside the compiled function:
master weights, gradients, optimizer state, BatchNorm statistics, head and loss are float32.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tlflax import tree
from tlflax.errors import ConfigError, suggest
from tlflax.heads import over_positions
from tlflax.model import Classifier
from tlflax.train import compiler
from tlflax.train.mixing import MIXING, mix
from tlflax.train.parts import in_parts
from tlflax.train.state import State

PRECISIONS = ("auto", "float32", "bfloat16")


def compute_precision(name: str) -> str:
    """What the backbone computes in: ``auto`` is bfloat16 on GPU and TPU, float32 on CPU.

    Raises:
      ConfigError: unknown name.
    """
    if name not in PRECISIONS:
        hint = suggest(str(name), PRECISIONS)
        raise ConfigError(f"precision must be {', '.join(PRECISIONS)}, got {name!r}{hint}")
    if name == "auto":
        # CPUs have no bfloat16 units of their own: they would convert back and forth.
        return "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return name


def _apply(module: Classifier, variables: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
    """``module.apply`` with the backbone's parameters in the module's precision."""
    precision = module.backbone.precision  # type: ignore[attr-defined]
    params = dict(variables["params"])
    if "backbone" in params:
        # Statistics stay float32, as their running averages need the digits.
        params["backbone"] = jax.tree.map(lambda p: p.astype(precision), params["backbone"])
    return module.apply({**variables, "params": params}, *args, **kwargs)


def _targets(
    rows: Mapping[str, jax.Array], classes: int, smoothing: float, class_weights: jax.Array | None
) -> jax.Array:
    """What the logits are compared with, ``[B, classes]``.

    A mixed row has the targets of its two labels, by share; each label's targets are smoothed and
    then multiplied by the weight of its class.
    """

    def of(labels: jax.Array) -> jax.Array:
        targets = jax.nn.one_hot(labels, classes)
        if smoothing:
            targets = optax.smooth_labels(targets, smoothing)
        return targets if class_weights is None else targets * class_weights[labels][:, None]

    if "other" not in rows:
        return of(rows["label"])
    share = rows["share"][:, None]
    return share * of(rows["label"]) + (1 - share) * of(rows["other"])


class TrainStep:
    """``step(state, frozen, batch) -> (state, loss)``, compiled; ``state`` is donated.

    Args:
      function: of (state, frozen, batch, key data, class weights).
      seed: (run seed, stage index).
      remat: whether there are rematerialised blocks in it.
      class_weights: float32 ``[classes]``, or ``None`` for none.

    Attributes:
      compiled: the jitted function.
    """

    def __init__(
        self,
        function: Callable[..., tuple[State, jax.Array]],
        seed: tuple[int, int],
        remat: bool = False,
        class_weights: np.ndarray | None = None,
    ):
        # This pass of XLA:CPU removes the barriers before equal computations are merged, and with
        # them all that rematerialisation saves.
        more: dict[str, Any] = {}
        if remat:
            more["xla_disable_hlo_passes"] = "cse_barrier_expander"
        self.compiled = jax.jit(
            function, donate_argnums=0, compiler_options=compiler.options(**more)
        )
        key = jax.random.fold_in(jax.random.key(seed[0]), seed[1])
        self._key = np.asarray(jax.random.key_data(key))
        self._weights = class_weights

    def __call__(
        self, state: State, frozen: Mapping[str, tree.Flat], batch: Mapping[str, Any]
    ) -> tuple[State, jax.Array]:
        """Does one step."""
        return self.compiled(state, frozen, batch, self._key, self._weights)

    def lower(self, state: Any, frozen: Any, batch: Any) -> jax.stages.Lowered:
        """The program for these (perhaps abstract) arguments, not yet compiled."""
        return self.compiled.lower(state, frozen, batch, self._key, self._weights)


def make_train_step(
    module: Classifier,
    tx: optax.GradientTransformation,
    *,
    seed: tuple[int, int],
    start: str | None = None,
    label_smoothing: float = 0.0,
    accumulate: int = 1,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    class_weights: np.ndarray | None = None,
) -> TrainStep:
    """Builds ``step(state, frozen, batch) -> (state, loss)``; ``state`` is donated.

    Gradients are taken with respect to ``state["trainable"]`` alone, so everything below the
    lowest trained block has no backward pass. The dropout key is a function of (seed, step), and
    of the part where a batch is cut into several.

    Args:
      module: the classifier with its live BatchNorm blocks.
      tx: optimizer of the trained leaves.
      seed: (run seed, stage index).
      start: block whose outputs the batch holds in place of images.
      label_smoothing: in [0, 1).
      accumulate: number of parts of each batch, computed one after the other; the loss is the
        mean over all real rows of the batch, whatever part they are in. Rows must be divisible
        by it. Live BatchNorm sees a part at a time and updates its statistics after each.
      mixup: Beta parameter, 0 = off. The whole batch is mixed before it is cut into parts; what is
        mixed is what the step begins with, with ``start`` features and not pixels. An answer
        counts as correct if it is the label of the larger share.
      cutmix: Beta parameter, 0 = off; see `tlflax.train.mixing.mix`.
      class_weights: float32 ``[classes]``: the loss is ``sum(class weight * loss) / real rows``,
        as Keras' ``class_weight`` has it; ``None`` for none. An argument of the program.
    """
    live = bool(module.backbone.live)  # type: ignore[attr-defined]

    def share(state, frozen, rows, key, total, class_weights):
        """What some rows add to the gradient and the sums of their batch of weight ``total``."""

        def loss_of(trainable):
            variables = {
                "params": tree.unflatten({**frozen["params"], **trainable}),
                "batch_stats": tree.unflatten({**frozen["batch_stats"], **state["statistics"]}),
            }
            logits, updated = _apply(
                module,
                variables,
                rows["image"],
                start=start,
                train=True,
                rngs={"dropout": key},
                mutable=["batch_stats"] if live else [],
            )
            targets = _targets(rows, logits.shape[-1], label_smoothing, class_weights)
            losses = optax.softmax_cross_entropy(logits, targets)
            return jnp.sum(losses * rows["weight"]) / total, (logits, updated)

        (loss, (logits, updated)), gradient = jax.value_and_grad(loss_of, has_aux=True)(
            state["trainable"]
        )
        statistics = state["statistics"]
        if live:
            changed = tree.flatten(updated["batch_stats"])
            statistics = {path: changed[path] for path in statistics}
        correct = jnp.sum((logits.argmax(-1) == rows["label"]) * rows["weight"])
        return {"gradient": gradient, "loss": loss, "correct": correct}, statistics

    def step(state, frozen, batch, key, class_weights=None):
        key = jax.random.fold_in(jax.random.wrap_key_data(key), state["step"])
        weight = jnp.sum(batch["weight"])
        total = jnp.maximum(weight, 1.0)
        if mixup or cutmix:
            batch = mix(batch, jax.random.fold_in(key, MIXING), mixup, cutmix)

        def add(carry, part):
            so_far, statistics = carry
            rows, i = part
            current = {**state, "statistics": statistics}
            key_of_part = jax.random.fold_in(key, i)
            found, statistics = share(current, frozen, rows, key_of_part, total, class_weights)
            return (jax.tree.map(jnp.add, so_far, found), statistics), None

        if accumulate == 1:
            found, statistics = share(state, frozen, batch, key, total, class_weights)
        else:
            zero = jnp.zeros((), jnp.float32)
            nothing = {
                "gradient": jax.tree.map(jnp.zeros_like, state["trainable"]),
                "loss": zero,
                "correct": zero,
            }
            parts = (_parts(batch, accumulate), jnp.arange(accumulate))
            (found, statistics), _ = jax.lax.scan(add, (nothing, state["statistics"]), parts)
        updates, opt_state = tx.update(found["gradient"], state["opt_state"], state["trainable"])
        sums = state["sums"]
        new = {
            "step": state["step"] + 1,
            "trainable": optax.apply_updates(state["trainable"], updates),
            "statistics": statistics,
            "opt_state": opt_state,
            "sums": {
                "loss": sums["loss"] + found["loss"] * weight,
                "correct": sums["correct"] + found["correct"],
                "weight": sums["weight"] + weight,
            },
        }
        return new, found["loss"]

    remat = module.backbone.remat  # type: ignore[attr-defined]
    return TrainStep(step, seed, remat, class_weights)


def _parts(batch: Mapping[str, jax.Array], number: int) -> dict[str, jax.Array]:
    """Cuts ``[B, ...]`` into ``[number, B / number, ...]``.

    Part k has the rows k, k + number, ...: where a batch is split over devices, each of them has
    its share of every part, and no row moves between devices.

    Raises:
      ValueError: the rows are not divisible.
    """
    rows = len(batch["weight"])
    if rows % number:
        raise ValueError(f"a batch of {rows} rows cannot be cut into {number} equal parts")
    # "index" (where there is one) is of the host's interest alone.
    return {
        k: jnp.reshape(v, (rows // number, number, *v.shape[1:])).swapaxes(0, 1)
        for k, v in batch.items()
        if k != "index"
    }


def make_eval_step(
    module: Classifier, start: str | None = None
) -> Callable[[Mapping[str, Any], Mapping[str, Any]], jax.Array]:
    """Builds ``evaluate(variables, batch) -> log-probabilities [B, classes]``, float32."""

    def evaluate(variables, batch):
        def run(x):
            return jax.nn.log_softmax(_apply(module, variables, x, start=start))

        return in_parts(run, batch["image"]) if start is None else run(batch["image"])

    return jax.jit(evaluate, compiler_options=compiler.options(forward=True))


def make_prefix(
    module: Classifier, stop: str | None, pool: bool
) -> Callable[[Mapping[str, Any], jax.Array], jax.Array]:
    """Builds ``prefix(variables, images) -> features`` of the frozen part.

    Maps are in the module's precision, averages over them float32.

    Args:
      module: the classifier.
      stop: last block of the frozen part.
      pool: whether to average over the map already (the head would do it anyway, and the
        average is a fiftieth of the size).
    """

    def prefix(variables, images):
        def run(images):
            x: Any = _apply(module, variables, images, stop=stop, method="features")
            return over_positions(x) if pool else x

        return in_parts(run, images)

    return jax.jit(prefix, compiler_options=compiler.options(forward=True))
