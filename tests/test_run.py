"""Whole runs: killed, interrupted, on several devices, and what they read when."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file
from tiny import quick_compilation  # noqa: F401

from tlflax import run as runs
from tlflax import setup
from tlflax.errors import ConfigError
from tlflax.report.document import plain
from tlflax.result import Run
from tlflax.train import stage_run

# Dropout, augmentation, early stopping, live BatchNorm; 39 images, three steps an epoch.
STAGES = """(
        {"name": "first", "epochs": 8, "train": ("block3",), "lr": 3e-5, "bn": "train",
         "augment": "flip_crop", "stop": ("patience=6",)},
        {"name": "second", "epochs": 40, "train": ("from block2",), "lr": 3e-3,
         "optimizer": "adamw", "weight_decay": 0.01, "schedule": "cosine", "clip": 1.0},
    )"""


def model_of(folder):
    return load_file(folder / "model.safetensors")


def equal(a, b):
    return a.keys() == b.keys() and all(a[k].tobytes() == b[k].tobytes() for k in a)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """One run that nobody disturbed, and its command line without --workdir."""
    folder = tmp_path_factory.mktemp("reference")
    config = tiny.write_config(folder / "c.py", STAGES, dropout=0.3)
    arguments = ["tlflax.main", "--config", str(config), "--workdir"]
    found = tiny.command(*arguments, str(folder / "run"))
    assert found.returncode == 0, found.stderr
    return folder / "run", arguments


def start(arguments, folder):
    return subprocess.Popen(
        [sys.executable, "-m", *arguments, str(folder)],
        env=tiny.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for_row(process, folder, stage, number):
    """Returns when metrics.jsonl has ``number`` rows of a stage."""
    for _ in range(12000):
        path = folder / "metrics.jsonl"
        if path.is_file() and path.read_text().count(f'"{stage}"') >= number:
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    raise AssertionError(f"no {number} rows of {stage}")


def interrupted(arguments, folder, stage, number, wait, sent):
    process = start(arguments, folder)
    try:
        wait_for_row(process, folder, stage, number)
        time.sleep(wait)
        assert process.poll() is None, "too late: the run has ended"
        process.send_signal(sent)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    return process.returncode, err


def finish(arguments, folder, reference):
    found = tiny.command(*arguments, str(folder))
    assert found.returncode == 0, found.stderr
    assert equal(model_of(folder), model_of(reference))
    assert tiny.rows(folder) == tiny.rows(reference)
    reports = [json.loads((f / "report.json").read_text()) for f in (folder, reference)]
    for report in reports:
        # Whether features were computed or found is what an interruption may change.
        for key in ("seconds", "date", "command", "cache"):
            report.pop(key)
        for stage in report["stages"]:
            stage.pop("seconds")
            stage.pop("cache")
    assert reports[0] == reports[1]
    return found.stdout


def test_killed_and_interrupted_in_both_stages_the_same_model_comes_out(reference, tmp_path):
    run, arguments = tmp_path / "run", reference[1]
    code, _ = interrupted(arguments, run, "first", 1, 0.013, signal.SIGKILL)
    assert code == -9
    assert not (run / "model.safetensors").exists()
    code, err = interrupted(arguments, run, "second", 3, 0.017, signal.SIGINT)
    assert code == 130
    assert "Traceback" not in err
    out = finish(arguments, run, reference[0])
    assert "resuming at step" in out
    assert "in stage 'second'" in out


@pytest.mark.slow
def test_terminated_in_the_first_stage_and_killed_in_the_second(reference, tmp_path):
    run, arguments = tmp_path / "run", reference[1]
    code, err = interrupted(arguments, run, "first", 3, 0.011, signal.SIGTERM)
    assert code == 143
    assert err.splitlines()[-1] == "SIGTERM: saved; run the same command to go on"
    code, _ = interrupted(arguments, run, "second", 3, 0.007, signal.SIGKILL)
    assert code == -9
    finish(arguments, run, reference[0])


def test_a_complete_run_is_left_alone(finished, monkeypatch, capsys):
    folder, result, _ = finished
    files = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}

    def never(*args, **kwargs):
        raise AssertionError("read")

    for name in ("load_dataset", "predictions_of", "Streams"):
        monkeypatch.setattr(runs, name, never)
    again = runs.run(small(baseline=True, baseline_epochs=1), folder)
    assert plain(again.results) == plain(result.results)
    assert "is complete" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == files


def small(**changes):
    return {
        "data": f"folder:{tiny.stripes()}", "backbone": "glyph_cnn", "weights": "none",
        "image_size": 16, "batch_size": 16,
        "stages": ({"name": "a", "epochs": 2, "train": "block3", "lr": 3e-3,
                    "augment": "flip_crop"},),
    } | changes  # fmt: skip


def test_a_run_goes_on_with_its_own_weights_and_counts_the_time_of_every_session(
    tmp_path, monkeypatch
):
    from tlflax.convert.tensors import load_variables, save_variables

    run, path = tmp_path / "run", tmp_path / "w.safetensors"
    variables, facts = load_variables(tiny.ROOT / "tlflax" / "weights" / "glyph_cnn.safetensors")
    save_variables(path, variables, facts)
    config = small(weights=str(path), baseline=True, baseline_epochs=2)
    late = types.SimpleNamespace(monotonic=lambda: time.monotonic() + 1000)
    # Six steps of the stage, then those of the baseline: killed in the middle of each.
    for steps in (4, 3 + 4):
        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
            # The stage believes that what was before it took so long.
            patch.setattr(stage_run, "time", late)
            tiny.cut_at(patch, steps)
            runs.run(config, run)
        # Other weights behind the same path.
        save_variables(path, variables, facts | {"sha256": "f" * 64})
        with pytest.raises(ConfigError, match=f"{facts['sha256'][:12]} -> ffffffffffff"):
            runs.run(config, run)
        save_variables(path, variables, facts)
    report = runs.run(config, run).results
    assert report["weights"]["sha256"] == facts["sha256"]
    # Twice until a checkpoint of the stage, once until one of the baseline.
    assert 3000 <= report["seconds"] < 3300
    every = [*report["stages"], *report["baseline"]["stages"]]
    assert sum(stage["seconds"] for stage in every) < 300


def test_what_each_stage_came_to_is_tested_too(tmp_path, monkeypatch, capsys):
    first = {"name": "a", "epochs": 1, "train": "block3", "lr": 3e-3}
    second = {"name": "b", "epochs": 2, "lr": 3e-3}
    config = small(stages=(first, second), select="loss", evaluate_stages=True)
    # Killed in the second stage, when no checkpoint holds the first one's state any more.
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        tiny.cut_at(patch, 3 + 4)
        runs.run(config, tmp_path / "both")
    both = runs.run(config, tmp_path / "both").results
    assert "resuming at step 6 in stage 'b'" in capsys.readouterr().out
    alone = runs.run(small(stages=(first,), select="loss"), tmp_path / "alone").results
    one, two = (stage["test"] for stage in both["stages"])
    assert (one["loss"], one["confusion"]) == (alone["test"]["loss"], alone["test"]["confusion"])
    assert two["loss"] == both["test"]["loss"] != one["loss"]
    assert "test" not in alone["stages"][0]
    # The report can be written again.
    (tmp_path / "both" / "report.html").unlink()
    again = runs.run(config, tmp_path / "both").results["stages"]
    assert [s["test"]["loss"] for s in again] == [one["loss"], two["loss"]]
    # The figures are of the best state until then, whichever stage has made it.
    assert again[1]["validation"]["loss"] == both["validation"]["loss"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with a baseline, and every read of an image during it."""
    reads, phase = [], []
    patch = pytest.MonkeyPatch()
    real = runs.load_dataset

    def recorded(*args, **kwargs):
        data = real(*args, **kwargs)

        def watch(split):
            def reader(row, inner=split.reader):
                reads.append((split.name, row, tuple(phase)))
                return inner(row)

            return dataclasses.replace(split, reader=reader)

        parts = {n: watch(getattr(data, n)) for n in ("train", "val", "test")}
        return dataclasses.replace(data, **parts)

    train, predictions_of, write = runs.train, runs.predictions_of, Run.write
    patch.setattr(runs, "load_dataset", recorded)
    patch.setattr(runs, "train", lambda job: (train(job), phase.append("trained"))[0])
    patch.setattr(
        runs, "predictions_of", lambda *a: (predictions_of(*a), phase.append("predicted"))[0]
    )
    patch.setattr(Run, "write", lambda *a: (phase.append("report"), write(*a))[1])
    folder = tmp_path_factory.mktemp("finished") / "run"
    result = runs.run(small(baseline=True, baseline_epochs=1), folder)
    patch.undo()
    return folder, result, reads


