import numpy as np
import pytest

from tlflax.evaluate.calibration import (
    calibrated_loss,
    fit_temperature,
    gain_in_standard_errors,
    per_example_loss,
)


def sample(n=4000, classes=4, seed=0):
    """Logits whose softmax is the true distribution of the labels: temperature 1 is right."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, classes))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([rng.choice(classes, p=row) for row in p])
    return logits, labels


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_temperature_undoes_a_scale(scale):
    logits, labels = sample()
    assert fit_temperature(logits * scale, labels) == pytest.approx(scale, rel=0.1)
    plain = calibrated_loss(logits, labels).mean()
    assert calibrated_loss(logits * scale, labels).mean() == pytest.approx(plain, rel=1e-4)
    if scale != 1.0:
        assert per_example_loss(logits * scale, labels).mean() > plain * 1.02


def test_loss_is_the_negative_log_likelihood():
    log_p = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]))
    found = per_example_loss(log_p, np.array([0, 1]))
    np.testing.assert_allclose(found, [-np.log(0.7), -np.log(0.1)])


def test_gain_against_hand_computed():
    before, after = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.5, 1.9, 3.1, 3.0])
    d = before - after
    expected = d.mean() / (d.std(ddof=1) / 2)
    assert gain_in_standard_errors(before, after) == pytest.approx(expected)
    assert gain_in_standard_errors(after, before) == pytest.approx(-expected)
    assert gain_in_standard_errors(before, before) == 0.0
    assert gain_in_standard_errors(before[:1], after[:1]) == 0.0
