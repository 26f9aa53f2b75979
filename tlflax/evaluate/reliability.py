"""Whether a classifier is right as often as it says: reliability diagram, ECE, Brier score."""

from typing import Any

import numpy as np

from tlflax.evaluate.calibration import fit_temperature, per_example_loss
from tlflax.evaluate.metrics import UNKNOWN, Predictions

BINS = 15
"""Of equal width over the probability of the answer, as in Guo et al. (arXiv:1706.04599)."""

_RESAMPLES = 1000
# Of large test sets fewer resamples are drawn: their intervals are narrow and each costs more.
_DRAWS = 20_000_000
_FEWEST = 200
# Probabilities are float32: below this they are stored as 0.
_SMALLEST = float(np.finfo(np.float32).tiny)


def bin_of(confidence: np.ndarray) -> np.ndarray:
    """Bin of each probability, int [N]: bin m holds (m / BINS, (m + 1) / BINS]."""
    # The small constant keeps float32's 0.6 = 9 / 15 out of the next bin.
    return np.clip(
        np.ceil(confidence.astype(np.float64) * BINS - 1e-6).astype(int) - 1, 0, BINS - 1
    )


def ece(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Expected calibration error: mean over bins of |accuracy - confidence|, weighted by images.

    It is never below 0, and so above 0 by chance on any finite set of images.

    Args:
      confidence: probability of the answer [N].
      correct: whether it is right [N].
    """
    gaps = np.bincount(bin_of(confidence), confidence - correct, BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def ece_interval(confidence: np.ndarray, correct: np.ndarray, seed: int = 0) -> list[float]:
    """Basic ("reverse percentile") bootstrap interval of the ECE, 95 %, over images.

    Resampling adds the same upward bias that the estimate has already; the basic interval takes
    it off, where the percentile interval doubles it. Coverage in simulations of 100 to 1000
    images: .85 to .92 at a true ECE of .04 to .12 (percentile: .45 to .93); at a true ECE of 0 .67
    (percentile: none), so there look at `ece_by_chance`.
    """
    n, gap, bins = len(confidence), confidence - correct, bin_of(confidence)
    found = [
        np.abs(_sums(bins[rows], gap[rows])).sum(1) / n
        for rows in _chunks(n, lambda rng, k: rng.integers(0, n, (k, n)), seed)
    ]
    low, high = np.quantile(np.concatenate(found), [0.025, 0.975])
    middle = 2 * ece(confidence, correct)
    return [max(0.0, float(middle - high)), max(0.0, float(middle - low))]


def ece_by_chance(confidence: np.ndarray, seed: int = 0) -> dict[str, float]:
    """The ECE that these probabilities would show if all of them were true.

    Returns:
      ``mean``, and ``p95``, which one such draw of the answers in 20 exceeds.
    """
    n, bins = len(confidence), bin_of(confidence)
    found = [
        np.abs(_sums(np.broadcast_to(bins, draw.shape), confidence - draw)).sum(1) / n
        for draw in _chunks(n, lambda rng, k: rng.random((k, n)) < confidence, seed)
    ]
    values = np.concatenate(found)
    return {"mean": float(values.mean()), "p95": float(np.quantile(values, 0.95))}


def _chunks(n: int, draw: Any, seed: int):
    """Yields draws of some rows [k, n] at a time."""
    rng, left = np.random.default_rng(seed), max(_FEWEST, min(_RESAMPLES, _DRAWS // n))
    while left:
        k = min(left, max(1, 2_000_000 // n))
        left -= k
        yield draw(rng, k)


def _sums(bins: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sums of each row's values by bin: [k, n] -> [k, BINS]."""
    k = len(bins)
    flat = (bins + BINS * np.arange(k)[:, None]).ravel()
    return np.bincount(flat, values.ravel(), BINS * k).reshape(k, BINS)


def brier(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Brier score: mean squared distance to the truth, summed over classes (0 best, 2 worst).

    G. W. Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather
    Review 78 (1950) 1-3. For two classes it is twice the score of one of them.
    """
    wanted = np.eye(probabilities.shape[1])[labels]
    return float(((probabilities - wanted) ** 2).sum(1).mean())


def diagram(confidence: np.ndarray, correct: np.ndarray) -> list[dict[str, Any]]:
    """The bins: ``low``, ``high``, ``n``, mean ``confidence`` and ``accuracy`` (None if empty)."""
    bins = bin_of(confidence)
    counts = np.bincount(bins, minlength=BINS)
    sums = np.bincount(bins, confidence, BINS), np.bincount(bins, correct, BINS)
    return [
        {
            "low": i / BINS,
            "high": (i + 1) / BINS,
            "n": int(n),
            "confidence": float(sums[0][i] / n) if n else None,
            "accuracy": float(sums[1][i] / n) if n else None,
        }
        for i, n in enumerate(counts)
    ]


def _scores(log_p: np.ndarray, labels: np.ndarray, temperature: float) -> dict[str, Any]:
    z = log_p / temperature
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    confidence, correct = p.max(1), (p.argmax(1) == labels).astype(float)
    return {
        "ece": ece(confidence, correct),
        "ece_ci95": ece_interval(confidence, correct),
        "ece_by_chance": ece_by_chance(confidence),
        "brier": brier(p, labels),
        "loss": float(per_example_loss(log_p, labels, temperature).mean()),
        "reliability": diagram(confidence, correct),
    }


def calibration(
    shown: Predictions, validation: Predictions | None, split: str, *, unseen: bool = True
) -> dict[str, Any] | None:
    """The report's ``calibration`` entry; None without labelled images or finite probabilities.

    Args:
      shown: predictions of the split that is reported.
      validation: those that a temperature is fitted on, None for no temperature.
      split: ``test`` or ``validation``, as the report calls them.
      unseen: whether ``validation`` are other images. If not, there is no ``after``: a temperature
        cannot be judged on the images that it was fitted on.
    """
    known = _known(shown)
    if known is None:
        return None
    log_p, labels = known
    fitted, after = None, None
    other = _known(validation) if validation is not None else None
    if other is not None:
        value = fit_temperature(*other)
        # At an end of its range the loss would fall further still: e.g. all answers are right.
        fitted = {"value": value, "n": len(other[1]), "at_limit": not 0.051 < value < 19.9}
        after = _scores(log_p, labels, value) if unseen else None
    return {
        "split": split,
        "n": len(labels),
        "bins": BINS,
        **_scores(log_p, labels, 1.0),
        "temperature": fitted,
        "after": after,
    }


def _known(p: Predictions) -> tuple[np.ndarray, np.ndarray] | None:
    """Log-probabilities and labels of the labelled images."""
    rows = p.labels != UNKNOWN
    if not rows.any() or not np.isfinite(p.probabilities[rows]).all():
        return None
    return np.log(np.maximum(p.probabilities[rows].astype(np.float64), _SMALLEST)), p.labels[rows]
