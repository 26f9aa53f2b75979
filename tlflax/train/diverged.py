"""A loss that is no longer a number ends the run, with the last good checkpoint kept."""

import math

import jax

from tlflax.errors import TlflaxError
from tlflax.policy.stage import Stage
from tlflax.train.progress import Progress


class Diverged(TlflaxError):
    """The training or validation loss is no longer a number."""


def refuse_nan(
    which: str, loss: jax.Array | float | None, stage: Stage, progress: Progress
) -> None:
    """Does nothing for a finite loss, or none.

    Args:
      which: ``training`` or ``validation``, for the message.
      loss: scalar.
      stage: the current stage.
      progress: where it stands.

    Raises:
      Diverged: the loss is infinite or not a number.
    """
    if loss is None or math.isfinite(float(loss)):
        return
    best = progress.best
    kept = (
        f"the last good checkpoint (step {best['step']}, validation accuracy "
        f"{best['val_accuracy']:.3f}) is kept"
        if best
        else "no checkpoint had been written yet"
    )
    raise Diverged(
        f"the {which} loss of stage {stage.name!r} became {float(loss)} near step "
        f"{progress.global_step}; {kept}. Lower lr (now {stage.lr:g}), add warmup=0.1 or "
        "clip=1.0, and start in a new --workdir"
    )
