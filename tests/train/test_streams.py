"""Cached features are the same training; evaluation never sees an augmentation."""

import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from tlflax.data.pipeline import Images
from tlflax.data.plan import TrainPlan
from tlflax.errors import ConfigError
from tlflax.features import boundary
from tlflax.features.caching import Caching
from tlflax.train import streams
from tlflax.train.interrupt import Interrupted
from tlflax.train.loop import train


def losses(out):
    return np.array([[r["train_loss"], r["val_loss"], r["val_accuracy"]] for r in out.history])


@pytest.mark.parametrize(
    ("stage", "network"),
    [
        pytest.param({}, {}, marks=pytest.mark.slow),
        pytest.param({}, {"head": "flatten"}, marks=pytest.mark.slow),
        ({}, {"endpoint": "block3_relu1"}),  # cut inside a block
        pytest.param({"train": "block3"}, {}, marks=pytest.mark.slow),
        pytest.param({"train": "block3"}, {"endpoint": "block3_relu1"}, marks=pytest.mark.slow),
        ({"train": "block2", "bn": "train"}, {}),
    ],
)
def test_cached_and_uncached_losses_are_equal(tmp_path, stage, network):
    runs = [
        tiny.fit(tmp_path / mode, stage, network=tiny.model(**network), cache=mode)
        for mode in ("auto", "off")
    ]
    assert [r.stages[0]["cached"] for r in runs] == [True, False]
    # Same batches, same keys, the same compiled prefix: only the company of an image in its
    # batch differs, which may change the order of a sum.
    np.testing.assert_allclose(losses(runs[0]), losses(runs[1]), rtol=1e-6)


def counted(monkeypatch):
    """Rows computed by each fill, in order."""
    computed, real = [], boundary.fill

    def fill(*args):
        facts = real(*args)
        computed.append(facts["computed"])
        return facts

    monkeypatch.setattr(boundary, "fill", fill)
    return computed


@pytest.mark.parametrize(
    ("stage", "cached", "below"),
    [
        ({}, True, "block3_pool"),
        ({"train": "block3"}, True, "block2_pool"),
        ({"train": "block2"}, True, "block1_pool"),
        ({"train": "all"}, False, None),
        ({"augment": "flip_crop"}, False, "block3_pool"),
    ],
)
def test_what_is_cached(tmp_path, stage, cached, below):
    job = tiny.job(tmp_path, stage)
    (policy,) = job.policies
    data = job.streams.training(job.variables, policy, job.stages[0])
    assert (data.cached, data.start, policy.boundary) == (cached, below, below)
    plan = TrainPlan(39, 16, (0, 0))
    batch = data.place(next(iter(data.batches(plan, 0, 1))))
    # Cached or not, a step begins at the boundary; of the last map a pooling head reads the
    # average only.
    shape = {None: (16, 16, 3), "block3_pool": (128,), "block2_pool": (4, 4, 32)}
    assert batch["image"].shape == (13, *shape.get(below, (8, 8, 16)))


def asked(folder, *entries, **changes):
    """Asks for what a training reads, stage by stage, as it does; the last stage's."""
    job = tiny.job(folder, *entries, **changes)
    for stage, policy in zip(job.stages, job.policies, strict=True):
        data = job.streams.training(job.variables, policy, stage)
        job.streams.validation(job.variables, policy)
        # Heads differ from stage to stage.
        head = jax.tree.map(lambda x: x + 1, job.variables["params"]["head"])
        job.variables = {**job.variables, "params": {**job.variables["params"], "head": head}}
    return job, data


def test_features_are_shared_by_stages_heads_rates_and_seeds(tmp_path, monkeypatch):
    computed = counted(monkeypatch)
    variables = tiny.model().init(0)
    asked(tmp_path / "a", {}, {"lr": 1e-4}, {"train": "block3"}, variables=variables)
    # Head and validation, the same again, then from block2_pool on.
    assert computed == [39, 21, 0, 0, 39, 21]
    computed.clear()
    other = tiny.model(dropout=0.5).init(7)
    other["params"]["backbone"] = variables["params"]["backbone"]
    network = tiny.model(dropout=0.5)
    asked(tmp_path / "b", {"lr": 1e-2}, network=network, variables=other, seed=3)
    assert computed == [0, 0]
    changed = jax.tree.map(lambda x: x + 0.5, variables)
    asked(tmp_path / "c", {}, variables=changed)
    assert computed == [0, 0, 39, 21]