def test_the_test_split_is_read_once_and_after_all_training(finished):
    _, result, reads = finished
    phases = [phase for name, _, phase in reads if name == "test" and "report" not in phase]
    # After both trainings and the validation; once for each of the 15 images, both models.
    assert phases == [("trained", "trained", "predicted")] * 15
    rows = sorted(row for name, row, phase in reads if name == "test" and "report" not in phase)
    assert rows == list(range(15))
    # Only the report's thumbnails come later.
    assert result.results["test"]["n"] == 15


def test_what_a_run_directory_holds(finished):
    folder, result, _ = finished
    names = {p.name for p in folder.iterdir()}
    assert names >= {
        "config.json", "metrics.jsonl", "metrics.csv", "tb", "checkpoints", "model.safetensors",
        "predictions.csv", "report.json", "report.html", "curves.png", "confusion.png",
    }  # fmt: skip
    report = json.loads((folder / "report.json").read_text())
    assert report == plain(result.results)
    assert set(report) >= {
        "test", "validation", "baseline", "stages", "backbone", "endpoint", "weights", "data",
        "seed", "versions", "warnings", "seconds",
    }  # fmt: skip
    (stage,) = report["stages"]
    assert stage["best_step"] == report["best_step"]
    assert report["baseline"]["stages"][0]["boundary"] is None
    assert report["validation"]["accuracy"] == pytest.approx(stage["val_accuracy"])
    assert stage["val_accuracy_ci95"] == report["validation"]["accuracy_ci95"]
    assert stage["val_n"] == report["validation"]["n"]
    # The best by validation is what was tested and stored.
    best = max(tiny.rows(folder), key=lambda r: (r["val_accuracy"], -r["val_loss"]))
    assert best["step"] == report["best_step"]
    assert best["val_loss"] == pytest.approx(report["validation"]["loss"], rel=1e-4)


