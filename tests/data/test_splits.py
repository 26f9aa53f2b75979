import hashlib

import numpy as np
import pytest

from tlflax.data import splits
from tlflax.errors import ConfigError


def make(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    hashes = [hashlib.sha256(f"{y}-{i}".encode()).hexdigest() for i, y in enumerate(labels)]
    return hashes, labels


def cut(hashes, labels, amount, seed=0):
    counts = np.bincount(labels)
    return splits.cut(hashes, labels, splits.targets(counts, amount, "val", counts), seed)


def test_fraction_is_stratified_and_a_partition():
    hashes, labels = make([100, 40, 10])
    stay, out = cut(hashes, labels, 0.2)
    assert np.bincount(labels[out]).tolist() == [20, 8, 2]
    assert sorted([*stay, *out]) == list(range(150))


def test_count_is_exact_and_proportional():
    hashes, labels = make([70, 20, 10])
    _, out = cut(hashes, labels, 33)
    counts = np.bincount(labels[out])
    assert counts.sum() == 33 and np.abs(counts - [23.1, 6.6, 3.3]).max() < 1


def test_cut_follows_content_not_order_or_names():
    hashes, labels = make([50, 50])
    _, out = cut(hashes, labels, 0.3, seed=4)
    shuffle = np.random.default_rng(0).permutation(100)
    moved = [hashes[i] for i in shuffle]
    _, again = cut(moved, labels[shuffle], 0.3, seed=4)
    assert {hashes[i] for i in out} == {moved[i] for i in again}


def test_one_more_image_moves_at_most_one():
    hashes, labels = make([50, 50])
    _, out = cut(hashes, labels, 0.3)
    _, more = cut([*hashes, "new"], np.append(labels, 1), 0.3)
    after = {hashes[i] if i < 100 else "new" for i in more}
    assert len({hashes[i] for i in out} ^ after) <= 2


def test_seed_changes_the_cut():
    hashes, labels = make([50, 50])
    assert cut(hashes, labels, 0.3, 0)[1].tolist() != cut(hashes, labels, 0.3, 1)[1].tolist()


@pytest.mark.parametrize("seed", range(20))
def test_copies_stay_together(seed):
    hashes, labels = make([40, 40])
    hashes = [hashes[i // 4 * 4] for i in range(80)]  # groups of four
    stay, out = cut(hashes, labels, 0.25, seed)
    assert not {hashes[i] for i in stay} & {hashes[i] for i in out}
    assert np.bincount(labels[out]).tolist() == [8, 8]


@pytest.mark.parametrize("seed", range(5))
def test_contents_with_two_labels_are_never_cut(seed):
    hashes, labels = make([10, 10])
    hashes[10:15] = hashes[:5]
    stay, out = cut(hashes, labels, 0.5, seed)
    assert not {hashes[i] for i in out} & set(hashes[:5])
    assert set(range(5)) | set(range(10, 15)) <= set(stay.tolist())


@pytest.mark.parametrize(("counts", "expected"), [([1, 30], 0), ([2, 30], 1), ([3, 30], 1)])
def test_small_classes_keep_one_and_give_one_if_they_can(counts, expected):
    hashes, labels = make(counts)
    stay, out = cut(hashes, labels, 0.1)
    assert (labels[out] == 0).sum() == expected
    assert (labels[stay] == 0).sum() == counts[0] - expected >= 1


def test_class_of_copies_only_stays_whole():
    hashes, labels = make([6, 6])
    hashes[:6] = [hashes[0]] * 6
    _, out = cut(hashes, labels, 0.5)
    assert (labels[out] == 0).sum() == 0 and (labels[out] == 1).sum() == 3


def test_pairs_of_copies_give_a_pair_rather_than_nothing():
    hashes, labels = make([4, 10])
    hashes[1], hashes[3] = hashes[0], hashes[2]
    stay, out = cut(hashes, labels, 0.1)
    assert (labels[out] == 0).sum() == 2 and (labels[stay] == 0).sum() == 2


@pytest.mark.parametrize("amount", [0, 0.0, 1.0, -0.1, 1.5, -3, True, "0.2", None])
def test_bad_amounts(amount):
    with pytest.raises(ConfigError, match="val"):
        splits.check_amount("val", amount)


@pytest.mark.parametrize("amount", [1, 500, 0.01, 0.99, np.int64(3)])
def test_good_amounts(amount):
    splits.check_amount("val", amount)


@pytest.mark.parametrize("amount", [1, 20, 25])
def test_impossible_counts(amount):
    hashes, labels = make([10, 10])
    with pytest.raises(ConfigError, match=f"val={amount}"):
        cut(hashes, labels, amount)


def test_per_class_takes_different_images_first_and_is_nested():
    hashes, labels = make([20, 5])
    hashes[1] = hashes[0]
    ten = splits.limit_per_class(hashes, labels, 10, 0)
    assert np.bincount(labels[ten]).tolist() == [10, 5]
    nineteen = splits.limit_per_class(hashes, labels, 19, 0)
    assert len({hashes[i] for i in nineteen if labels[i] == 0}) == 19
    assert set(ten.tolist()) <= set(nineteen.tolist())
    assert splits.limit_per_class(hashes, labels, 10, 1).tolist() != ten.tolist()
