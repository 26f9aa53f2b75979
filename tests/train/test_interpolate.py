"""Interpolation at the end of a stage: what is chosen, what is kept, and that it resumes."""

import numpy as np
import pytest
import tiny

from tlflax.evaluate.statistics import wilson
from tlflax.train import interpolate, stage_run
from tlflax.train.checkpoint import Checkpoints
from tlflax.train.progress import score

HEAD = {"epochs": 2}
TUNE = {"train": ("all",), "lr": 3e-3, "interpolate": True, "epochs": 2}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, tiny.fit(folder, HEAD, TUNE, select="loss")


def test_a_better_fraction_on_validation_is_chosen(whole):
    _, out = whole
    found = out.stages[1]["interpolation"]
    assert [t["fraction"] for t in found["tried"]] == [i / 10 for i in range(11)]
    assert found["calibrated_loss"] == min(t["calibrated_loss"] for t in found["tried"])
    for entry in (*out.stages, found, *found["tried"]):
        right = round(21 * entry["val_accuracy"])
        assert entry["val_accuracy_ci95"] == list(wilson(right, 21))
    assert [stage["val_n"] for stage in out.stages] == [21, 21]
    # The first of them is the stage before, the last the stage's own last epoch.
    assert found["tried"][0]["val_loss"] == pytest.approx(out.stages[0]["val_loss"], rel=1e-5)
    raw = [r for r in out.history if r["stage"] == "s1" and "fraction" not in r]
    assert found["tried"][-1]["val_loss"] == pytest.approx(raw[-1]["val_loss"], rel=1e-5)
    assert found["fraction"] > 0 and out.best["val_loss"] == found["val_loss"]
    assert out.stages[1]["val_loss"] == found["val_loss"]
    assert out.history[-1]["fraction"] == found["fraction"]


def test_the_weights_are_the_mixture(whole, tmp_path):
    _, out = whole
    first = tiny.flat(tiny.fit(tmp_path / "head", HEAD, select="loss").variables)
    # The same steps without interpolation end with the last weights.
    plain = tiny.fit(tmp_path / "plain", HEAD, TUNE | {"interpolate": False}, select="loss")
    assert plain.stages[1]["interpolation"] is None
    with Checkpoints(tmp_path / "plain" / "checkpoints") as found:
        last = tiny.flat(found.variables(12, plain.variables))
    fraction = out.stages[1]["interpolation"]["fraction"]
    for path, value in tiny.flat(out.variables).items():
        expected = (1 - fraction) * first[path] + fraction * last[path]
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-7)


def test_a_harmful_stage_is_undone(tmp_path):
    harmful = TUNE | {"lr": 0.1, "clip": 1.0, "epochs": 1}
    out = tiny.fit(tmp_path, HEAD, harmful, select="loss")
    alone = tiny.fit(tmp_path / "alone", HEAD, select="loss")
    found = out.stages[1]["interpolation"]
    assert found["tried"][-1]["val_loss"] > found["tried"][0]["val_loss"]
    assert found["fraction"] == 0 and found["gain_in_standard_errors"] == 0
    assert tiny.same(out.variables, alone.variables)
    assert out.stages[1]["best_step"] == alone.best["step"] == out.best["step"]


def choose(losses, may_go_back=True):
    """Chooses among fractions with these losses per validation image."""
    labels, at = np.zeros(len(losses[0]), int), {i / 10: row for i, row in enumerate(losses)}

    def log_p(fraction):
        # Two classes, the right one with exp(-loss).
        p = np.exp(-np.array(at[fraction]))
        return np.log(np.stack([p, 1 - p], axis=1))

    return interpolate.choose(log_p, labels, may_go_back=may_go_back)


def test_the_smallest_loss_is_taken():
    # Answers of 100 images with two classes; the temperature is fitted before comparing.
    curve = [0.9, 0.5, 0.4, 0.31, 0.3, 0.31, 0.4, 0.5, 0.5, 0.5, 0.5]
    losses = [np.where(np.arange(100) % 10, 0.5 * c, 3 * c) for c in curve]
    found = choose(losses)
    assert found["fraction"] == 0.4 and found["gain_in_standard_errors"] > 1
    rising = choose(losses[4:8] + losses[:1] * 7)
    assert rising["fraction"] == 0 and rising["gain_in_standard_errors"] == 0
    assert choose(losses[4:8] + losses[:1] * 7, may_go_back=False)["fraction"] == 0.1


@pytest.mark.slow
def test_a_stage_that_only_harms_changes_nothing(tmp_path, monkeypatch):
    losses = iter(range(11))
    monkeypatch.setattr(interpolate, "calibrated_loss", lambda p, y: np.full(len(y), next(losses)))
    out = tiny.fit(tmp_path, HEAD, TUNE, select="loss")
    assert out.stages[1]["interpolation"]["fraction"] == 0
    alone = tiny.fit(tmp_path / "alone", HEAD, select="loss")
    assert tiny.same(out.variables, alone.variables)
    assert out.best == alone.best


def test_alone_it_has_nothing_to_go_back_to(tmp_path):
    out = tiny.fit(tmp_path, TUNE)
    assert out.stages[0]["interpolation"]["fraction"] > 0
    assert out.best["step"] == 6


@pytest.mark.parametrize("step", [8, pytest.param(10, marks=pytest.mark.slow)])
def test_resumes_to_the_same_bits(whole, tmp_path, monkeypatch, step):
    monkeypatch.setattr(stage_run, "_SAVE_WITHIN_EPOCH_SECONDS", -1.0)
    with monkeypatch.context() as patch:
        tiny.cut_at(patch, step)
        with pytest.raises(RuntimeError, match="killed"):
            tiny.fit(tmp_path, HEAD, TUNE, select="loss")
    out = tiny.fit(tmp_path, HEAD, TUNE, select="loss")
    assert tiny.same(whole[1].variables, out.variables)
    assert out.stages[1]["interpolation"] == whole[1].stages[1]["interpolation"]


def test_score_orders():
    assert score(0.9, 2.0, 10) > score(0.8, 0.1, 10)
    assert score(0.9, 0.1, 10) > score(0.9, 0.2, 10)
    assert score(0.8, 0.1, 10, "loss") > score(0.9, 0.2, 10, "loss")
    assert score(0.9, float("nan"), 10, "loss") == -1.0