def test_stages_are_read_and_checked():
    kept = setup.read_stages([{"name": "a", "epochs": 0}, {"name": "b", "epochs": 1}], "flip")
    assert [(s.name, s.augment) for s in kept] == [("b", "flip")]
    assert setup.read_stages([{"name": "b", "epochs": 1, "augment": "none"}], "flip")[
        0
    ].augment == ("none")
    with pytest.raises(ConfigError, match="two stages"):
        setup.read_stages([{"name": "b", "epochs": 1}] * 2)
    with pytest.raises(ConfigError, match="a stage is a dict"):
        setup.read_stages(["head"])


def test_the_baseline_takes_the_stages_augmentation_and_epochs():
    stages = tiny.stages({"epochs": 2}, {"epochs": 3, "augment": "flip"})
    scratch = setup.scratch_stage(stages)
    assert (scratch.epochs, scratch.augment, scratch.bn) == (5, "flip", "train")
    assert setup.scratch_stage(stages, 7, 0.1).epochs == 7
    mixture = {"mixup": 0.2, "class_weights": "balanced", "sampling": "balanced"}
    scratch = setup.scratch_stage(tiny.stages({}, mixture))
    assert scratch.mixture == mixture
    assert setup.scratch_stage(tiny.stages(mixture, {})).mixture == {}


SCRIPT = """
import sys, json, pathlib
import jax
jax.config.update("jax_num_cpu_devices", 4)
sys.path.insert(0, sys.argv[2])
import tiny
from tlflax.train.devices import Placement
folder = pathlib.Path(sys.argv[1])
for devices in (1, 4):
    placement = Placement(jax.devices()[:devices])
    assert placement.multiple == devices
    out = tiny.fit(folder / str(devices), {"epochs": 1, "train": "block3"},
                   {"epochs": 1, "mixup": 0.4, "sampling": "balanced"},
                   network=tiny.model(dropout=0.0), placement=placement)
    keys = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
    print(json.dumps([[r[k] for k in keys] for r in out.history]))
"""


@pytest.mark.slow
def test_four_devices_give_the_metrics_of_one(tmp_path):
    # 39 images in 3 batches of 13: on four devices 16 rows, three of them padding.
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), os.path.dirname(__file__)],
        env=tiny.environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    one, four = map(json.loads, done.stdout.splitlines()[-2:])
    np.testing.assert_allclose(one, four, rtol=1e-5)