def test_images_move_between_splits_without_being_computed_again(tmp_path, monkeypatch):
    computed = counted(monkeypatch)
    images, variables = tiny.data(), tiny.model().init(0)
    asked(tmp_path / "a", {}, variables=variables)
    swapped = dataclasses.replace(images, train=images.val, val=images.train)
    asked(tmp_path / "b", {}, images=swapped, variables=variables)
    assert computed == [39, 21, 0, 0]


def test_an_interrupted_fill_goes_on_where_it_was(tmp_path, monkeypatch):
    job = tiny.job(tmp_path / "a", {"train": "block3"})
    real, done = boundary.PixelSource.__getitem__, []

    def one_batch(self, k):
        if k == 2:
            raise Interrupted(15)
        done.append(k)
        return real(self, k)

    # In order, so that it is known which rows there are.
    monkeypatch.setattr(boundary, "in_order", lambda s: (s[k] for k in range(len(s))))
    monkeypatch.setattr(boundary.PixelSource, "__getitem__", one_batch)
    with pytest.raises(Interrupted):
        job.streams.training(job.variables, job.policies[0], job.stages[0])
    assert done == [0, 1]
    monkeypatch.setattr(boundary.PixelSource, "__getitem__", real)
    again = tiny.job(tmp_path / "a", {"train": "block3"})
    facts = again.streams.training(again.variables, again.policies[0], again.stages[0]).facts
    # The second batch was still on the device.
    assert (facts["rows"], facts["reused"], facts["computed"]) == (39, 13, 26)


def test_what_does_not_fit_is_computed_every_time_and_said(tmp_path):
    # 39 or 21 rows of 4x4x32 float32: exactly one of the splits fits.
    shape = tiny.model().blocks[1].shape
    budget = (int(np.prod(shape)) * 4 + 64) * 25 / 2**30
    stage = {"train": "block3"}
    job = tiny.job(tmp_path / "limited", stage, cache=Caching("auto", budget))
    out = train(job)
    assert not out.stages[0]["cached"] and out.stages[0]["cache"] is None
    (note,) = job.streams.notes
    assert "(train) are not kept" in note and "more than cache_gb" in note
    free = tiny.fit(tmp_path / "free", stage, cache="off")
    np.testing.assert_allclose(losses(out), losses(free), rtol=1e-6)


def test_damaged_features_are_made_again(tmp_path):
    plan, variables = TrainPlan(39, 39, (0, 0)), tiny.model().init(0)
    _, first = asked(tmp_path / "a", {}, variables=variables)
    (before,) = first.batches(plan, 0, 1)
    rows = before["image"].copy()
    for path in Path(first.facts["folder"]).glob("*.npy"):
        data = bytearray(path.read_bytes())
        data[-1] ^= 64
        path.write_bytes(data)
    job, second = asked(tmp_path / "b", {}, variables=variables)
    assert any("were damaged" in note for note in job.streams.notes)
    (again,) = second.batches(plan, 0, 1)
    np.testing.assert_array_equal(again["image"], rows)


def test_bfloat16_rows_cost_half_and_nearly_the_same(tmp_path):
    exact = tiny.fit(tmp_path / "a", {})
    rough = tiny.fit(tmp_path / "b", {}, cache=Caching("auto", dtype="bfloat16"))
    a, b = exact.stages[0]["cache"], rough.stages[0]["cache"]
    assert (b["dtype"], a["bytes"]) == ("bfloat16", 2 * b["bytes"])
    # 8 bits of precision: a relative step of 2 ** -8 in each feature.
    np.testing.assert_allclose(losses(exact)[:, :2], losses(rough)[:, :2], rtol=2**-6)
    assert (losses(exact) != losses(rough)).any()


VIEWS = {"augment": "flip_crop", "epochs": 3}


