"""Several runs of one config in one directory."""

import json

import pytest
import tiny
from tiny import quick_compilation  # noqa: F401

from tlflax import config as configs
from tlflax import run as runs
from tlflax.errors import ConfigError, TlflaxError
from tlflax.study import is_study, read_runs, study

HEAD = {"name": "head", "epochs": 1, "lr": 3e-3}


def base(*entries, **changes):
    return {
        "data": f"folder:{tiny.stripes()}", "backbone": "glyph_cnn", "weights": "none",
        "image_size": 16, "batch_size": 16, "stages": (HEAD,), "runs": entries,
    } | changes  # fmt: skip


def test_an_entry_changes_keys_for_its_run_alone():
    found = read_runs(base({"name": "a", "seed": 3}, {"name": "b", "hidden": (4,)}))
    assert list(found) == ["a", "b"]
    assert [(c["seed"], c["hidden"]) for c in found.values()] == [(3, ()), (0, (4,))]
    assert all("runs" not in c and "name" not in c for c in found.values())


def test_an_entry_may_change_a_number_that_stages_refer_to():
    config = configs.base(**base())
    with config.unlocked():
        config.epochs = 2
    config.stages = ({"name": "head", "epochs": config.get_ref("epochs")},)
    more = {"name": "more", "epochs": config.get_ref("epochs"), "train": ("all",), "lr": 1e-4}
    config.runs = (
        {"name": "short", "epochs": 1},
        {"name": "as_is"},
        {"name": "both", "epochs": 5, "stages": (*config.stages, more)},
    )
    epochs = {n: [s["epochs"] for s in c["stages"]] for n, c in read_runs(config).items()}
    assert epochs == {"short": [1], "as_is": [2], "both": [5, 5]}
    assert config.epochs == 2 and is_study(config) and not is_study(configs.base())


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (({"name": "a"}, {"name": "A"}), "runs: two are called 'a'"),
        (({"name": "a", "backbon": "vgg16"},), "run 'a': .*'backbon'; did you mean backbone"),
        (({"name": "a", "zzz": 1},), "run 'a': unknown config key 'zzz' .keys: data"),
        (({"name": "a", "runs": ({"name": "b"},)},), "run 'a': runs inside a run"),
        (({"seed": 1},), "number 1 has no 'name'"),
        (({"name": "../x"},), "a name becomes a folder"),
        (({"name": "a "},), "a name becomes a folder"),
        (("a",), "each is a dict with a name, got 'a'"),
        (({"name": "a", "seed": "x"},), "run 'a': seed must be a whole number"),
        (({"name": "a", "stages": ()},), "run 'a': .*no stages"),
    ],
)  # fmt: skip
def test_mistakes_in_runs_are_one_clear_line(entries, message):
    with pytest.raises(ConfigError, match=message):
        read_runs(base(*entries))


def test_a_value_of_another_type_in_a_config_file():
    config = configs.base(**base({"name": "a", "backbone": 3}))
    with pytest.raises(ConfigError, match=r"run 'a': backbone: .*backbone.*str"):
        read_runs(config)


def test_runs_may_not_be_a_dict():
    with pytest.raises(ConfigError, match="tuple of dicts"):
        read_runs(base(runs={"a": {}}))


def test_a_mistake_in_the_last_run_stops_before_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "run", lambda *a: pytest.fail("ran"))
    wrong = {"name": "b", "stages": (HEAD | {"train": ("from blok2",)},)}
    with pytest.raises(TlflaxError, match=r"run 'b': .*blok2.*block2"):
        study(base({"name": "a"}, wrong), tmp_path / "s")
    with pytest.raises(ConfigError, match=r"run 'b': .*cache"):
        study(base({"name": "a"}, {"name": "b", "cache": "of"}), tmp_path / "s")
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_a_killed_study_goes_on_and_finished_runs_are_opened(tmp_path, monkeypatch, capsys):
    config = base({"name": "a"}, {"name": "b", "seed": 1}, {"name": "c", "seed": 2})
    folder = tmp_path / "s"
    real, ended = runs.run, []

    def fragile(c, workdir, command=()):
        if workdir.name == "b" and not ended:
            ended.append(True)
            raise KeyboardInterrupt
        return real(c, workdir, command)

    monkeypatch.setattr(runs, "run", fragile)
    with pytest.raises(KeyboardInterrupt):
        study(config, folder)
    first = (folder / "a" / "model.safetensors").stat().st_mtime_ns
    assert not (folder / "b" / "report.json").exists()
    rows = study(config, folder).content["runs"]
    assert [(r["name"], r["seed"]) for r in rows] == [("a", 0), ("b", 1), ("c", 2)]
    assert (folder / "compare.html").is_file()
    assert "a is complete" in capsys.readouterr().out
    assert (folder / "a" / "model.safetensors").stat().st_mtime_ns == first
    assert json.loads((folder / "study.json").read_text())["runs"] == ["a", "b", "c"]
    # The folder belongs to the study, and its runs to their configs.
    with pytest.raises(ConfigError, match="study of several runs"):
        real({**config, "runs": ()}, folder)
    with pytest.raises(ConfigError, match=r"run 'b': .*seed .1 -> 9"):
        study(base({"name": "a"}, {"name": "b", "seed": 9}), folder)
    with pytest.raises(ConfigError, match="single run"):
        study(config, folder / "a")


def test_the_command_runs_a_study(tmp_path):
    path = tiny.write_config(
        tmp_path / "c.py", f"({HEAD!r},)", runs=({"name": "a"}, {"name": "b", "seed": 1})
    )
    done = tiny.command("tlflax.main", "--config", str(path), "--workdir", str(tmp_path / "s"))
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "s" / "b" / "report.json").read_text())
    assert report["seed"] == 1 and report["command"].startswith("python -m tlflax.main --config")
    # From a run's page to the one that compares them.
    page = (tmp_path / "s" / "b" / "report.html").read_text()
    assert page.count('href="../compare.html"') == 1
    assert (tmp_path / "s" / "compare.html").is_file()
