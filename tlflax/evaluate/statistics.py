"""Intervals for proportions measured on few images."""

from math import sqrt
from statistics import NormalDist


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
