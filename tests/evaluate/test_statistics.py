import math

import pytest

from tlflax.evaluate.statistics import check_interval, images_needed, wilson


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


@pytest.mark.parametrize("accuracy", [0.0, 0.5, 0.8, 17 / 18, 1.0])
@pytest.mark.parametrize("width", [0.05, 0.1, 0.2])
def test_images_needed_is_where_the_interval_gets_narrow_enough(accuracy, width):
    n = images_needed(accuracy, width)

    def at(n):
        # Wilson's interval for a number of right answers that need not be whole.
        z = 1.959964
        half = z * math.sqrt(accuracy * (1 - accuracy) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
        return 2 * half

    assert at(n) <= width + 1e-9 < at(n - 1) + 1e-6


def score(correct, n):
    return {"accuracy": correct / n, "accuracy_ci95": list(wilson(correct, n)), "n": n}


def test_small_test_set_is_told_with_the_number_that_would_do():
    (note,) = check_interval(score(17, 18))
    assert "94.4% is measured on 18 images" in note and "74% to 99%" in note
    assert "about 90 test images would narrow it to 10 points" in note


@pytest.mark.parametrize("known", [None, score(90, 100), score(50, 93), score(16, 16)])
def test_large_enough_or_no_test_set(known):
    assert check_interval(known) == []


def test_half_right_of_ninety_is_not_enough():
    assert len(check_interval(score(45, 90))) == 1
