"""Every mistake is one line that begins with "error:", exit code 2, and leaves nothing behind."""

import json
import sys

import numpy as np
import pytest
import tiny
from PIL import Image
from tiny import quick_compilation  # noqa: F401

from tlflax import command, main
from tlflax.errors import ConfigError

STAGES = '({"name": "head", "epochs": 1, "lr": 3e-3},)'


def call(argv, capsys, program=main.main):
    """Runs a command in this process as `python -m` would; returns (code, out, stderr lines)."""
    # In one process a config module would be run on top of the last one's names.
    for name in [n for n in sys.modules if n.endswith("_config") and "." not in n]:
        del sys.modules[name]
    before, sys.argv = sys.argv, ["tlflax.main", *map(str, argv)]
    code = 0
    try:
        command.run_command(program)
    except SystemExit as error:
        code = error.code
    finally:
        sys.argv = before
    out, err = capsys.readouterr()
    return code, out, err.splitlines()


def refused(argv, capsys, *words, program=main.main):
    code, _, err = call(argv, capsys, program)
    # The library that loads config files may warn first; the error is one line, the last.
    assert code == 2, err
    assert err[-1].startswith("error: ")
    assert sum(line.startswith("error: ") for line in err) == 1
    assert not any("Traceback" in line for line in err)
    for word in words:
        assert word in err[-1]
    assert len(err[-1]) < 700
    return err[-1]


@pytest.fixture
def config(tmp_path):
    return tiny.write_config(tmp_path / "small.py", STAGES)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--config.batchsize=3"], ["unknown config key 'batchsize'", "did you mean batch_size"]),
        (
            ["--config.data=digits", "--config.bacth_size=3"],
            ["unknown config key 'bacth_size'", "did you mean batch_size"],
        ),
        (["--config.backbon=x"], ["did you mean backbone"]),
        (["--config.data_splits.vall=0.1"], ["'data_splits.vall'", "did you mean val"]),
        (["--config.batch_size=many"], ["batch_size=many"]),
        (["--config.stages.0.lr=1"], ["stages cannot be changed", "head_lr"]),
        (["--confg.seed=1"], ["confg.seed"]),
        (["more"], ["unexpected argument 'more'"]),
        (["--config.backbone=mobilenet_v3"], ["unknown backbone", "mobilenet_v2_1.0"]),
        (["--config.endpoint=block9_pool"], ["unknown endpoint 'block9_pool'", "block3_pool"]),
        (["--config.image_size=4"], ["image_size 4 is too small for glyph_cnn", "at least 8"]),
        (["--config.image_size=-4"], ["image_size must be at least 0"]),
        (["--config.batch_size=0"], ["batch_size must be at least 1"]),
        (["--config.seed=-1"], ["seed must be at least 0"]),
        (["--config.cache=of"], ["cache must be auto, off or views:K", "did you mean off"]),
        (["--config.on_bad_image=ignore"], ["on_bad_image must be error or skip"]),
        (["--config.augment=flip_corp"], ["augment 'flip_corp'", "did you mean flip_crop"]),
        (["--config.head=gab"], ["unknown head 'gab'", "gap"]),
        (["--config.hidden=(0,)"], ["hidden must be widths"]),
        (["--config.dropout=1.0"], ["dropout must be in [0, 1)"]),
        (["--config.data="], ["the config has no data"]),
        (["--config.data=folders:x"], ["folders:x", "did you mean folder"]),
        (["--config.data=folder:nowhere"], ["nowhere does not exist"]),
        (["--config.classes=('vertical',)"], ["only one class (vertical)"]),
        (["--config.classes=('vertcal','horizontal')"], ["did you mean vertical"]),
        (["--config.weights=nowhere.h5"], ["nowhere.h5"]),
    ],
)
def test_overrides(config, tmp_path, capsys, extra, words):
    work = tmp_path / "work"
    refused(["--config", config, "--workdir", work, *extra], capsys, *words)
    assert not work.exists()


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ('({"name": "a", "epochs": 1, "train": "blok3"},)', ["'blok3'", "did you mean block3"]),
        ('({"name": "a", "epochs": 1, "train": "from bloc3"},)', ["'bloc3'", "block3_pool"]),
        ('({"name": "a", "epochs": 1, "train": "*/gamma"},)', ["matches no parameter path"]),
        ('({"name": "a", "epochs": 1, "train": (("head", 0),)},)', ["nothing is trainable"]),
        ('({"name": "a", "epochs": 1, "train": ("all", "block3")},)', ["has no effect"]),
        ('({"name": "a", "epoch": 1},)', ["unknown key 'epoch'", "did you mean epochs"]),
        ('({"name": "a", "epochs": 0},)', ["every stage has 0 epochs"]),
        ('({"name": "a", "epochs": 1}, {"name": "a", "epochs": 1})', ["two stages", "'a'"]),
        ('({"name": "a", "epochs": 1, "augment": "flop"},)', ["augment 'flop'", "flip"]),
        ('({"name": "a", "epochs": 1, "stop": "accuracy>=1"},)', ["never at test"]),
        ('{"name": "a", "epochs": 1}', ["stages"]),
        ('("head",)', ["stages must be a tuple of dicts"]),
        ("()", ["the config has no stages"]),
    ],
)
def test_stages(tmp_path, capsys, stages, words):
    config = tiny.write_config(tmp_path / "c.py", stages)
    refused(["--config", config, "--workdir", tmp_path / "work"], capsys, *words)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"image_size": "16"}, ["image_size must be a whole number, got '16'"]),
        ({"seed": 1.5}, ["seed must be a whole number"]),
        ({"baseline": 1}, ["baseline must be True or False"]),
        ({"batch_size": True}, ["batch_size must be a whole number"]),
        ({"hidden": 128}, ["hidden must be a tuple"]),
        ({"weights": None}, ["weights must be a text"]),
        ({"bach_size": 3}, ["unknown config key 'bach_size'", "batch_size"]),
    ],
)
def test_values_in_the_file(tmp_path, capsys, keys, words):
    config = tiny.write_config(tmp_path / "c.py", STAGES, **keys)
    refused(["--config", config, "--workdir", tmp_path / "work"], capsys, *words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def get_config(:\n", ["c.py, line 1", "invalid syntax"]),
        ("import no_such_module\n", ["c.py, line 1", "no_such_module"]),
        ("def get_config():\n    return 1 / 0\n", ["c.py, line 2", "ZeroDivisionError"]),
        ("def get_confg():\n    pass\n", ["c.py has no function get_config"]),
        ("def get_config():\n    pass\n", ["get_config must return"]),
        (
            "from tlflax.config import base\n\n\ndef get_config():\n    c = base()\n"
            "    c.bacth_size = 3\n    return c\n",
            ["c.py, line 6", "unknown config key 'bacth_size'", "did you mean batch_size"],
        ),
        (
            "import ml_collections\n\n\ndef get_config():\n"
            "    return ml_collections.ConfigDict({'bacth_size': 3})\n",
            ["unknown config key 'bacth_size'", "did you mean batch_size"],
        ),
    ],
)
def test_config_files(tmp_path, capsys, text, words):
    (tmp_path / "c.py").write_text(text)
    argv = ["--config", tmp_path / "c.py", "--workdir", tmp_path / "work"]
    refused(argv, capsys, *words)


