import errno
import json
import os
from pathlib import Path

import pytest
from image_files import png, write_tree

from tlflax import folders
from tlflax.data import manifest as module
from tlflax.data.folder import list_folder
from tlflax.data.manifest import Manifest, check
from tlflax.errors import ConfigError, DataError


@pytest.fixture
def inspected(monkeypatch):
    """Counts the images that are really read."""
    files = []
    inspect = module._inspect

    def counting(split, i):
        files.append(split.files[i])
        return inspect(split, i)

    monkeypatch.setattr(module, "_inspect", counting)
    return files


def run(folder, cache, **options):
    found = list_folder(str(folder))
    manifest = Manifest(found.root, cache)
    try:
        return check(found.splits, manifest, **options)
    finally:
        assert manifest.save() is None


def test_second_start_reads_nothing_and_a_change_is_seen(tmp_path, inspected):
    data, cache = write_tree(tmp_path / "d", {"a": 3, "b": 2}), tmp_path / "c"
    changed = data / "a" / "001.png"
    changed.write_bytes(png(2).ljust(2000, b"\0"))
    first, _ = run(data, cache)
    assert len(inspected) == 5
    second, _ = run(data, cache)
    assert len(inspected) == 5 and second["train"].hashes == first["train"].hashes

    changed.write_bytes(png(77).ljust(2000, b"\0"))
    os.utime(changed, ns=(1, 1))  # same size: only the time of change differs
    third, _ = run(data, cache)
    assert inspected[5:] == ["a/001.png"]
    assert third["train"].hashes[1] != first["train"].hashes[1]

    (data / "b" / "new.png").write_bytes(png(78))
    run(data, cache)
    assert inspected[6:] == ["b/new.png"]


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"version": 1}', '{"version":1,"root":"%s","images":{"a":1}}']
)
def test_damaged_cache_is_rebuilt(tmp_path, inspected, damage):
    data, cache = write_tree(tmp_path / "d", {"a": 2, "b": 2}), tmp_path / "c"
    first, _ = run(data, cache)
    (path,) = (cache / "manifests").glob("*.json")
    path.write_text(damage.replace("%s", str(data)))
    again, _ = run(data, cache)
    assert len(inspected) == 8 and again["train"].hashes == first["train"].hashes
    assert len(json.loads(path.read_text())["images"]) == 4
    assert [p.suffix for p in path.parent.iterdir()] == [".json"]


def test_bad_image_is_an_error_that_names_file_reason_and_fix(tmp_path):
    data = write_tree(tmp_path / "d", {"a": 3, "b": 3})
    (data / "a" / "001.png").write_bytes(png(1, 60, 60)[:100])
    (data / "b" / "000.png").write_bytes(b"<html>")
    for _ in range(2):  # from the images, then from the cache
        with pytest.raises(DataError) as caught:
            run(data, tmp_path / "c")
        text = str(caught.value)
        assert text.startswith("2 of 6 images") and "a/001.png: truncated" in text
        assert "b/000.png: not an image" in text and "--config.on_bad_image=skip" in text
        assert "\n" not in text


def test_bad_image_can_be_skipped_and_is_recorded(tmp_path):
    data = write_tree(tmp_path / "d", {"a": 3, "b": 3})
    (data / "a" / "001.png").write_bytes(b"")
    good, skipped = run(data, tmp_path / "c", on_bad_image="skip")
    assert skipped == [{"file": "a/001.png", "reason": "empty file"}]
    assert len(good["train"]) == 5 == len(good["train"].hashes)
    assert "a/001.png" not in good["train"].files
    assert good["train"].labels.tolist() == [0, 0, 1, 1, 1]


def test_repaired_image_is_used(tmp_path):
    data = write_tree(tmp_path / "d", {"a": 2, "b": 2})
    (data / "a" / "001.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of 4 images cannot be used: a/001\.png: empty file"):
        run(data, tmp_path / "c")
    (data / "a" / "001.png").write_bytes(png(5))
    assert len(run(data, tmp_path / "c")[0]["train"]) == 4


@pytest.mark.parametrize("stamped", [False, True])
def test_a_file_that_could_not_be_read_is_read_again(tmp_path, monkeypatch, stamped):
    data, cache = write_tree(tmp_path / "d", {"a": 2, "b": 2}), tmp_path / "c"
    real = Path.read_bytes

    def failing(path):
        if path.name == "001.png" and path.parent.name == "a":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", failing)
        with pytest.raises(DataError, match=r"a/001\.png: cannot be read \(Input/output error\)"):
            run(data, cache)
    (path,) = (cache / "manifests").glob("*.json")
    stored = json.loads(path.read_text())
    assert sorted(stored["images"]) == ["a/000.png", "b/000.png", "b/001.png"]
    if stamped:
        # As earlier versions wrote it.
        stat = (data / "a" / "001.png").stat()
        stamp = f"{stat.st_size}:{stat.st_mtime_ns}"
        stored["images"]["a/001.png"] = [stamp, "", "cannot be read (Input/output error)", "", ""]
        path.write_text(json.dumps(stored))
    good, _ = run(data, cache)
    assert len(good["train"]) == 4 and all(good["train"].hashes)


def test_unknown_choice(tmp_path):
    data = write_tree(tmp_path / "d", {"a": 2, "b": 2})
    with pytest.raises(ConfigError, match="did you mean skip"):
        run(data, tmp_path / "c", on_bad_image="skipp")


def test_unwritable_cache_is_a_warning(tmp_path):
    (tmp_path / "file").write_text("")
    manifest = Manifest("somewhere", tmp_path / "file")
    assert "TLFLAX_CACHE" in manifest.save()


def test_cache_dir_order(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("TLFLAX_CACHE", str(tmp_path))
    assert folders.cache_dir() == tmp_path
    assert folders.cache_dir("x").name == "x"
    monkeypatch.delenv("TLFLAX_CACHE")
    assert folders.cache_dir().parts[-2:] == (".cache", "tlflax")


def test_many_images_show_a_bar(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "_BAR_FROM", 3)
    data = write_tree(tmp_path / "d", {"a": 2, "b": 2})
    run(data, tmp_path / "c")
    assert "checking images" in capsys.readouterr().err
    run(data, tmp_path / "c")
    assert capsys.readouterr().err == ""
