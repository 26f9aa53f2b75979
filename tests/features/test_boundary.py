import numpy as np
import pytest

from tlflax.features import boundary


@pytest.mark.parametrize(
    ("shape", "examples", "expected"),
    [((10,), 10, True), ((10,), 11, False), ((2, 5), 10, True), ((2, 6), 10, False)],
)
def test_fits_counts_float32_bytes(monkeypatch, shape, examples, expected):
    monkeypatch.setattr(boundary, "MEMORY_LIMIT", 400)
    assert boundary.fits(shape, examples) is expected


def test_compute_puts_rows_where_they_belong_and_drops_padding():
    batches = [
        {"index": np.array([2, 0]), "weight": np.array([1, 1]), "image": np.array([[2.0], [0.0]])},
        {"index": np.array([1, 1]), "weight": np.array([1, 0]), "image": np.array([[1.0], [9.0]])},
    ]
    found = boundary.compute(lambda x: x * 10, iter(batches), lambda b: b, 3)
    assert found.values.tolist() == [[0.0], [10.0], [20.0]]
    assert len(found) == 3
    copy = found.batch(np.array([2, 2]))
    copy[:] = -1
    assert found.values[2] == 20.0
