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
    "arguments", [(0, 1, (0,)), (1, 0, (0,)), (1, 1, ()), (1, 1, (-1,)), (1, 1, (0,), 0)]
)
def test_plan_refuses(arguments):
    with pytest.raises(ConfigError):
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
