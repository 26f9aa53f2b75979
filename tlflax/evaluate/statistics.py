"""Intervals for proportions measured on few images."""

from collections.abc import Mapping
from math import ceil, sqrt
from statistics import NormalDist
from typing import Any

# Width of a 95 % interval beyond which an accuracy says little: 17 of 18 right is 74-99 %.
WIDE = 0.2


def wilson(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the Wilson score interval of a proportion.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal
    of the American Statistical Association 22 (1927) 209-212. Unlike ``p +- 1.96 s`` it stays
    inside [0, 1] and has a width at 0 and at ``n`` correct, which is where small test sets end up.

    Args:
      correct: number of correct predictions.
      n: number of predictions; with none of them nothing is known and the result is (0, 1).
      confidence: two-sided coverage, strictly between 0 and 1.

    Returns:
      The lower and the upper end, as fractions.

    Raises:
      ValueError: if the counts are not ``0 <= correct <= n`` or the confidence is not in (0, 1).
    """
    if not 0 <= correct <= n:
        raise ValueError(f"wilson: need 0 <= correct <= n, got correct={correct}, n={n}")
    if not 0 < confidence < 1:
        raise ValueError(f"wilson: confidence must be between 0 and 1, got {confidence}")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = correct / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # The ends are exactly 0 and 1 at the extremes; rounding would leave 1e-17.
    low = 0.0 if correct == 0 else max(0.0, centre - half)
    high = 1.0 if correct == n else min(1.0, centre + half)
    return low, high


def accuracy_interval(accuracy: float, n: int) -> list[float]:
    """Returns the 95 % interval of an accuracy measured on n predictions (`wilson`)."""
    return list(wilson(round(accuracy * n), n))


def images_needed(accuracy: float, width: float, confidence: float = 0.95) -> int:
    """Returns the smallest sample on which `wilson`'s interval is at most ``width`` wide.

    Args:
      accuracy: the proportion that is expected.
      width: upper end minus lower end, strictly between 0 and 1.
      confidence: as in `wilson`.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    # (width / 2)^2 (1 + z^2/n)^2 = z^2 (p(1-p)/n + z^2/4n^2), a quadratic in 1/n.
    a = z**2 * (width**2 - 1)
    b = 2 * width**2 - 4 * accuracy * (1 - accuracy)
    c = width**2 / z**2
    return ceil(2 * a / (-b - sqrt(b * b - 4 * a * c)))


def check_interval(score: Mapping[str, Any] | None) -> list[str]:
    """Says so if a test set is too small for its accuracy to mean much.

    Args:
      score: with ``accuracy``, ``accuracy_ci95`` and ``n`` (`tlflax.evaluate.metrics.summarise`).

    Returns:
      One sentence, or nothing.
    """
    if not score:
        return []
    low, high = score["accuracy_ci95"]
    if high - low <= WIDE:
        return []
    needed = images_needed(score["accuracy"], WIDE / 2)
    return [
        f"the test accuracy {score['accuracy']:.1%} is measured on {score['n']} images: the 95 % "
        f"interval is {low:.0%} to {high:.0%}; about {needed} test images would narrow it to "
        f"{100 * WIDE / 2:.0f} points (add images, or raise data_splits' test)"
    ]
