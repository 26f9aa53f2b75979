import os

import numpy as np
import pytest

from tlflax.data.plan import TrainPlan
from tlflax.features import boundary
from tlflax.features.store import Store, StoreFull


def image_key(i):
    return bytes([i] * 32)


class Source:
    """Batches of numbers in place of pixels."""

    def __init__(self, missing, rows):
        self.missing, self.rows = missing, rows

    def __len__(self):
        return -(-len(self.missing) // self.rows)

    def __getitem__(self, k):
        chosen = np.array(self.missing[k * self.rows : (k + 1) * self.rows], np.float32)
        return {"image": np.resize(chosen, self.rows)[:, None]}


def test_fill_computes_each_different_image_once_and_drops_padding(tmp_path):
    batches = []

    def prefix(batch):
        batches.append(batch["image"].ravel().tolist())
        return batch["image"] * 10

    store = Store(tmp_path, "a", (1,), "float32", {}, 2**20)
    keys = [image_key(i) for i in (5, 6, 5, 7, 8)]
    facts = boundary.fill(store, keys, Source, prefix, 3)
    assert sorted(x for batch in batches for x in batch) == [0, 1, 3, 4, 4, 4]
    assert {k: facts[k] for k in ("rows", "reused", "computed", "damaged")} == {
        "rows": 5, "reused": 1, "computed": 4, "damaged": 0,
    }  # fmt: skip
    found = store.find(keys)
    assert found.batch(np.arange(5)).ravel().tolist() == [0, 10, 0, 30, 40]
    again = boundary.fill(store, keys, Source, prefix, 3)
    assert (again["computed"], again["reused"]) == (0, 5)


def test_what_was_computed_before_an_error_is_kept(tmp_path):
    calls = []

    def prefix(batch):
        calls.append(batch)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return batch["image"]

    store = Store(tmp_path, "a", (1,), "float32", {}, 2**20)
    keys = [image_key(i) for i in range(8)]
    with pytest.raises(KeyboardInterrupt):
        boundary.fill(store, keys, Source, prefix, 2)
    facts = boundary.fill(Store(tmp_path, "a", (1,), "float32", {}, 2**20), keys, Source, prefix, 2)
    # The second batch was still on its way to the host.
    assert (facts["reused"], facts["computed"]) == (2, 6)


def test_segments_are_written_while_the_fill_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(boundary, "_SEGMENT_BYTES", 3 * 4)
    store = Store(tmp_path, "a", (1,), "float32", {}, 2**20)
    keys = [image_key(i) for i in range(20)]
    seen = []

    def progress(done, total):
        seen.append((done, total, len(list(tmp_path.glob("a/*.npy")))))

    boundary.fill(store, keys, Source, lambda b: b["image"], 2, progress)
    assert [d for d, *_ in seen] == list(range(2, 21, 2)) and seen[0][1] == 20
    assert seen[5][2] >= 2
    np.testing.assert_array_equal(store.find(keys).batch(np.arange(20)).ravel(), np.arange(20))


def many(first, count):
    return [i.to_bytes(32, "big") for i in range(first, first + count)]


def opened(root, name, budget=2**20):
    return Store(root, name, (1,), "float32", {}, budget)


def filled(store, keys):
    facts = boundary.fill(store, keys, Source, lambda b: b["image"], 100)
    return facts["reused"], facts["computed"]


def test_a_store_that_is_read_from_is_in_use(tmp_path):
    keys = many(0, 100)
    for name, hours in (("older", 3), ("old", 2)):
        filled(opened(tmp_path, name), keys)
        path = tmp_path / name / "identity.json"
        then = path.stat().st_mtime - 3600 * hours
        os.utime(path, (then, then))
    assert filled(opened(tmp_path, "older"), keys) == (100, 0)
    opened(tmp_path, "new", budget=250 * 68).reserve(100)
    assert [p.name for p in tmp_path.iterdir()] == ["older"]


def test_a_store_that_cannot_be_written_to_is_read(tmp_path, monkeypatch):
    filled(opened(tmp_path, "a"), many(0, 5))

    def refused(*args, **kwargs):
        raise PermissionError("read-only")

    monkeypatch.setattr(os, "utime", refused)
    assert filled(opened(tmp_path, "a"), many(0, 5)) == (5, 0)


def test_old_rows_of_the_same_store_make_room(tmp_path):
    budget = 1500 * 68
    filled(opened(tmp_path, "a", budget), many(0, 1000))
    store = opened(tmp_path, "a", budget)
    assert filled(store, many(1000, 1000)) == (0, 1000)
    found = store.find(many(1000, 1000)).batch(np.array([3, 999]))
    assert found.ravel().tolist() == [3, 999]
    again = opened(tmp_path, "a", budget)
    again.refresh()
    assert len(again.missing(many(0, 2000))) == 1000
    # Rows that are needed, now or by who has them already, make room for none.
    with pytest.raises(StoreFull, match=r"GB of the same frozen blocks are in use; raise cache_gb"):
        filled(again, many(1000, 1600))
    with pytest.raises(StoreFull, match="of the same frozen blocks"):
        filled(store, many(2000, 600))
    assert filled(store, many(1000, 1000)) == (1000, 0)
    assert sum(p.stat().st_size for p in (tmp_path / "a").glob("*.npy")) < budget


@pytest.mark.parametrize("views", [1, 3])
def test_train_batches_take_the_view_of_the_epoch(tmp_path, views):
    store = Store(tmp_path, "a", (1,), "float32", {}, 2**20)
    keys = [image_key(i) for i in range(5 * views)]
    boundary.fill(store, keys, Source, lambda b: b["image"], 4)
    labels = np.arange(5)
    plan = TrainPlan(5, 2, (0,))
    for step, batch in enumerate(boundary.train_batches(store.find(keys), labels, plan, 0, 12)):
        view = step // plan.steps_per_epoch % views
        np.testing.assert_array_equal(batch["image"].ravel(), batch["index"] + 5 * view)
        np.testing.assert_array_equal(batch["index"], plan.batch(step)[0])
        np.testing.assert_array_equal(batch["label"], batch["index"])


def test_an_image_that_comes_twice_in_an_epoch_shows_its_next_view(tmp_path):
    store = Store(tmp_path, "a", (1,), "float32", {}, 2**20)
    boundary.fill(store, [image_key(i) for i in range(15)], Source, lambda b: b["image"], 4)
    features = store.find([image_key(i) for i in range(15)])
    labels = np.array([0, 0, 1, 0, 0])
    plan = TrainPlan(5, 5, (0,), balance=labels)
    views = []
    for batch in boundary.train_batches(features, labels, plan, 0, 4):
        views += (batch["image"].ravel() // 5)[batch["index"] == 2].tolist()
    # Ten of twenty places, in order within an epoch or not.
    assert len(views) == 10
    assert np.bincount(np.array(views, int)).tolist() == [4, 3, 3]


def test_eval_batches_have_every_row_once(tmp_path):
    store = Store(tmp_path, "a", (1,), "float32", {}, 2**20)
    keys = [image_key(i) for i in range(5)]
    boundary.fill(store, keys, Source, lambda b: b["image"], 4)
    rows = [
        float(x)
        for batch in boundary.eval_batches(store.find(keys), np.arange(5), 2)
        for x, w in zip(batch["image"].ravel(), batch["weight"], strict=True)
        if w
    ]
    assert rows == [0, 1, 2, 3, 4]
