import json

import numpy as np
import pytest
from image_files import png, write_tree

from tlflax.data.source import load_dataset
from tlflax.errors import ConfigError, DataError


@pytest.fixture
def load(tmp_path):
    def call(source=None, **options):
        return load_dataset(source or f"folder:{tmp_path}/d", cache_dir=tmp_path / "c", **options)

    return call


def files(split):
    return set(split.files)


def test_flat_folder_is_cut_into_three(tmp_path, load):
    write_tree(tmp_path / "d", {"a": 50, "b": 20})
    data = load()
    assert [len(data.train), len(data.val), len(data.test)] == [42, 14, 14]
    assert np.bincount(data.test.labels).tolist() == [10, 4]
    assert (data.train.name, data.val.name, data.test.name) == ("train", "val", "test")
    assert not files(data.train) & files(data.val) and not files(data.val) & files(data.test)
    assert len(files(data.train) | files(data.val) | files(data.test)) == 70
    assert any("only 14 images" in w for w in data.warnings)


def test_seed_moves_val_but_never_test(tmp_path, load):
    write_tree(tmp_path / "d", {"a": 30, "b": 30})
    one, two = load(seed=1), load(seed=2)
    assert one.test.files == two.test.files
    assert one.val.files != two.val.files
    assert load(seed=1).val.files == one.val.files
    # Neither the size of val nor the training subset touches the test images.
    assert load(splits={"val": 0.5}, per_class=2).test.files == one.test.files


def test_renaming_moves_nothing(tmp_path, load):
    write_tree(tmp_path / "d", {"a": 20, "b": 20})
    before = load(per_class=5)
    names = [f"{i:03d}" for i in np.random.default_rng(0).permutation(20)]
    for i, path in enumerate(sorted((tmp_path / "d" / "a").iterdir())):
        path.rename(path.with_name(f"x{names[i]}.png"))
    after = load(per_class=5)
    for split in ("train", "val", "test"):
        assert set(getattr(before, split).hashes) == set(getattr(after, split).hashes)
    assert before.fingerprint == after.fingerprint
    whole = load().fingerprint
    (tmp_path / "d" / "a" / "extra.png").write_bytes(png(1234))
    assert load().fingerprint != whole


def test_copies_never_straddle_a_cut(tmp_path, load):
    write_tree(tmp_path / "d", {"a": 20, "b": 20})
    for i in range(20):
        (tmp_path / "d" / "a" / f"copy{i}.png").write_bytes(
            (tmp_path / "d" / "a" / f"{i:03d}.png").read_bytes()
        )
    for seed in range(5):
        data = load(seed=seed)
        parts = [set(s.hashes) for s in (data.train, data.val, data.test)]
        assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
        assert len(data.train) + len(data.val) + len(data.test) == 60


def test_given_splits_stay_and_copies_between_them_are_reported(tmp_path, load):
    write_tree(tmp_path / "d", {"train/a": 9, "train/b": 9, "test/a": 6, "test/b": 6}, seed=0)
    (tmp_path / "d/test/a/000.png").write_bytes((tmp_path / "d/train/a/004.png").read_bytes())
    data = load()
    assert len(data.test) == 12 and len(data.val) == 4 and len(data.train) == 14
    assert any("1 test images" in w and "test/a/000.png" in w for w in data.warnings)
    assert data.summary()["splits"].endswith("test: given")


def test_one_image_under_two_labels_is_reported(tmp_path, load):
    write_tree(tmp_path / "d", {"a": 9, "b": 9})
    (tmp_path / "d/b/000.png").write_bytes((tmp_path / "d/a/004.png").read_bytes())
    data = load()
    assert any("more than one label" in w for w in data.warnings)
    assert {"b/000.png", "a/004.png"} <= files(data.train)


def test_per_class_cuts_training_only(tmp_path, load):
    write_tree(tmp_path / "d", {"a": 40, "b": 10})
    full, few = load(), load(per_class=7)
    assert np.bincount(few.train.labels).tolist() == [7, 6]
    assert few.val.files == full.val.files and few.test.files == full.test.files
    assert files(few.train) < files(full.train)
    assert any("per_class=7: fewer training images in b (6)" in w for w in few.warnings)
    assert set(load(per_class=3).train.files) < files(few.train)


def test_counts_instead_of_fractions(tmp_path, load):
    write_tree(tmp_path / "d", {"a": 30, "b": 10})
    data = load(splits={"val": 4, "test": 8})
    assert np.bincount(data.test.labels).tolist() == [6, 2]
    assert len(data.val) == 4 and len(data.train) == 28


def test_tiny_classes(tmp_path, load):
    write_tree(tmp_path / "d", {"a": 3, "b": 1, "c": 2})
    data = load()
    assert np.bincount(data.train.labels).tolist() == [1, 1, 1]
    assert np.bincount(data.test.labels, minlength=3).tolist() == [1, 0, 1]
    assert any("test has no images of b" in w for w in data.warnings)


def test_skipped_images_are_in_the_summary(tmp_path, load):
    write_tree(tmp_path / "d", {"a": 10, "b": 10})
    (tmp_path / "d/a/003.png").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"a/003\.png"):
        load()
    data = load(on_bad_image="skip")
    summary = json.loads(json.dumps(data.summary()))
    assert summary["skipped"] == data.skipped and data.skipped[0]["file"] == "a/003.png"
    assert sum(sum(c.values()) for c in summary["counts"].values()) == 19
    assert summary["counts"]["train"].keys() == {"a", "b"}
    assert any("left out" in w for w in data.warnings)
    assert summary["fingerprint"] == data.fingerprint and "val: 0.2 cut" in summary["splits"]


def test_bad_images_of_other_classes_do_not_matter(tmp_path, load):
    write_tree(tmp_path / "d", {"a": 5, "b": 5, "c": 5})
    (tmp_path / "d/c/003.png").write_bytes(b"junk")
    assert load(classes=("a", "b")).class_names == ("a", "b")


def test_class_whose_images_are_all_bad(tmp_path, load):
    write_tree(tmp_path / "d", {"a": 5, "b": 1})
    (tmp_path / "d/b/000.png").write_bytes(b"junk")
    with pytest.raises(DataError, match="no usable training images of class b"):
        load(on_bad_image="skip")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("folders:x", "did you mean folder"),
        ("digit", "did you mean digits"),
        ("digits:8", "not one of"),
        ("folder:", "not one of"),
        ("", "not one of"),
        ("/some/path", "not one of"),
    ],
)
def test_unknown_source(load, source, message):
    with pytest.raises(ConfigError, match=message):
        load(source or ":")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"splits": {"validation": 0.2}}, "did you mean val"),
        ({"splits": {"val": 1.5}}, "val=1.5"),
        ({"splits": {"val": 0.6, "test": 0.4}}, "nothing to train on"),
        ({"per_class": -1}, "per_class"),
        ({"per_class": 2.5}, "per_class"),
        ({"classes": "a"}, "tuple"),
        ({"classes": ("a", "x")}, "'x' is not a class"),
        ({"on_bad_image": "ignore"}, "on_bad_image"),
    ],
)
def test_bad_options(tmp_path, load, options, message):
    write_tree(tmp_path / "d", {"a": 10, "b": 10})
    with pytest.raises(ConfigError, match=message):
        load(**options)
