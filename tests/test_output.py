"""`--out` of the commands that have one: refused before the work, or in one line after it."""

import errno
import os

import pytest
from tiny import write_stripes

from tlflax import audit, output, predict
from tlflax.errors import ConfigError


def audited(folder, out):
    audit.main(["audit", str(folder), "--out", str(out)])


def predicted(folder, out):
    # Were the images or the run looked at first, another message would come.
    predict.main(["predict", "no-run", "no-images", "--out", str(out)])


@pytest.mark.parametrize("command", [audited, predicted])
def test_what_no_file_can_be_is_refused_before_the_work(tmp_path, monkeypatch, command):
    images = tmp_path / "nothing"
    with pytest.raises(ConfigError, match=r"--out .* is a folder: name a file"):
        command(images, tmp_path)
    with pytest.raises(ConfigError, match=r"there is no folder .*nowhere"):
        command(images, tmp_path / "nowhere" / "a.json")
    # Not replaced by a file.
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match=r"--out .*pipe is no ordinary file"):
        command(images, tmp_path / "pipe")
    with pytest.raises(ConfigError, match=r"--out /dev/\w+ is no ordinary file"):
        command(images, "/dev/stdout")
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(ConfigError, match=r"folder .* cannot be written to"):
        command(images, tmp_path / "a.json")


def test_a_full_disk_is_one_line_after_the_report(tmp_path, monkeypatch, capsys):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    images, out = write_stripes(tmp_path / "d", {"train": 2}), tmp_path / "a.json"
    monkeypatch.setattr("tempfile.mkstemp", full)
    with pytest.raises(ConfigError, match=r"a\.json cannot be written: No space left on device"):
        audited(images, out)
    assert "must be changed: nothing" in capsys.readouterr().out and not out.exists()


def test_other_errors_are_nobodys_but_ours(tmp_path):
    with pytest.raises(ValueError, match="ours"), output.writing(tmp_path / "a.json"):
        raise ValueError("ours")
