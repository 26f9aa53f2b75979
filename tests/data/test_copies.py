"""The same image in two splits, or under two labels, told by its pixels."""

import re

import numpy as np
import pytest
from image_files import encoded, pixels, write_tree
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tlflax.data import copies
from tlflax.data import manifest as manifests
from tlflax.data.source import load_dataset
from tlflax.errors import DataError


@pytest.fixture
def load(tmp_path):
    def call(**options):
        return load_dataset(f"folder:{tmp_path}/d", cache_dir=tmp_path / "c", **options)

    return call


def retagged(path):
    """The same pixels, other bytes: as a program leaves them that writes its name into the file."""
    note = PngInfo()
    note.add_text("Software", "another")
    return encoded(Image.open(path), "PNG", pnginfo=note)


def jpeg_with_comment(data, text=b"hello"):
    # A COM segment (marker FE) behind the start marker.
    return data[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + data[2:]


@pytest.fixture
def split_tree(tmp_path):
    counts = {"train/a": 12, "train/b": 12, "test/a": 6, "test/b": 6}
    return write_tree(tmp_path / "d", counts)


def test_other_metadata_hide_no_copy_between_splits(split_tree, load):
    original = split_tree / "train/a/004.png"
    assert retagged(original) != original.read_bytes()
    (split_tree / "test/a/000.png").write_bytes(retagged(original))
    (warning,) = [w for w in load().warnings if "pixel for pixel" in w]
    assert "1 test images (8.3%) are in train too" in warning
    assert "test/a/000.png = train/a/004.png" in warning and "remove them" in warning


def test_the_same_for_jpeg(split_tree, load):
    data = encoded(pixels(500, 80, 60), "JPEG")
    (split_tree / "train/b/x.jpg").write_bytes(data)
    (split_tree / "test/b/000.png").write_bytes(jpeg_with_comment(data))
    assert any("test/b/000.png = train/b/x.jpg" in w for w in load().warnings)


def test_equal_previews_are_compared_in_full(split_tree, load):
    # At 1/8 of the size a JPEG is the mean of each 8x8 block: detail inside does not show.
    plain = np.full((64, 64, 3), 100, np.uint8)
    waves = plain.copy()
    waves[::2] += 20
    waves[1::2] -= 20
    one, two = (encoded(image, "JPEG", quality=100, subsampling=0) for image in (plain, waves))
    assert manifests.pixel_digest(manifests.preview(one)[0]) == manifests.pixel_digest(
        manifests.preview(two)[0]
    )
    (split_tree / "train/b/x.jpg").write_bytes(one)
    (split_tree / "test/b/x.jpg").write_bytes(two)
    assert not any("pixel for pixel" in w for w in load().warnings)


def test_full_pixels_are_decoded_only_once(split_tree, load, monkeypatch):
    original = split_tree / "train/a/004.png"
    (split_tree / "test/a/000.png").write_bytes(retagged(original))
    decoded = []
    real = copies.decode
    monkeypatch.setattr(copies, "decode", lambda d, name: decoded.append(name) or real(d, name))
    first, second = load(), load()
    assert sorted(decoded) == ["test/a/000.png", "train/a/004.png"]
    assert first.warnings == second.warnings


def test_mostly_training_images_in_the_test_split_are_refused(split_tree, load):
    for i in range(2):
        copy = retagged(split_tree / f"train/a/{i:03d}.png")
        (split_tree / f"test/a/{i:03d}.png").write_bytes(copy)
    with pytest.raises(DataError, match=r"2 test images \(16\.7%\) are in train too.*audit"):
        load()


@pytest.mark.parametrize("copied", [2, 1])
def test_validation_images_that_become_the_test_are_test_images(tmp_path, load, copied):
    counts = {"train/a": 12, "train/b": 12, "val/a": 5, "val/b": 5}
    write_tree(tmp_path / "d", counts)
    for i in range(copied):
        copy = retagged(tmp_path / f"d/train/a/{i:03d}.png")
        (tmp_path / f"d/val/a/{i:03d}.png").write_bytes(copy)
    assert any(f"{copied} val images" in w for w in load().warnings)
    found = rf"{copied} test images \({copied}0\.0%\) are in train too.*val/a/000\.png"
    if copied == 2:
        with pytest.raises(DataError, match=f"{found}.*would mean nothing"):
            load(splits={"test": "val"})
        return
    # A tenth is told. Of the copy in train, cut for validation or not, the report says so too.
    data = load(splits={"test": "val"})
    (warning,) = [w for w in data.warnings if "pixel for pixel" in w]
    assert re.search(found, warning) and "test numbers are too good" in warning
    assert data.made["test"] == "the source's validation images" and len(data.test) == 10
    assert data.leaked == ("train/a/000.png" in data.val.files) / 10 and not data.chosen_on_test


def test_validation_images_in_training_are_only_a_warning(tmp_path, load):
    write_tree(tmp_path / "d", {"train/a": 6, "train/b": 6, "val/a": 2, "val/b": 2})
    for name in ("a/000.png", "b/000.png"):
        copy = (tmp_path / "d/train" / name).read_bytes()
        (tmp_path / "d/val" / name).write_bytes(copy)
    assert any("2 val images (50.0%) are in train too" in w for w in load().warnings)


@pytest.mark.parametrize(("copied", "chosen"), [(3, True), (1, False)])
def test_validation_images_that_are_test_images_choose_on_them(tmp_path, load, copied, chosen):
    counts = {"train/a": 6, "train/b": 6, "val/a": 5, "val/b": 5, "test/a": 5, "test/b": 5}
    write_tree(tmp_path / "d", counts)
    for i in range(copied):
        copy = retagged(tmp_path / f"d/val/a/{i:03d}.png")
        (tmp_path / f"d/test/a/{i:03d}.png").write_bytes(copy)
    data = load()
    (warning,) = [w for w in data.warnings if "pixel for pixel" in w]
    assert f"{copied} test images ({copied / 10:.1%}) are in val too" in warning
    assert ("no estimate for new images" in warning) == chosen
    # A tenth and less is told, and the test accuracy still counts.
    assert data.chosen_on_test == data.summary()["chosen_on_test"] == chosen
    assert data.leaked == copied / 10


def test_two_labels(tmp_path, load):
    write_tree(tmp_path / "d", {"a": 9, "b": 9})
    (tmp_path / "d/b/000.png").write_bytes(retagged(tmp_path / "d/a/004.png"))
    data = load()
    (warning,) = [w for w in data.warnings if "more than one label" in w]
    assert "a/004.png, b/000.png" in warning
    # Whichever label is right, it measures nothing.
    assert {"a/004.png", "b/000.png"} <= set(data.train.files)


def test_a_cut_never_parts_copies_with_other_bytes(tmp_path, load):
    write_tree(tmp_path / "d", {"a": 20, "b": 20})
    for i in range(20):
        copy = retagged(tmp_path / f"d/a/{i:03d}.png")
        (tmp_path / f"d/a/copy{i:03d}.png").write_bytes(copy)
    for seed in range(3):
        data = load(seed=seed)
        parts = [
            {f.replace("copy", "") for f in s.files} for s in (data.train, data.val, data.test)
        ]
        assert not (parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2])


def test_without_copies_the_cut_is_that_of_the_bytes(tmp_path, load):
    write_tree(tmp_path / "d", {"a": 20, "b": 20})
    data = load()
    for split in (data.train, data.val, data.test):
        assert split.looks == split.hashes and len(split) > 0


def test_previews_are_kept_in_the_manifest(tmp_path):
    manifest = manifests.Manifest("somewhere", tmp_path)
    manifest.store("a.png", "1:1", "hash", None, "small")
    manifest.save()
    again = manifests.Manifest("somewhere", tmp_path)
    assert again.lookup("a.png", "1:1") == ("hash", None) and again.preview("a.png") == "small"
    assert again.pixels("a.png", lambda: "large") == "large" and again.dirty
    assert again.pixels("a.png", lambda: "other") == "large"
