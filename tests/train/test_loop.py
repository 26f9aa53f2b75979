"""The loop in one process: purity, resuming at any step, best and latest, NaN, stopping."""

import math

import numpy as np
import pytest
import tiny

from tlflax.convert.tensors import load_variables
from tlflax.errors import ConfigError, DataError
from tlflax.train import loop, stage_run
from tlflax.train.checkpoint import UNSCORED, Checkpoints
from tlflax.train.diverged import Diverged
from tlflax.train.interrupt import Guard, Interrupted

# 39 images in batches of 13: three steps an epoch. Dropout 0.2 is in the model.
TWO = (
    {"train": ("block3",), "bn": "train", "augment": "flip_crop", "stop": ("patience=2",)},
    {"train": ("from block2",), "lr": 1e-3, "optimizer": "adamw", "weight_decay": 0.01},
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, tiny.fit(folder, *TWO)


def test_learns_and_reports(whole):
    _, out = whole
    assert out.best["val_accuracy"] > 0.6  # chance is a third
    assert [r["step"] for r in out.history] == [3, 6, 9, 12]
    assert [r["epoch"] for r in out.history] == [1, 2, 3, 4]
    assert (
        out.best["step"]
        == max(out.history, key=lambda r: (r["val_accuracy"], -r["val_loss"]))["step"]
    )
    assert [(s["name"], s["steps"], s["boundary"], s["cached"]) for s in out.stages] == [
        ("s0", 6, "block2_pool", False),
        ("s1", 6, "block1_pool", True),
    ]
    assert all(s["frozen_unchanged"] for s in out.stages)


def test_same_seed_same_bits_other_seed_other(tmp_path):
    stage = {"epochs": 1, "augment": "flip_crop"}
    small = tiny.model(endpoint="block1_pool")
    start = small.init(0)
    a, b, c = (
        tiny.fit(tmp_path / str(i), stage, network=small, seed=seed, variables=start).variables
        for i, seed in enumerate((5, 5, 6))
    )
    assert tiny.same(a, b)
    # The same initial values: order, augmentation and dropout differ.
    assert not tiny.same(a, c)


@pytest.mark.parametrize(
    ("step", "every_step"),
    [
        (4, True),
        (8, True),
        *(
            pytest.param(*p, marks=pytest.mark.slow)
            for p in ((5, False), (1, True), (6, True), (11, False))
        ),
    ],
)
def test_killed_anywhere_the_same_run_comes_out(whole, tmp_path, monkeypatch, step, every_step):
    if every_step:
        monkeypatch.setattr(stage_run, "_SAVE_WITHIN_EPOCH_SECONDS", -1.0)
    with monkeypatch.context() as patch:
        tiny.cut_at(patch, step)
        with pytest.raises(RuntimeError, match="killed"):
            tiny.fit(tmp_path, *TWO)
    if every_step:
        with Checkpoints(tmp_path / "checkpoints") as found:
            assert found.latest_step == step
    out = tiny.fit(tmp_path, *TWO)
    assert tiny.same(whole[1].variables, out.variables)
    assert tiny.rows(tmp_path) == tiny.rows(whole[0])
    assert out.best == whole[1].best
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert len(lines) == 1 + 4


def test_interrupted_inside_an_epoch_it_is_saved_but_never_the_best(whole, tmp_path, monkeypatch):
    for step, number in ((4, 15), (6, 2), (7, 2)):
        guard = Guard()
        real = stage_run.make_train_step

        def make(*args, real=real, guard=guard, step=step, number=number, **kwargs):
            inner = real(*args, **kwargs)

            def signalled(state, *rest):
                result = inner(state, *rest)
                offset = 6 if kwargs["seed"][1] else 0
                if int(result[0]["step"]) + offset == step:
                    guard._handle(number, None)
                return result

            return signalled

        with monkeypatch.context() as patch:
            patch.setattr(stage_run, "make_train_step", make)
            with pytest.raises(Interrupted) as caught:
                tiny.fit(tmp_path, *TWO, guard=guard)
        assert caught.value.code == 128 + number
        with Checkpoints(tmp_path / "checkpoints") as found:
            assert found.latest_step == step
            evaluated = [r["step"] for r in tiny.rows(tmp_path)]
            best = found.meta(step)["best"]
            assert best["step"] in evaluated
            # The best is still there, beside the latest.
            assert found._manager.best_step() == best["step"]
    assert tiny.same(whole[1].variables, tiny.fit(tmp_path, *TWO).variables)
    assert tiny.rows(tmp_path) == tiny.rows(whole[0])


def test_the_next_stage_starts_from_the_best(tmp_path, monkeypatch):
    # After the first epoch the rate is absurd, so the best is not the last.
    def schedule(name, peak, steps, warmup):
        return lambda step: (step < 3) * peak + (step >= 3) * 3.0

    monkeypatch.setattr(stage_run, "make_schedule", schedule)
    started, kept = [], {}
    real, real_save = stage_run.split_variables, Checkpoints.save

    def save(self, step, variables, *rest):
        kept[step] = tiny.flat(variables)
        real_save(self, step, variables, *rest)

    monkeypatch.setattr(Checkpoints, "save", save)
    monkeypatch.setattr(
        stage_run,
        "split_variables",
        lambda v, *rest: (started.append(tiny.flat(v)), real(v, *rest))[1],
    )
    out = tiny.fit(tmp_path, {"train": ("block3",), "epochs": 3}, {"epochs": 1})
    assert out.stages[0]["best_step"] == 3
    assert len(started) == 2 and 9 in kept
    assert tiny.same(started[1], kept[3])
    assert not tiny.same(kept[9], kept[3])
    assert tiny.same(out.variables, kept[out.best["step"]])


def test_equal_scores_keep_the_first_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(stage_run, "score", lambda accuracy, loss, n, select: 0.5)
    small = tiny.model(endpoint="block1_pool")
    out = tiny.fit(tmp_path, {"epochs": 2}, {"epochs": 2, "lr": 1e-4}, network=small)
    assert out.best["step"] == 3
    with Checkpoints(tmp_path / "checkpoints") as found:
        assert tiny.same(found.variables(3, out.variables), out.variables)


def test_a_finished_training_does_nothing_more(whole, monkeypatch):
    tiny.cut_at(monkeypatch, 0)
    out = tiny.fit(whole[0], *TWO)
    assert tiny.same(out.variables, whole[1].variables)
    assert out.stages == whole[1].stages


def test_other_images_are_refused(whole, tmp_path):
    other = tiny.job(whole[0], *TWO)
    other.fingerprint = "other"
    with pytest.raises(DataError, match="images have changed"):
        loop.train(other)


def test_other_pretrained_weights_are_refused(whole, monkeypatch):
    other = tiny.job(whole[0], *TWO)
    other.weights = "0123456789abcdef"
    with pytest.raises(ConfigError, match=r"weights have changed .*none -> 0123456789ab\)"):
        loop.train(other)
    # Earlier versions did not write them down.
    meta = Checkpoints.meta
    monkeypatch.setattr(
        Checkpoints, "meta", lambda *a: {k: v for k, v in meta(*a).items() if k != "weights"}
    )
    assert loop.train(other).stages == whole[1].stages


def test_nan_is_one_clear_error_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    def schedule(name, peak, steps, warmup):
        return lambda step: (step < 3) * peak + (step >= 3) * 1e30

    monkeypatch.setattr(stage_run, "make_schedule", schedule)
    small = tiny.model(endpoint="block1_pool")
    with pytest.raises(Diverged) as caught:
        tiny.fit(tmp_path, {"epochs": 4, "train": "all", "optimizer": "sgd"}, network=small)
    text = str(caught.value)
    assert "stage 's0'" in text and "step 3, validation accuracy" in text and "Lower lr" in text
    with Checkpoints(tmp_path / "checkpoints") as found:
        assert found.latest_step == 3
        kept = tiny.flat(found.variables(3, small.init(0)))
    assert all(np.isfinite(v).all() for v in kept.values())


def test_nan_after_the_last_update_of_an_epoch_is_not_saved(tmp_path, monkeypatch):
    # The training loss is measured before the update: only the validation sees this one.
    def schedule(name, peak, steps, warmup):
        return lambda step: peak + (step == 2) * math.inf

    monkeypatch.setattr(stage_run, "make_schedule", schedule)
    with pytest.raises(Diverged, match=r"validation loss .* no checkpoint"):
        tiny.fit(tmp_path, {"epochs": 2}, network=tiny.model(endpoint="block1_pool"))
    assert tiny.rows(tmp_path) == []


@pytest.mark.parametrize(("select", "best"), [("accuracy", 3), ("loss", 6)])
def test_select(tmp_path, monkeypatch, select, best):
    scripted(monkeypatch, [(0.7, 2.0), (0.6, 0.5), (0.7, 2.1)])
    assert tiny.fit(tmp_path, {"epochs": 3}, select=select).best["step"] == best


def scripted(monkeypatch, results):
    """Replaces the validation by given (accuracy, loss) pairs, and the steps by counting."""
    from tlflax.train.streams import Streams

    queue = iter(results)
    monkeypatch.setattr(Streams, "validation", lambda *a: lambda variables: None)
    monkeypatch.setattr(stage_run, "accuracy_and_loss", lambda log_p, labels: next(queue))

    def counted(state, frozen, batch):
        return {**state, "step": state["step"] + 1}, 0.0

    monkeypatch.setattr(stage_run, "make_train_step", lambda *args, **kwargs: counted)


def test_the_best_until_the_end_of_each_stage_is_kept(tmp_path, monkeypatch):
    # The second stage improves nothing, the third does.
    results = [(0.5, 1.0), (0.4, 1.0), (0.9, 1.0)]
    small = tiny.model(endpoint="block1_pool")

    def train(patch, results, cut):
        scripted(patch, results)
        step, done = stage_run.make_train_step(), []

        def changing(state, frozen, batch):
            done.append(1)
            if len(done) > cut:
                raise RuntimeError("killed")
            state = {**state, "trainable": {p: v + 1 for p, v in state["trainable"].items()}}
            return step(state, frozen, batch)

        patch.setattr(stage_run, "make_train_step", lambda *args, **kwargs: changing)
        job = tiny.job(tmp_path, *3 * [{"epochs": 1}], network=small, keep_stages=True)
        return loop.train(job)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        train(patch, results, cut=4)
    first = (tmp_path / "stages" / "0.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        out = train(patch, results[1:], cut=99)
    assert [path.read_bytes() == first for path in out.kept] == [True, True]
    assert out.best["step"] == 9
    # Three steps of the head from its start, and three more from there: not from the second stage.
    start, kept = (
        tiny.flat(v)["params/head/logits/bias"]
        for v in (small.init(0), load_variables(out.kept[1])[0])
    )
    np.testing.assert_array_equal(kept, start + 3)
    np.testing.assert_array_equal(tiny.flat(out.variables)["params/head/logits/bias"], start + 6)


@pytest.mark.parametrize(
    ("stop", "results", "epochs", "best", "why"),
    [
        ((), [(0.5, 1), (0.4, 1), (0.3, 1)], 3, 3, "all epochs"),
        (("patience=1",), [(0.5, 1), (0.4, 1)], 2, 3, "no better for 1 epochs"),
        (("patience=2",), [(0.5, 1), (0.4, 1), (0.5, 1), (0.9, 1)], 3, 3, "no better for 2"),
        # Same accuracy, lower loss: an improvement.
        (("patience=1",), [(0.5, 1), (0.5, 0.9), (0.5, 0.9)], 3, 6, "no better for 1"),
        (("val_accuracy>=0.9",), [(0.5, 1), (0.9, 1), (0.9, 1)], 2, 6, "val_accuracy >= 0.9"),
        (("val_loss<=0.5",), [(0.6, 0.6), (0.5, 0.5)], 2, 3, "val_loss <= 0.5 reached"),
        (("patience=1", "val_loss<=0.5"), [(0.6, 0.4)], 1, 3, "val_loss <= 0.5 reached"),
    ],
)
def test_stopping(tmp_path, monkeypatch, stop, results, epochs, best, why):
    scripted(monkeypatch, results)
    out = tiny.fit(tmp_path, {"epochs": 3, "stop": stop})
    (stage,) = out.stages
    assert stage["epochs"] == len(out.history) == epochs
    assert out.best["step"] == best
    assert why in stage["stopped"]


def test_stopping_on_the_training_images_and_killed_before(tmp_path, monkeypatch):
    history = tiny.fit(tmp_path / "all", {"epochs": 4}).history
    losses = [row["train_loss"] for row in history]
    assert losses == sorted(losses, reverse=True)
    stage = {"epochs": 4, "stop": (f"train_loss<={(losses[1] + losses[2]) / 2}",)}
    out = tiny.fit(tmp_path / "whole", stage)
    assert len(out.history) == 3 and "train_loss <=" in out.stages[0]["stopped"]
    # What is kept is chosen by the validation images all the same.
    best = max(out.history, key=lambda row: (row["val_accuracy"], -row["val_loss"]))
    assert out.best["step"] == best["step"]
    with monkeypatch.context() as patch:
        tiny.cut_at(patch, 7)
        with pytest.raises(RuntimeError, match="killed"):
            tiny.fit(tmp_path / "cut", stage)
    again = tiny.fit(tmp_path / "cut", stage)
    assert tiny.same(out.variables, again.variables)
    assert tiny.rows(tmp_path / "cut") == tiny.rows(tmp_path / "whole")


def test_checkpoints_keep_latest_and_best(tmp_path):
    # Saves at steps 1-4 with accuracy .5 .9 .7 .6, then one between evaluations.
    with Checkpoints(tmp_path / "c") as manager:
        for step, score in enumerate((0.5, 0.9, 0.7, 0.6, UNSCORED), start=1):
            tree = {"params": {"w": np.full(3, step, np.float32)}, "batch_stats": {}}
            manager.save(step, tree, {"n": np.array(step)}, {"history": [step]}, score)
        manager.wait()
    with Checkpoints(tmp_path / "c") as manager:
        assert sorted(manager._manager.all_steps()) == [2, 5]
        assert manager.latest_step == 5
        assert manager._manager.best_step() == 2
        assert manager.variables(2, tree)["params"]["w"].tolist() == [2, 2, 2]
        assert manager.training(5, {"n": np.array(0)})["n"] == 5
        assert manager.meta(5) == {"history": [5]}
        with pytest.raises(RuntimeError, match="not written"):
            manager.save(5, tree, {"n": np.array(5)}, {}, 0.1)