def test_missing_flags(config, tmp_path, capsys):
    refused([], capsys, "no --config", "configs/quickstart.py")
    refused(["--workdir", tmp_path], capsys, "no --config")
    refused(["--config", config], capsys, "no --workdir")
    refused(["--config", tmp_path / "smal.py"], capsys, "does not exist", "small.py")


def test_help_needs_no_config(capsys):
    code, out, _ = call(["--help"], capsys)
    assert code == 0
    assert "--workdir" in out


def test_one_class_folder(tmp_path, capsys):
    tiny.write_stripes(tmp_path / "d", {"": 2})
    for name in ("vertical", "diagonal"):
        for file in (tmp_path / "d" / name).iterdir():
            file.unlink()
        (tmp_path / "d" / name).rmdir()
    config = tiny.write_config(tmp_path / "c.py", STAGES, data=f"folder:{tmp_path / 'd'}")
    refused(["--config", config, "--workdir", tmp_path / "w"], capsys, "only one class")


def test_unreadable_image_is_named_or_skipped_and_recorded(tmp_path, capsys):
    folder = tiny.write_stripes(tmp_path / "d", {"train": 6, "val": 3, "test": 3})
    (folder / "train" / "vertical" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    config = tiny.write_config(tmp_path / "c.py", STAGES, data=f"folder:{folder}")
    argv = ["--config", config, "--workdir", tmp_path / "w"]
    refused(argv, capsys, "train/vertical/broken.png")
    # The corrected second try in the same folder works.
    code, out, _ = call([*argv, "--config.on_bad_image=skip"], capsys)
    assert code == 0
    report = json.loads((tmp_path / "w" / "report.json").read_text())
    assert [s["file"] for s in report["data"]["skipped"]] == ["train/vertical/broken.png"]
    assert any("broken.png" in w for w in report["warnings"])
    assert "broken.png" in out
    # Run again: complete. With another config: refused, keys listed, nothing changed.
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "w").rglob("*")}
    code, out, _ = call([*argv, "--config.on_bad_image=skip"], capsys)
    assert (code, "is complete" in out) == (0, True)
    refused(
        [*argv, "--config.on_bad_image=skip", "--config.seed=3"],
        capsys, "was made with another config: seed (0 -> 3)", "new --workdir",
    )  # fmt: skip
    refused(argv, capsys, 'on_bad_image ("skip" -> "error")')
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "w").rglob("*")} == files


