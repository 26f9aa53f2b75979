"""Temperature scaling: how good the ranking of classes is, apart from how confident it is."""

import numpy as np


def per_example_loss(log_p: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Negative log-likelihood ``[N]`` of ``log_p [N, K]`` divided by a temperature.

    Args:
      log_p: log-probabilities (or logits).
      labels: ``[N]``.
      temperature: above 1 softens, below 1 sharpens.
    """
    z = log_p.astype(np.float64) / temperature
    z -= z.max(axis=-1, keepdims=True)
    log_q = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
    return -log_q[np.arange(len(labels)), labels]


def fit_temperature(log_p: np.ndarray, labels: np.ndarray) -> float:
    """The temperature with the smallest mean loss (Guo et al., arXiv:1706.04599), in [0.05, 20]."""
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        return float(per_example_loss(log_p, labels, float(np.exp(log_temperature))).mean())

    found = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
    return float(np.exp(found.x))  # pyright: ignore[reportAttributeAccessIssue]


def calibrated_loss(log_p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Per-example loss ``[N]`` at the best temperature."""
    return per_example_loss(log_p, labels, fit_temperature(log_p, labels))


def gain_in_standard_errors(before: np.ndarray, after: np.ndarray) -> float:
    """Mean of the paired differences ``before - after`` over its standard error.

    Args:
      before: a loss per example.
      after: another on the same examples.

    Returns:
      Positive where ``after`` is smaller; 0 where nothing differs.
    """
    difference = before - after
    error = float(difference.std(ddof=1)) / np.sqrt(len(difference)) if len(difference) > 1 else 0
    return float(difference.mean()) / error if error > 0 else 0.0
