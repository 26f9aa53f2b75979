"""Two classifiers on the same images: which is better, and can these images tell.

Only the images on which exactly one of the two is right say anything about the difference.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

DRAWS = 10_000
"""Bootstrap samples: the ends of the interval move by a few hundredths of its width."""

LEVEL = 0.05
"""Differences with a larger p value are not separable."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """Accuracy of a first classifier minus that of a second on the same N images.

    Attributes:
      n: number of images.
      only_first: images on which only the first is right.
      only_second: images on which only the second is right.
      difference: of the accuracies, as a fraction.
      ci95: ends of the bootstrap interval of the difference.
      p: of the exact McNemar test.
    """

    n: int
    only_first: int
    only_second: int
    difference: float
    ci95: tuple[float, float]
    p: float


def compare_paired(first: np.ndarray, second: np.ndarray, seed: int = 0) -> Difference:
    """Compares two classifiers image by image.

    Args:
      first: bool ``[N]``, whether the first classifier is right about each image.
      second: the same of the second, in the same order.
      seed: of the bootstrap.

    Raises:
      ValueError: no image, or another number of them.
    """
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"compare_paired: shapes {first.shape} and {second.shape}")
    n = len(first)
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    return Difference(
        n,
        only_first,
        only_second,
        (only_first - only_second) / n,
        bootstrap(only_first, only_second, n, seed),
        mcnemar(only_first, only_second),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p value of the exact McNemar test.

    Q. McNemar, "Note on the sampling error of the difference between correlated proportions or
    percentages", Psychometrika 12 (1947) 153-157, in its exact form: were both equally good, each
    of the images on which they differ would fall to either side with probability one half.

    Args:
      only_first: images on which only the first is right.
      only_second: images on which only the second is right.
    """
    from scipy.stats import binomtest

    differing = only_first + only_second
    # Without an image on which they differ there is no evidence of any difference.
    return float(binomtest(only_first, differing, 0.5).pvalue) if differing else 1.0


def bootstrap(
    only_first: int, only_second: int, n: int, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the paired difference of two accuracies.

    B. Efron, R. Tibshirani, "An introduction to the bootstrap" (1993), section 13.3. Each image
    adds +1, -1 or 0 to the difference, so a sample of n images with replacement is one
    multinomial draw of three counts.

    Args:
      only_first: images on which only the first is right (+1).
      only_second: images on which only the second is right (-1).
      n: number of images.
      seed: of the draws.
      confidence: two-sided coverage.

    Returns:
      The lower and the upper end, as fractions. They are equal where the classifiers differ on
      no image; that says nothing about other images.
    """
    rest = n - only_first - only_second
    shares = np.array([only_first, only_second, rest]) / n
    drawn = np.random.default_rng(seed).multinomial(n, shares, DRAWS)
    differences = (drawn[:, 0] - drawn[:, 1]) / n
    tail = (1 - confidence) / 2
    low, high = np.quantile(differences, [tail, 1 - tail])
    return float(low), float(high)


def holm(p: Sequence[float]) -> list[float]:
    """P values adjusted for testing all of them at once, in the order given.

    S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics 6 (1979) 65-70: with all adjusted values below 0.05 called different, the
    probability of even one wrong call is at most 0.05.
    """
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        # A hypothesis is rejected only after every one with a smaller p value.
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = largest
    return adjusted