def test_damaged_and_wrong_weights(tmp_path, config, capsys):
    from tlflax.convert.tensors import save_variables

    variables = tiny.model().init(0)
    chain = {c: v["backbone"] for c, v in variables.items()}
    facts = {"backbone": "glyph_cnn", "source": "x", "sha256": "0", "certificate": {}, "notes": []}
    save_variables(tmp_path / "good.safetensors", chain, facts)
    whole = (tmp_path / "good.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    chain["params"]["block1_pool"]["block1_conv1"]["kernel"] = np.zeros((3, 3, 1, 5), np.float32)
    save_variables(tmp_path / "shape.safetensors", chain, facts)
    argv = ["--config", config, "--workdir", tmp_path / "w"]
    refused([*argv, f"--config.weights={tmp_path}/cut.safetensors"], capsys, "cut.safetensors")
    refused(
        [*argv, f"--config.weights={tmp_path}/shape.safetensors"],
        capsys, "block1_conv1/kernel", "(3, 3, 1, 5)",
    )  # fmt: skip
    assert not (tmp_path / "w").exists()


def test_a_start_that_failed_does_not_block_the_next(tmp_path, capsys, monkeypatch):
    # Fails after config.json was written, before anything was trained.

    def fail(*args, **kwargs):
        raise RuntimeError("failed")

    from tlflax import run as runs

    work = tmp_path / "w"
    config = tiny.write_config(tmp_path / "c.py", STAGES)
    argv = ["--config", config, "--workdir", work]
    monkeypatch.setattr(runs, "fit", fail)
    with pytest.raises(RuntimeError, match="failed"):
        call(argv, capsys)
    assert (work / "config.json").is_file()
    with pytest.raises(RuntimeError, match="failed"):
        call([*argv, "--config.seed=5"], capsys)
    assert json.loads((work / "config.json").read_text())["seed"] == 5


def test_workdir_that_cannot_be(tmp_path, config, capsys):
    (tmp_path / "file").write_text("")
    refused(["--config", config, "--workdir", tmp_path / "file"], capsys, "is a file")
    (tmp_path / "other" / "checkpoints" / "12").mkdir(parents=True)
    refused(
        ["--config", config, "--workdir", tmp_path / "other"],
        capsys, "has checkpoints but no config.json",
    )  # fmt: skip


def test_in_a_process_of_its_own(tmp_path):
    found = tiny.command("tlflax.main", "--config", str(tmp_path / "no.py"), "--workdir", "w")
    assert found.returncode == 2
    assert found.stdout == ""
    (line,) = found.stderr.splitlines()
    assert line.startswith("error: config file")


def test_predict_mistakes(tmp_path, capsys):
    from tlflax import predict

    image = tmp_path / "a.png"
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(image)
    (tmp_path / "run").mkdir()
    argv = [tmp_path / "run", image]
    program = predict.main
    refused([*argv, "--out", tmp_path / "no" / "p.csv"], capsys, "there is no", program=program)
    refused([*argv, "--out", tmp_path / "p.csv"], capsys, "finished run", program=program)
    refused([*argv, "--batch_size", 0], capsys, "--batch_size must be", program=program)
    (tmp_path / "run" / "model.safetensors").write_bytes(b"123")
    refused([*argv, "--out", tmp_path / "p.csv"], capsys, "model.safetensors", program=program)


def test_keys_of_a_config_of_its_own_are_suggested():
    argv = ["tlflax.main", "--config", "configs/finetune.py", "--workdir", "x"]
    with pytest.raises(ConfigError, match=r"unknown config key 'tune_lrr'; did you mean tune_lr"):
        main.parse([*argv, "--config.tune_lrr=3", "--config.seed=1"])