def test_views_are_fixed_and_take_turns(tmp_path, monkeypatch):
    computed = counted(monkeypatch)
    job = tiny.job(tmp_path, VIEWS, cache="views:2")
    data = job.streams.training(job.variables, job.policies[0], job.stages[0])
    assert computed == [78] and data.facts["views"] == 2
    (note,) = job.streams.notes
    assert "2 fixed augmented versions" in note

    def epoch(seed, number):
        plan = TrainPlan(39, 16, seed)
        first = number * plan.steps_per_epoch
        found = {}
        for batch in data.batches(plan, first, first + plan.steps_per_epoch):
            for i, row, weight in zip(batch["index"], batch["image"], batch["weight"], strict=True):
                if weight:
                    found[int(i)] = row
        return np.stack([found[i] for i in range(39)])

    views = [epoch((0, 0), n) for n in range(3)]
    assert not np.allclose(views[0], views[1])
    np.testing.assert_array_equal(views[0], views[2])
    np.testing.assert_array_equal(views[0], epoch((5, 1), 0))
    # They are what the augmentation makes of the images, and not the images.
    plain = job.streams.training(job.variables, job.policies[0], tiny.stages({})[0])
    rows = plain.batches(TrainPlan(39, 39, (0, 0)), 0, 1)
    batch = next(iter(rows))
    assert not np.allclose(views[0][batch["index"]], batch["image"])


@pytest.mark.slow
def test_views_of_another_run_are_found_again(tmp_path, monkeypatch):
    computed = counted(monkeypatch)
    variables = tiny.model().init(0)
    out = tiny.fit(tmp_path / "a", VIEWS, cache="views:2", variables=variables)
    assert out.stages[0]["cached"]
    tiny.fit(tmp_path / "b", VIEWS, cache="views:2", seed=1, variables=variables)
    # More views than epochs are not made; validation images have none.
    more = {**VIEWS, "epochs": 4}
    tiny.fit(tmp_path / "c", more, cache="views:9", variables=variables)
    assert computed == [78, 21, 0, 0, 78, 0]


def test_stored_rows_are_what_the_prefix_gives(tmp_path):
    job = tiny.job(tmp_path, {"train": "block3"})
    data = job.streams.training(job.variables, job.policies[0], job.stages[0])
    (batch,) = data.batches(TrainPlan(39, 39, (0, 0)), 0, 1)
    pixels = job.streams.images("train").batch(batch["index"])
    module = tiny.model().module()
    apply = functools.partial(module.apply, stop="block2_pool", method="features")
    wanted = jax.jit(apply)(job.variables, pixels)
    # Another program: sums of 576 terms in another order.
    np.testing.assert_allclose(batch["image"], wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(batch["label"], tiny.data().train.labels[batch["index"]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("auot",), "did you mean auto"),
        (("views:0",), "auto, off or views:K"),
        (("views",), "did you mean views:4"),
        (("auto", -1.0), "cache_gb must be at least 0"),
        (("auto", 1.0, "float16"), "cache_dtype must be float32 or bfloat16"),
    ],
)
def test_unknown_cache_options(changes, message):
    with pytest.raises(ConfigError, match=message):
        Caching(*changes)


def test_augmentation_never_reaches_evaluation(tmp_path, monkeypatch):
    seen = {}

    class Recorder(Images):
        def batch(self, indices):
            pixels = super().batch(indices)
            name = self.split.name
            rows = seen.setdefault((key, name), {})
            rows.update({int(i): p.tobytes() for i, p in zip(indices, pixels, strict=True)})
            return pixels

    monkeypatch.setattr(streams, "Images", Recorder)
    for key, cache in (("none", "off"), ("flip_crop", "off"), ("shift_rotate", "views:1")):
        job = tiny.job(tmp_path / key, {"augment": key, "epochs": 1}, cache=cache)
        (policy,), start = job.policies, job.variables
        data = job.streams.training(start, policy, job.stages[0])
        assert len(list(data.batches(TrainPlan(39, 16, (0, 0)), 0, 3))) == 3
        job.streams.validation(start, policy)(start)
        job.streams.predict(start, "test", policy.boundary)
    for name in ("val", "test"):
        assert seen["none", name] == seen["flip_crop", name] == seen["shift_rotate", name]
        assert len(seen["none", name]) == {"val": 21, "test": 15}[name]
