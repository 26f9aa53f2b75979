"""Optimizers over the trained leaves. Frozen leaves never get here.

Gradients are clipped once over everything trained; each distinct multiplier is a group of
`optax.partition` whose updates are scaled after the optimizer (scaling gradients would do
nothing under Adam).
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optax

OPTIMIZERS = ("sgd", "momentum", "rmsprop", "adam", "adamw", "nadam")
SCHEDULES = ("constant", "cosine", "linear", "one_cycle")

# Keras' defaults, which the tutorials' learning rates were chosen for
# (keras.io/api/optimizers: RMSprop rho 0.9, all epsilon 1e-7).
_EPSILON = 1e-7
_RMSPROP_DECAY = 0.9
_MOMENTUM = 0.9


def make_schedule(name: str, peak: float, steps: int, warmup: float) -> "optax.Schedule":
    """Learning rate as a function of the step within the stage.

    Args:
      name: one of `SCHEDULES`.
      peak: highest rate.
      steps: number of steps in the stage.
      warmup: fraction of them in which the rate rises linearly (for ``one_cycle``: the rising
        part, 0.3 if 0, as in Smith and Topin, arXiv:1708.07120).
    """
    import optax

    steps = max(steps, 1)
    if name == "one_cycle":
        # optax's own has fixed interpolation points that collide below ten steps.
        rise = max(1, math.ceil((warmup or 0.3) * steps))
        up = optax.cosine_onecycle_schedule if steps >= 10 else None
        if up is not None:
            return up(steps, peak, pct_start=rise / steps)
        return optax.warmup_cosine_decay_schedule(peak / 25, peak, rise, max(steps, rise + 1))
    rise = math.ceil(warmup * steps)
    rest = max(1, steps - rise)
    after = {
        "constant": lambda: optax.constant_schedule(peak),
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest),
        "linear": lambda: optax.linear_schedule(peak, 0.0, rest),
    }[name]()
    if not rise:
        return after
    # Starts at peak / rise, not at 0: a step that changes nothing is a wasted step.
    up = optax.linear_schedule(peak / rise, peak, max(1, rise - 1))
    return optax.join_schedules([up, after], [rise])


def _base(name: str, schedule: "optax.Schedule", weight_decay: float, trained: Mapping[str, Any]):
    import optax

    # Decay shrinks kernels only; biases and normalisation scales keep their meaning.
    mask = {path: path.endswith("/kernel") for path in trained}

    def masked(params):
        return {path: mask[path] for path in params}

    if name == "adamw":
        return optax.adamw(schedule, eps=_EPSILON, weight_decay=weight_decay, mask=masked)
    if name in ("sgd", "momentum"):
        momentum = _MOMENTUM if name == "momentum" else None
        decay = optax.add_decayed_weights(weight_decay, masked)
        return optax.chain(decay, optax.sgd(schedule, momentum=momentum))
    if name == "rmsprop":
        return optax.rmsprop(schedule, decay=_RMSPROP_DECAY, eps=_EPSILON)
    return {"adam": optax.adam, "nadam": optax.nadam}[name](schedule, eps=_EPSILON)


def make_optimizer(
    name: str,
    schedule: "optax.Schedule",
    multipliers: Mapping[str, float],
    *,
    weight_decay: float = 0.0,
    clip: float = 0.0,
) -> "optax.GradientTransformation":
    """Builds the optimizer of a stage.

    Args:
      name: one of `OPTIMIZERS`.
      schedule: learning rate of multiplier 1.
      multipliers: path -> multiplier of the *trained* leaves (all above 0).
      weight_decay: decay of kernels, decoupled for ``adamw``, else added to the gradient.
      clip: largest global norm of the whole trained gradient; 0 = off.
    """
    import optax

    labels = {path: f"x{m!r}" for path, m in multipliers.items()}
    groups = {}
    for path, label in labels.items():
        if label not in groups:
            base = _base(name, schedule, weight_decay, multipliers)
            groups[label] = optax.chain(base, optax.scale(multipliers[path]))
    tx = optax.partition(groups, labels)
    return optax.chain(optax.clip_by_global_norm(clip), tx) if clip else tx
