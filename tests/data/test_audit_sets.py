"""Classes, splits and sizes."""

import json
import shutil

import pytest
from image_files import encoded, write_tree
from test_audit_files import photo

from tlflax.data.audit import examine
from tlflax.errors import ConfigError, DataError


def write(root, counts, seed=0):
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True)
        for i in range(count):
            seed += 1
            (root / folder / f"{i}.png").write_bytes(encoded(photo(seed, 40, 40)))
    return root


def kinds(folder, **options):
    report = examine(str(folder), image_size=32, **options)
    return {f.kind: f for f in report.findings}


def test_imbalance_names_both_ends(tmp_path):
    seen = kinds(write(tmp_path, {"train/a": 12, "train/b": 2, "train/c": 4}))
    assert seen["imbalance"].severity == "warning"
    assert "6.0 times as many images of a as of b" in seen["imbalance"].message
    assert "class_weights='balanced'" in seen["imbalance"].fix
    assert "tiny" not in seen  # no split of its own to measure with: it is still to be cut.


def test_five_to_one_is_no_imbalance(tmp_path):
    assert kinds(write(tmp_path, {"a": 10, "b": 2})) == {}


def test_missing_classes(tmp_path):
    seen = kinds(write(tmp_path, {"train/a": 2, "train/b": 2, "test/a": 2}))
    assert seen["missing"].files == ["b"] and "test has no images of 1 classes" in seen[
        "missing"
    ].message  # fmt: skip


def test_tiny_split_says_how_wide_the_interval_is(tmp_path):
    seen = kinds(write(tmp_path, {"train/a": 2, "train/b": 2, "test/a": 10, "test/b": 8}))
    # 16 of 18 right: Wilson 67-97 %.
    assert "test has 18 images" in seen["tiny"].message and "67% to 97%" in seen["tiny"].message
    assert "take 93 or more" in seen["tiny"].fix


def test_ninety_three_images_are_enough(tmp_path):
    root = write_tree(tmp_path, {"train/a": 2, "train/b": 2, "test/a": 47, "test/b": 46})
    assert "tiny" not in kinds(root)
    (root / "test/a/000.png").unlink()
    assert "tiny" in kinds(root)


def test_split_chooses(tmp_path):
    root = write(tmp_path, {"train/a": 2, "train/b": 2, "test/a": 1, "test/b": 1})
    shutil.copy(root / "train/a/0.png", root / "test/a/x.png")
    assert "leak" in kinds(root)
    seen = examine(str(root), splits=("test",))
    assert seen.images == 3 and "leak" not in {f.kind for f in seen.findings}
    with pytest.raises(ConfigError, match=r"no such split.*train, test.*did you mean test"):
        examine(str(root), splits=("tests",))


def test_stray_images_and_folders_are_warnings_of_the_layout(tmp_path):
    root = write(tmp_path, {"train/a": 2, "train/b": 2, "extra/a": 1})
    (root / "loose.png").write_bytes(encoded(photo(1)))
    report = examine(str(root), image_size=32)
    lines = [f.message for f in report.findings if f.kind == "layout"]
    assert len(lines) == 2 and any("extra" in line for line in lines)


def test_sources(tmp_path):
    root = write(tmp_path / "d", {"a": 2, "b": 3})
    assert examine(f"folder:{root}").source == examine(str(root)).source == f"folder:{root}"
    with pytest.raises(ConfigError, match="did you mean folder"):
        examine("folders:x")
    with pytest.raises(DataError, match="does not exist"):
        examine(f"folder:{root}x")


def test_catalogue_ids_have_no_suffix(tmp_path):
    report = examine("digits", image_size=8)
    assert report.images == 1797 and not report.failed
    # 8x8 pixels are too few to be compared, and no digit occurs twice.
    assert [f.kind for f in report.findings] == ["not_compared"]
    assert sum(report.counts["test"].values()) == 900


def test_plain_is_json(tmp_path):
    root = write(tmp_path, {"train/a": 2, "train/b": 2, "test/a": 1, "test/b": 1})
    plain = json.loads(json.dumps(examine(str(root)).plain()))
    assert plain["counts"]["test"] == {"a": 1, "b": 1} and plain["must_change"] is False
    assert plain["sizes"]["width"] == [40, 40, 40] and plain["images"] == 6
    low, high = plain["interval_at_90"]["test"]
    assert 0 < low < high <= 1
