"""TensorBoard's files, read back byte by byte."""

import dataclasses
import re
import struct

import tiny
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData
from tiny import quick_compilation  # noqa: F401

from tlflax import run as runs
from tlflax.data.source import load_dataset
from tlflax.facts import origins
from tlflax.model import Model
from tlflax.result import Run
from tlflax.train.hyperparameters import hyperparameters
from tlflax.train.log import TAGS, note_test, stage_folder

STAMP = r"\d{8}-\d{6}-"


def events(folder):
    """Events of all files of a directory, in the order in which TensorBoard reads them."""
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (size,) = struct.unpack_from("<Q", content, at)
            found.append(Event.FromString(content[at + 12 : at + 12 + size]))
            at += 16 + size
    return found


def scalars(folder):
    """Tag -> {step: value}, as TensorBoard shows it: what a restart purges is gone."""
    found = {}
    for event in events(folder):
        if event.session_log.status == 1:
            for values in found.values():
                for step in [s for s in values if s >= event.step]:
                    del values[step]
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def hparams(folder):
    """The plugin's data by tag."""
    return {
        value.tag: HParamsPluginData.FromString(value.metadata.plugin_data.content)
        for event in events(folder)
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "hparams"
    }


def test_a_directory_for_each_stage_with_the_numbers_of_the_history(tmp_path):
    out = tiny.fit(tmp_path, {}, {"train": "block3", "lr": 1e-4, "augment": "flip"})
    folders = sorted((tmp_path / "tb").iterdir())
    assert [re.sub(STAMP, "", f.name) for f in folders] == ["s0", "s1"]
    assert all(re.fullmatch(STAMP + r"s\d", f.name) for f in folders)
    for index, folder in enumerate(folders):
        assert [p.is_dir() for p in folder.iterdir()] == [False]  # no run below a run
        found = scalars(folder)
        rows = [r for r in out.history if r["stage_index"] == index]
        for field, tag in TAGS.items():
            wanted = {r["step"]: r[field] for r in rows}
            assert found[tag].keys() == wanted.keys()
            for step, value in wanted.items():
                assert abs(found[tag][step] - value) < 1e-5 * max(1, abs(value)), tag
        best = out.stages[index]
        assert found["best/val_accuracy"].keys() == {best["best_step"]}
    # One axis: the second stage goes on where the first ended.
    assert max(scalars(folders[0])["val/loss"]) < min(scalars(folders[1])["val/loss"])
    assert {"train/loss", "train/accuracy", "val/loss", "val/accuracy"} <= set(TAGS.values())


def test_hyperparameters_are_in_the_same_directory(tmp_path):
    tiny.fit(tmp_path, {"train": ("from block2", ("block1", 0.1)), "stop": ("patience=3",)})
    (folder,) = (tmp_path / "tb").iterdir()
    note_test(tmp_path, "s0", {"accuracy": 0.75, "loss": 0.5}, 6)
    found = hparams(folder)
    start = found["_hparams_/session_start_info"].session_start_info.hparams
    values = {k: getattr(v, v.WhichOneof("kind")) for k, v in start.items()}
    assert values["lr"] == 3e-3 and values["epochs"] == 2 and values["seed"] == 0
    assert values["backbone"] == "glyph_cnn" and values["stage"] == "s0"
    assert values["train"] == "from block2, block1 x 0.1" and values["stop"] == "patience=3"
    assert values["remat"] is False and values["batch_size"] == 16
    assert values["output"] == "softmax" and values["preprocessing"].startswith("L, x * 0.0039")
    experiment = found["_hparams_/experiment"].experiment
    assert {h.name for h in experiment.hparam_infos} == values.keys()
    shown = {m.name.tag for m in experiment.metric_infos}
    assert shown <= scalars(folder).keys()
    assert scalars(folder)["test/accuracy"] == {6: 0.75}
    assert found["_hparams_/session_end_info"].session_end_info.status == 1


def test_runs_that_differ_in_one_thing_differ_in_their_rows(tmp_path):
    def row(network=None, weights="none", images=None):
        network, images = network or tiny.model(), images or tiny.data()
        job = tiny.job(tmp_path, {}, network=network, images=images, variables={"params": {}})
        job.origins = origins(images, network.pretrained(weights))
        return hyperparameters(job, job.stages[0])

    def network(**changes):
        return Model(dataclasses.replace(tiny.model().architecture, classes=("a", "b"), **changes))

    other = tiny.write_stripes(tmp_path / "other", {"train": 12, "test": 3})
    plain = row()
    pairs = {
        "preprocessing": (row(network()), row(network(preprocessing="raw"))),
        "output": (row(network()), row(network(output="sigmoid"))),
        "weights": (plain, row(weights="official")),
        "data": (plain, row(images=load_dataset(f"folder:{other}"))),
        "val_images": [
            row(images=load_dataset(f"folder:{other}", splits={"val": n})) for n in (3, 6)
        ],
        "train_images": (plain, row(images=load_dataset(f"folder:{tiny.stripes()}", per_class=5))),
    }
    for key, (one, another) in pairs.items():
        differs = {k for k in one.keys() | another.keys() if one.get(k) != another.get(k)}
        # Data of another folder has other splits as well.
        assert key in differs and (key == "data" or differs == {key}), key


def test_what_a_run_and_its_baseline_began_with(tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "write", lambda *_: None)
    config = {
        "data": f"folder:{tiny.stripes()}", "backbone": "glyph_cnn", "image_size": 16,
        "batch_size": 16, "baseline": True, "stages": ({"name": "a", "epochs": 1},),
    }  # fmt: skip
    runs.run(config, tmp_path)
    for below, weights in (("", "pretrain_quickstart"), ("baseline", "none (random")):
        (folder,) = (tmp_path / below / "tb").iterdir()
        start = hparams(folder)["_hparams_/session_start_info"].session_start_info.hparams
        assert weights in start["weights"].string_value
        assert start["data"].string_value == config["data"]
        assert start["val_images"].string_value == "given"


def test_a_resumed_run_goes_on_in_the_same_directories(tmp_path, monkeypatch):
    import pytest

    stages = ({"epochs": 3}, {"train": "block3", "epochs": 2})
    whole = tiny.fit(tmp_path / "whole", *stages)
    for step in (4, 5):
        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
            tiny.cut_at(patch, step)
            tiny.fit(tmp_path / "cut", *stages)
    tiny.fit(tmp_path / "cut", *stages)
    assert len(list((tmp_path / "cut" / "tb").iterdir())) == 2
    for stage in ("s0", "s1"):
        one = scalars(stage_folder(tmp_path / "whole", stage))
        other = scalars(stage_folder(tmp_path / "cut", stage))
        assert one == other
    assert len(whole.history) == 5


def test_a_start_over_hides_what_was_there(tmp_path):
    tiny.fit(tmp_path, {"epochs": 3})
    (tmp_path / "checkpoints").rename(tmp_path / "gone")
    tiny.fit(tmp_path, {"epochs": 1})
    (folder,) = (tmp_path / "tb").iterdir()
    assert scalars(folder)["val/loss"].keys() == {3}


def test_names_that_look_alike(tmp_path):
    for name in ("20260101-000000-head", "20260102-000000-head", "20260103-000000-my-head"):
        (tmp_path / "tb" / name).mkdir(parents=True)
    assert stage_folder(tmp_path, "head").name == "20260102-000000-head"
    assert stage_folder(tmp_path, "my-head").name == "20260103-000000-my-head"
    fresh = stage_folder(tmp_path, "tail.1")
    assert re.fullmatch(STAMP + r"tail\.1", fresh.name) and not fresh.exists()
