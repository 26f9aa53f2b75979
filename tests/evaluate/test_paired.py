import numpy as np
import pytest
from scipy import stats

from tlflax.evaluate.paired import bootstrap, compare_paired, holm, mcnemar
from tlflax.evaluate.speed import images_per_second


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [
        # By hand: 2 * sum of C(n, k) / 2^n over the smaller tail.
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 0, 2 / 32),
        (0, 6, 2 / 64),
        (8, 2, 2 * (1 + 10 + 45) / 1024),
        (7, 7, 1.0),
    ],
)
def test_mcnemar_by_hand(only_first, only_second, p):
    assert mcnemar(only_first, only_second) == pytest.approx(p)
    assert mcnemar(only_second, only_first) == pytest.approx(p)


def test_mcnemar_against_the_binomial_distribution():
    for b, c in ((3, 11), (25, 40), (90, 91)):
        tail = stats.binom.cdf(min(b, c), b + c, 0.5)
        assert mcnemar(b, c) == pytest.approx(min(1.0, 2 * tail))


def answers(both, only_first, only_second, neither):
    first = [1] * both + [1] * only_first + [0] * only_second + [0] * neither
    second = [1] * both + [0] * only_first + [1] * only_second + [0] * neither
    return np.array(first, bool), np.array(second, bool)


def test_counts_and_difference():
    first, second = answers(400, 30, 18, 52)
    found = compare_paired(first, second)
    assert (found.n, found.only_first, found.only_second) == (500, 30, 18)
    assert found.difference == pytest.approx(first.mean() - second.mean()) == pytest.approx(0.024)
    assert found.p == mcnemar(30, 18)
    turned = compare_paired(second, first)
    assert turned.difference == -found.difference and turned.p == found.p


def test_bootstrap_against_scipys_on_the_images_themselves():
    first, second = answers(400, 30, 18, 52)
    difference = first.astype(float) - second
    theirs = stats.bootstrap(
        (difference,), np.mean, n_resamples=5000, method="percentile",
        rng=np.random.default_rng(1), vectorized=True,
    ).confidence_interval  # fmt: skip
    ours = compare_paired(first, second).ci95
    # One image is 0.002; both ends are quantiles of a few thousand draws.
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.003)
    # And against the normal approximation: s^2 = (b + c - (b - c)^2 / n) / n^2.
    s = np.sqrt((48 - 12**2 / 500) / 500**2)
    assert ours == pytest.approx((0.024 - 1.96 * s, 0.024 + 1.96 * s), abs=0.004)


def test_bootstrap_is_seeded_and_its_coverage_is_what_it_says():
    assert bootstrap(30, 18, 500, seed=3) == bootstrap(30, 18, 500, seed=3)
    assert bootstrap(0, 0, 500) == (0.0, 0.0)
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(300):
        b, c, _rest = rng.multinomial(300, [0.10, 0.06, 0.84])
        low, high = bootstrap(int(b), int(c), 300)
        inside += low <= 0.04 <= high
    # 300 binomial trials at 0.95: 285 +- 3.8.
    assert 270 <= inside <= 296


def test_holm_by_hand_and_its_definition():
    # 4 * .01, 3 * .02 = .06, 2 * .03 = .06, 1 * .04 -> never below the one before.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


@pytest.mark.parametrize("shapes", [((0,), (0,)), ((3,), (2,)), ((2, 2), (2, 2))])
def test_other_shapes_are_refused(shapes):
    with pytest.raises(ValueError, match="compare_paired"):
        compare_paired(*(np.zeros(shape, bool) for shape in shapes))


def test_speed_is_the_median_of_warm_calls():
    now, calls = [0.0], []
    # The first call compiles; one later call is disturbed.
    durations = iter([9.0, 0.1, 0.1, 0.9, 0.1, 0.1])

    def classify(pixels):
        calls.append((pixels.shape, pixels.dtype))
        now[0] += next(durations)
        return np.zeros((len(pixels), 2))

    rate = images_per_second(classify, 24, 8, repetitions=5, clock=lambda: now[0])
    assert rate == pytest.approx(80)
    assert calls == [((8, 24, 24, 3), np.uint8)] * 6


def test_a_slow_network_is_timed_once():
    now = [0.0]

    def classify(pixels):
        now[0] += 4.0
        return pixels

    assert images_per_second(classify, 8, 8, clock=lambda: now[0]) == pytest.approx(2)
    assert now[0] == 8.0
