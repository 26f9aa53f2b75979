"""Running a classifier over evaluation batches."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


def log_probabilities(
    evaluate: Callable[[Any, Any], Any],
    variables: Any,
    batches: Iterator[dict[str, np.ndarray]],
    place: Callable[[dict[str, np.ndarray]], dict[str, Any]],
    examples: int,
    classes: int,
) -> np.ndarray:
    """Log-probabilities float32 ``[examples, classes]``, padding removed, in order.

    Args:
      evaluate: ``(variables, batch) -> log-probabilities [B, classes]``.
      variables: of the model.
      batches: from `tlflax.data.pipeline.eval_batches`.
      place: device placement.
      examples: number of images.
      classes: number of classes.
    """
    result = np.zeros((examples, classes), np.float32)
    for batch in batches:
        real = batch["weight"] > 0
        result[batch["index"][real]] = np.asarray(evaluate(variables, place(batch)))[real]
    return result


def accuracy_and_loss(log_p: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Fraction right, and mean negative log-likelihood, of ``log_p [N, K]``."""
    correct = log_p.argmax(-1) == labels
    return float(correct.mean()), float(-log_p[np.arange(len(labels)), labels].mean())
