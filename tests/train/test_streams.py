"""Cached features are the same training; evaluation never sees an augmentation."""

import jax
import numpy as np
import pytest
import tiny

from tlflax.data.pipeline import Images
from tlflax.errors import ConfigError
from tlflax.features import boundary
from tlflax.train import streams
from tlflax.train.devices import Placement


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
    # Same batches, same keys; only where the prefix is compiled into differs.
    np.testing.assert_allclose(losses(runs[0]), losses(runs[1]), rtol=1e-6 * 20)


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
    assert (data.cached, policy.boundary) == (cached, below)
    assert data.start == (below if cached else None)
    if cached:
        shape = {"block3_pool": (39, 128), "block2_pool": (39, 4, 4, 64)}.get(below)
        assert shape is None or len(data.images) == 39
        # The average over the map is all that a pooling head reads.
        assert (data.images.values.ndim == 2) == (below == "block3_pool")


def test_features_are_kept_between_stages_while_the_weights_below_are_the_same(
    tmp_path, monkeypatch
):
    computed = []
    real = streams.compute
    monkeypatch.setattr(streams, "compute", lambda *a: (computed.append(a[3]), real(*a))[1])
    job = tiny.job(tmp_path, {}, {"lr": 1e-4}, {"train": "block3"})
    for stage, policy in zip(job.stages[:2], job.policies[:2], strict=True):
        job.streams.training(job.variables, policy, stage)
        job.streams.validation(job.variables, policy)
    assert computed == [39, 21]
    job.streams.training(job.variables, job.policies[2], job.stages[2])
    assert computed == [39, 21, 39]
    changed = jax.tree.map(lambda x: x + 0.5, job.variables)
    job.streams.training(changed, job.policies[2], job.stages[2])
    assert computed == [39, 21, 39, 39]


@pytest.mark.parametrize("split", [pytest.param("train", marks=pytest.mark.slow), "val"])
def test_above_the_memory_limit_images_are_used(tmp_path, monkeypatch, split):
    # 39 or 21 rows of 4x4xC float32: exactly one of the splits does not fit.
    shape = tiny.model().blocks[1].shape
    row = int(np.prod(shape)) * 4
    images = tiny.data()
    if split == "val":
        from dataclasses import replace

        images = replace(images, train=images.val, val=images.train)
    monkeypatch.setattr(boundary, "MEMORY_LIMIT", row * 21)
    out = tiny.fit(tmp_path / "limited", {"train": "block3"}, images=images)
    monkeypatch.undo()
    assert out.stages[0]["cached"] == (split == "val")
    free = tiny.fit(tmp_path / "free", {"train": "block3"}, images=images, cache="off")
    np.testing.assert_allclose(losses(out), losses(free), rtol=2e-5)


def test_unknown_cache_mode(tmp_path):
    with pytest.raises(ConfigError, match="did you mean auto"):
        tiny.job(tmp_path, {}, cache="auot")


def test_augmentation_never_reaches_evaluation(tmp_path, monkeypatch):
    seen = {}

    class Recorder(Images):
        def batch(self, indices):
            pixels = super().batch(indices)
            name = self.split.name
            seen.setdefault((key, name), set()).add((tuple(indices), pixels.tobytes()))
            return pixels

    monkeypatch.setattr(streams, "Images", Recorder)
    for key in ("none", "flip_crop", "shift_rotate"):
        out = tiny.fit(tmp_path / key, {"augment": key, "epochs": 1})
        streams.probabilities(tiny.model(), {"a": out.variables}, tiny.data().test, Placement(), 16)
    for name in ("val", "test"):
        assert seen["none", name] == seen["flip_crop", name] == seen["shift_rotate", name]
        assert len(seen["none", name]) == {"val": 2, "test": 1}[name]
