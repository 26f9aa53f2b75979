"""Back part of the way from a stage's last weights to its first, as far as validation says.

WiSE-FT (Wortsman et al., arXiv:2109.01903): the straight line between the weights before and after
fine-tuning often passes through better networks than either end.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from tlflax import tree
from tlflax.evaluate.calibration import calibrated_loss, gain_in_standard_errors
from tlflax.evaluate.predict import accuracy_and_loss
from tlflax.evaluate.statistics import accuracy_interval

# Fractions of the way from the first to the last weights; each costs one evaluation.
FRACTIONS = tuple(i / 10 for i in range(11))

Parts = dict[str, tree.Flat]


def mix(first: Parts, last: Parts, fraction: float) -> Parts:
    """``(1 - fraction) * first + fraction * last``, leaf by leaf."""
    return {
        part: {
            path: np.asarray((1 - fraction) * first[part][path] + fraction * value)
            for path, value in leaves.items()
        }
        for part, leaves in last.items()
    }


def choose(
    evaluate: Callable[[float], np.ndarray], labels: np.ndarray, *, may_go_back: bool
) -> dict[str, Any]:
    """Chooses the fraction.

    Fractions are compared by loss at each one's best temperature, because a mixture is also
    better or worse calibrated, which says nothing about its answers. Fraction 0, the result of
    the stages before, is one of them: a stage that does not help changes nothing.

    Args:
      evaluate: fraction -> log-probabilities ``[N, classes]`` of the validation images.
      labels: ``[N]``.
      may_go_back: whether fraction 0 may be the answer.

    Returns:
      The chosen entry of ``tried``, with ``tried`` (all of them: fraction, val_accuracy,
      val_accuracy_ci95, val_loss, calibrated_loss) and ``gain_in_standard_errors`` of the chosen
      one over fraction 0.
    """
    tried, losses = [], []
    for fraction in FRACTIONS:
        log_p = evaluate(fraction)
        accuracy, loss = accuracy_and_loss(log_p, labels)
        losses.append(calibrated_loss(log_p, labels))
        entry: dict[str, Any] = {
            "fraction": fraction,
            "val_accuracy": accuracy,
            "val_accuracy_ci95": accuracy_interval(accuracy, len(labels)),
            "val_loss": loss,
            "calibrated_loss": float(losses[-1].mean()),
        }
        tried.append(entry)
    first = 0 if may_go_back else 1
    best = min(range(first, len(tried)), key=lambda i: tried[i]["calibrated_loss"])
    gain = gain_in_standard_errors(losses[0], losses[best]) if best else 0.0
    return {**tried[best], "gain_in_standard_errors": gain, "tried": tried}
