import threading

import numpy as np
import pytest

from tlflax.data.plan import TrainPlan, eval_plan
from tlflax.errors import ConfigError


@pytest.mark.parametrize("examples", [1, 7, 10, 64, 100, 101])
@pytest.mark.parametrize("batch_size", [1, 3, 32, 200])
@pytest.mark.parametrize("multiple", [1, 4])
def test_every_example_once_per_epoch(examples, batch_size, multiple):
    plan = TrainPlan(examples, batch_size, (0,), multiple)
    assert plan.steps_per_epoch == -(-examples // batch_size)
    assert plan.rows % multiple == 0 and plan.rows < max(batch_size, 1) + multiple
    for epoch in range(2):
        seen, sizes = [], []
        for step in range(plan.steps_per_epoch):
            indices, weights, at = plan.batch(epoch * plan.steps_per_epoch + step)
            assert at == epoch and indices.shape == weights.shape == (plan.rows,)
            assert indices.dtype == np.int64 and weights.dtype == np.float32
            real = indices[weights == 1]
            assert set(indices.tolist()) == set(real.tolist())  # padding repeats the batch
            assert set(weights.tolist()) <= {0.0, 1.0}
            seen += real.tolist()
            sizes.append(len(real))
        assert sorted(seen) == list(range(examples))
        assert max(sizes) - min(sizes) <= 1


def test_batch_is_a_pure_function_of_seed_and_step():
    plan = TrainPlan(50, 8, (3, 1))
    forward = [plan.batch(s)[0].tolist() for s in range(30)]
    backward = [TrainPlan(50, 8, (3, 1)).batch(s)[0].tolist() for s in reversed(range(30))]
    assert forward == backward[::-1]
    assert TrainPlan(50, 8, (3, 2)).batch(0)[0].tolist() != forward[0]
    assert forward[0] != forward[plan.steps_per_epoch]  # epochs differ


def test_threads_see_the_same_batches():
    plan = TrainPlan(500, 16, (0,))
    want = [TrainPlan(500, 16, (0,)).batch(s)[0].tolist() for s in range(200)]
    got = {}

    def work(offset):
        for step in range(offset, 200, 4):
            got[step] = plan.batch(step)[0].tolist()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert [got[s] for s in range(200)] == want


def test_stored_order_is_not_drawn_anew_by_other_numpy_calls():
    np.random.seed(0)
    first = TrainPlan(20, 20, (0,)).batch(0)[0].tolist()
    np.random.seed(1)
    assert TrainPlan(20, 20, (0,)).batch(0)[0].tolist() == first


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((0, 1, (0,)), "examples must be at least 1, not 0"),
        ((1, 0, (0,)), "batch_size must be at least 1, not 0"),
        ((1, 1, ()), r"seed must be integers >= 0, not \(\)"),
        ((1, 1, (-1,)), r"seed must be .*not \(-1,\)"),
        ((1, 1, (0,), 0), "multiple must be at least 1, not 0"),
    ],
)
def test_plan_refuses(arguments, says):
    with pytest.raises(ConfigError, match=says):
        TrainPlan(*arguments)


@pytest.mark.parametrize("examples", [1, 9, 10, 11, 64])
@pytest.mark.parametrize("multiple", [1, 8])
def test_eval_plan_is_in_order_with_equal_rows(examples, multiple):
    plan = eval_plan(examples, 10, multiple)
    assert len({len(i) for i, _ in plan}) == 1 and len(plan[0][0]) % multiple == 0
    real = [i for indices, weights in plan for i in indices[weights == 1]]
    assert real == list(range(examples))
    assert len(plan) == -(-examples // 10)


def test_eval_plan_of_nothing_is_empty():
    assert eval_plan(0, 10) == []


# Three classes of 60, 11 and 3.
LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [60, 11, 3]))


def balanced(epochs, seed=(0,), batch_size=16, labels=LABELS):
    """(example, turn) of every real row, an array [n, 2] for each epoch."""
    plan = TrainPlan(len(labels), batch_size, seed, balance=labels)
    found = []
    for epoch in range(epochs):
        rows = []
        for k in range(plan.steps_per_epoch):
            step = epoch * plan.steps_per_epoch + k
            indices, weights, at = plan.batch(step)
            assert at == epoch
            turns = plan.turns(step)
            assert turns.shape == indices.shape and turns.dtype == np.int64
            rows += [*zip(indices[weights == 1], turns[weights == 1], strict=True)]
        found.append(np.array(rows))
    return found


def test_balanced_classes_are_equally_frequent_in_each_epoch_and_over_all():
    epochs = balanced(6)
    total = np.zeros(3, int)
    for rows in epochs:
        counts = np.bincount(LABELS[rows[:, 0]], minlength=3)
        assert counts.sum() == len(LABELS) and np.ptp(counts) <= 1
        total += counts
    assert total.tolist() == [148, 148, 148]  # 6 * 74 / 3: the odd ones take turns


def test_each_class_is_gone_through_before_an_image_comes_again():
    seen = np.concatenate(balanced(6))
    for label, size in enumerate((60, 11, 3)):
        rows = seen[LABELS[seen[:, 0]] == label]
        # No image of it has been seen two times more often than another, across epochs too.
        counts = np.bincount(rows[:, 0], minlength=len(LABELS))[LABELS == label]
        assert np.ptp(counts) <= 1 and counts.sum() == 148
        assert rows[:, 1].max() == (148 - 1) // size
    # What an augmentation is drawn from comes once.
    assert len(np.unique(seen, axis=0)) == len(seen)


def test_balanced_order_is_shuffled_and_a_function_of_seed_and_step():
    first, again, other = balanced(2), balanced(2), balanced(2, seed=(1,))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert (first[0] != other[0]).any() and (first[0] != first[1]).any()
    classes = LABELS[first[0][:, 0]]
    # 74 rows of three classes, 50 neighbours of different class expected if shuffled.
    assert 30 < (np.diff(classes) != 0).sum() < 66
    plan = TrainPlan(len(LABELS), 16, (0,), balance=LABELS)
    backwards = [plan.batch(s)[0].tolist() for s in reversed(range(20))][::-1]
    plan = TrainPlan(len(LABELS), 16, (0,), balance=LABELS)
    assert [plan.batch(s)[0].tolist() for s in range(20)] == backwards


def test_balanced_with_classes_of_one_size_shows_every_example_once():
    labels = np.arange(30) % 3
    for rows in balanced(3, labels=labels):
        assert sorted(rows[:, 0]) == list(range(30))


def test_turns_of_a_shuffled_plan_are_the_epoch():
    plan = TrainPlan(10, 4, (0,), 4)
    assert [plan.turns(s).tolist() for s in (0, 4)] == [[0] * 4, [1] * 4]


def test_balance_needs_a_class_for_each_example():
    with pytest.raises(ConfigError, match="5 examples have 4 classes"):
        TrainPlan(5, 2, (0,), balance=np.zeros(4, int))
