import math

import pytest

from tlflax.evaluate.statistics import wilson


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        # 0 of n and n of n by hand: z^2 / (n + z^2) with z = 1.95996.
        (17, 18, 0.7424, 0.9901),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (50, 100, 0.4038, 0.5962),
    ],
)
def test_known_values(correct, n, low, high):
    assert wilson(correct, n) == pytest.approx((low, high), abs=6e-5)


def test_ends_solve_wilsons_equation():
    # The definition: the proportions p from which correct/n is z standard errors away.
    for correct, n in ((17, 18), (3, 40), (500, 1000)):
        for p in wilson(correct, n):
            distance = abs(correct / n - p) / math.sqrt(p * (1 - p) / n)
            assert distance == pytest.approx(1.959964, abs=1e-6)


def test_nothing_measured_is_nothing_known():
    assert wilson(0, 0) == (0.0, 1.0)


def test_higher_confidence_is_wider():
    assert wilson(9, 10, 0.99)[0] < wilson(9, 10, 0.9)[0]
    assert wilson(9, 10, 0.99)[1] > wilson(9, 10, 0.9)[1]


def test_ends_contain_the_proportion_and_stay_inside():
    for n in (1, 3, 18, 1000):
        for correct in range(n + 1):
            low, high = wilson(correct, n)
            assert 0 <= low <= correct / n <= high <= 1


@pytest.mark.parametrize("bad", [(-1, 3, 0.95), (4, 3, 0.95), (1, 3, 1.0), (1, 3, 0.0)])
def test_refuses_impossible_counts(bad):
    with pytest.raises(ValueError, match="wilson"):
        wilson(*bad)
