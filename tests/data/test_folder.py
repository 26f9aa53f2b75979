import shutil

import pytest
from image_files import png, write_tree

from tlflax.data.folder import list_folder
from tlflax.errors import ConfigError, DataError

FLAT = {"cats": 3, "dogs": 2}


def test_flat_folder_is_one_train_split(tmp_path):
    found = list_folder(str(write_tree(tmp_path, FLAT)))
    assert found.class_names == ("cats", "dogs") and list(found.splits) == ["train"]
    train = found.splits["train"]
    assert train.files[0] == "cats/000.png" and train.labels.tolist() == [0, 0, 0, 1, 1]
    assert train.read(0) == (tmp_path / "cats/000.png").read_bytes() == train[0]
    part = train.subset([4, 1]).subset([0])
    assert part.files == ["dogs/001.png"]
    assert part.read(0) == (tmp_path / "dogs/001.png").read_bytes()
    assert found.warnings == []


@pytest.mark.parametrize("val", ["val", "valid", "Validation", "dev"])
def test_split_folders_and_their_other_names(tmp_path, val):
    write_tree(tmp_path, {f"{s}/{c}": 2 for s in ("Training", val, "test") for c in "ab"})
    found = list_folder(str(tmp_path))
    assert list(found.splits) == ["train", "val", "test"]
    assert found.splits["val"].files[0] == f"{val}/a/000.png"
    assert found.splits["val"].name == "val"


def test_suffixes_hidden_and_other_files(tmp_path):
    write_tree(tmp_path, FLAT)
    (tmp_path / "cats" / "UPPER.PNG").write_bytes(png(99))
    (tmp_path / "cats" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "cats" / "notes.txt").write_text("x")
    (tmp_path / "cats" / "more").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "top.jpg").write_bytes(png(98))
    found = list_folder(str(tmp_path))
    assert "cats/UPPER.PNG" in found.splits["train"].files and len(found.splits["train"]) == 6
    assert found.class_names == ("cats", "dogs")
    text = "\n".join(found.warnings)
    assert "2 files or folders that are no images" in text and "1 images lie outside" in text


def test_listing_is_never_stale(tmp_path):
    write_tree(tmp_path, FLAT)
    assert len(list_folder(str(tmp_path)).splits["train"]) == 5
    (tmp_path / "dogs" / "new.png").write_bytes(png(50))
    assert len(list_folder(str(tmp_path)).splits["train"]) == 6


def test_missing_folder_names_the_nearest(tmp_path):
    write_tree(tmp_path / "pets", FLAT)
    with pytest.raises(DataError, match=r"does not exist; did you mean pets\?"):
        list_folder(str(tmp_path / "pet"))
    with pytest.raises(DataError, match="does not exist"):
        list_folder(str(tmp_path / "no" / "such"))
    with pytest.raises(DataError, match="is a file"):
        list_folder(str(tmp_path / "pets/cats/000.png"))


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "no class folders"),
        ({"cats": 0, "dogs": 0}, "holds no images"),
        ({"cats": 3}, "only one class"),
        ({"cats": 3, "dogs": 0}, "no images in class dogs"),
        ({"train/a": 1, "train/b": 1, "test/a": 1, "test/bb": 1}, "'bb' is not in train"),
        ({"train/a": 1, "train/b": 1, "val/c": 1}, "'c' is not in train"),
        ({"test/a": 1, "test/b": 1}, "no train/ folder"),
        ({"train/a": 1, "train/b": 1, "val/a": 1, "valid/a": 1}, "both val/ and valid/"),
    ],
)
def test_unusable_folders(tmp_path, counts, message):
    with pytest.raises(DataError, match=message):
        list_folder(str(write_tree(tmp_path, counts)))


def test_what_is_ignored_is_said(tmp_path):
    write_tree(
        tmp_path,
        {"train/a": 2, "train/b": 2, "test": 3, "val/a": 1, "val/b": 0, "val/x": 0, "misc/z": 1},
    )
    found = list_folder(str(tmp_path))
    assert list(found.splits) == ["train", "val"]
    text = "\n".join(found.warnings)
    assert "test/ has no class folders" in text
    assert "beside the splits are ignored: misc" in text
    assert "val/ has no images of b" in text


def test_empty_val_counts_as_absent(tmp_path):
    write_tree(tmp_path, {"train/a": 2, "train/b": 2, "val/a": 0})
    found = list_folder(str(tmp_path))
    assert list(found.splits) == ["train"] and "val/ holds no images" in found.warnings[0]


def test_a_class_may_be_called_test(tmp_path):
    found = list_folder(str(write_tree(tmp_path, {"test": 2, "other": 2})))
    assert found.class_names == ("other", "test")


def test_classes_are_restricted_and_renumbered(tmp_path):
    found = list_folder(str(write_tree(tmp_path, {"a": 1, "b": 2, "c": 3})))
    kept = found.restrict(("c", "a"))
    assert kept.class_names == ("a", "c")
    assert kept.splits["train"].labels.tolist() == [0, 1, 1, 1]
    with pytest.raises(ConfigError, match=r"'cc' is not a class.*did you mean c"):
        found.restrict(("cc", "a"))
    with pytest.raises(DataError, match="only one class"):
        found.restrict(("a",))


def test_file_that_vanishes_is_named(tmp_path):
    train = list_folder(str(write_tree(tmp_path, FLAT))).splits["train"]
    shutil.rmtree(tmp_path / "dogs")
    with pytest.raises(DataError, match=r"dogs/000\.png: cannot be read"):
        train.read(3)
