"""The same picture twice: pixel for pixel, re-encoded, resized, mirrored; different ones never."""

import tracemalloc

import numpy as np
import pytest
from image_files import encoded
from PIL import Image, ImageEnhance
from test_audit_files import photo

from tlflax.data.audit import examine, twins
from tlflax.data.audit.facts import Facts, look

SPLITS = {"train": ("cat", "dog"), "test": ("cat", "dog")}


@pytest.fixture
def folder(tmp_path):
    seed = 0
    for split, names in SPLITS.items():
        for name in names:
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(5):
                seed += 1
                (tmp_path / split / name / f"{i}.png").write_bytes(encoded(photo(seed, 96, 120)))
    return tmp_path


def found(folder, **options):
    report = examine(str(folder), image_size=32, **options)
    return {f.kind: f for f in report.findings if f.kind not in ("tiny", "suffix")}


def copy(folder, source, target, change=lambda image: image, fmt="PNG", **options):
    image = change(Image.open(folder / source))
    (folder / target).write_bytes(encoded(image, fmt, **options))


def test_different_images_are_not_reported(folder):
    assert found(folder) == {}


def test_pixel_copies_across_splits(folder):
    # Another format and other bytes, the same pixels.
    copy(folder, "train/cat/1.png", "test/cat/x.bmp", fmt="BMP")
    seen = found(folder)
    assert list(seen) == ["leak"] and seen["leak"].severity == "error"
    assert seen["leak"].files == ["test/cat/x.bmp = train/cat/1.png"]
    assert "1 of 11 test images (9.1%) in train" in seen["leak"].message


def test_pixel_copies_with_two_labels(folder):
    copy(folder, "train/cat/1.png", "train/dog/x.webp", fmt="WEBP", lossless=True)
    seen = found(folder)
    assert list(seen) == ["contradiction"] and seen["contradiction"].severity == "error"
    (pair,) = seen["contradiction"].files
    assert set(pair.split(" = ")) == {"train/cat/1.png", "train/dog/x.webp"}


def test_both_at_once_is_told_twice(folder):
    copy(folder, "train/cat/1.png", "test/dog/x.png")
    assert set(found(folder)) == {"leak", "contradiction"}


def test_copies_within_a_class_are_a_note(folder):
    copy(folder, "train/cat/1.png", "train/cat/x.png")
    copy(folder, "train/cat/1.png", "train/cat/y.png")
    seen = found(folder)
    assert list(seen) == ["copies"] and seen["copies"].severity == "note"
    assert "2 files too many" in seen["copies"].message


CHANGES = {
    "jpeg 90": ({"fmt": "JPEG", "quality": 90}, ""),
    "jpeg 60": ({"fmt": "JPEG", "quality": 60}, ""),
    "webp": ({"fmt": "WEBP", "quality": 50}, ""),
    "half": ({"change": lambda i: i.resize((60, 48), Image.Resampling.BICUBIC)}, ""),
    "double": ({"change": lambda i: i.resize((240, 192)), "fmt": "JPEG"}, ""),
    "square": ({"change": lambda i: i.resize((96, 96)), "fmt": "JPEG"}, ""),
    "bright": ({"change": lambda i: ImageEnhance.Brightness(i).enhance(1.1)}, ""),
    "grey": ({"change": lambda i: i.convert("L")}, ""),
    "mirrored": ({"change": lambda i: i.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "fmt": "JPEG"},
                 " (mirrored)"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_copies_with_other_pixels(folder, change):
    options, mark = CHANGES[change]
    copy(folder, "train/cat/1.png", "test/cat/x.png", **options)
    seen = found(folder)
    assert list(seen) == ["leak_alike"] and seen["leak_alike"].severity == "error"
    assert seen["leak_alike"].files == [f"test/cat/x.png = train/cat/1.png{mark}"]
    assert "1 of 11 test images (9.1%) in train" in seen["leak_alike"].message
    assert found(folder, look_alikes=False) == {}


def test_look_alikes_inside_a_split(folder):
    copy(folder, "train/cat/1.png", "train/cat/x.jpg", fmt="JPEG")
    copy(folder, "train/cat/2.png", "train/dog/x.jpg", fmt="JPEG")
    seen = found(folder)
    assert {k: f.severity for k, f in seen.items()} == {"alike": "note", "alike_labels": "warning"}


def test_without_splits_a_cut_may_part_look_alikes(folder):
    copy(folder, "train/cat/1.png", "train/cat/x.jpg", fmt="JPEG")
    seen = found(folder / "train")
    assert list(seen) == ["alike"] and seen["alike"].severity == "warning"
    assert "a cut into splits may part them" in seen["alike"].message


def thumbs(images):
    facts = [Facts(str(i), "train", 0) for i in range(len(images))]
    rows = [look(encoded(image), f) for image, f in zip(images, facts, strict=True)]
    return np.stack(rows), facts


def test_the_hash_of_a_mirror_image_is_known_without_computing_it():
    images = [photo(s, 70, 50) for s in range(20)]
    plain, _ = thumbs(images)
    turned = twins.hashes(np.ascontiguousarray(plain[:, :, ::-1]))
    assert (turned == twins.hashes(plain) ^ twins._mirror_mask()).mean() > 0.9
    assert np.bitwise_count(turned ^ twins.hashes(plain) ^ twins._mirror_mask()).max() <= 2


def test_chunks_find_what_all_at_once_finds(monkeypatch):
    codes = np.random.default_rng(0).integers(0, 2**63, 300).astype(np.uint64)
    codes[250] = codes[3] ^ np.uint64(5)
    codes[299] = codes[298]
    distance = np.bitwise_count(codes[:, None] ^ codes[None])
    wanted = set(zip(*np.nonzero(np.triu(distance <= twins._BITS, 1)), strict=True))
    for elements in (1, 1000, 10**6):
        monkeypatch.setattr(twins, "_ELEMENTS", elements)
        pairs = {(i, j) for a, b in twins._near(codes, codes) for i, j in zip(a, b, strict=True)}
        assert pairs == wanted >= {(3, 250), (298, 299)}


def test_a_symmetric_picture_is_one_pair():
    half = photo(1, 64, 32)
    image = np.concatenate([half, half[:, ::-1]], axis=1)
    plain, facts = thumbs([image, np.roll(image, 0) ^ 1])
    pairs, complete = twins.look_alikes(plain, [f.digest for f in facts])
    assert pairs == [(0, 1, False)] and complete


def test_endless_look_alikes_end(monkeypatch):
    monkeypatch.setattr(twins, "MOST_PAIRS", 10)
    image = photo(1)
    plain, facts = thumbs([image ^ np.uint8(i % 4) for i in range(4)] * 3)
    pairs, complete = twins.look_alikes(plain, [bytes([i]) for i in range(len(facts))])
    assert len(pairs) == 10 and not complete


def test_flat_and_tiny_images_are_not_compared():
    images = [photo(1, 31, 90), np.full((64, 64, 3), 80, np.uint8), photo(2), photo(2) // 40 + 90]
    plain, facts = thumbs(images)
    assert twins.comparable(facts, plain).tolist() == [2]
    facts[2].fault = "truncated"
    assert twins.comparable(facts, plain).tolist() == []


def test_contrast_is_computed_in_little_memory():
    count = 20_000
    plain = np.zeros((count, 32, 32), np.uint8)
    plain[7] = plain[-1] = np.arange(32)
    facts = [Facts("x", "train", 0, width=64, height=64)] * count
    tracemalloc.start()
    try:
        assert twins.comparable(facts, plain).tolist() == [7, count - 1]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # All at once it was 8 bytes a pixel, 164 MB, and more.
    assert peak < 20e6


def test_the_same_outline_with_other_detail_is_another_picture():
    """Leaves on a table: alike when blurred, different when looked at."""
    y, x = np.mgrid[:64, :64] / 64
    outline = 100 * (np.sin(5 * x + 2 * y) + np.cos(7 * y - x))[..., None].repeat(3, axis=2)
    rng = np.random.default_rng(0)
    leaves = [outline / 2 + rng.normal(110, 18, outline.shape) for _ in range(2)]
    plain, facts = thumbs([leaf.clip(0, 255).astype(np.uint8) for leaf in leaves])
    digests = [f.digest for f in facts]
    assert twins.look_alikes(plain, digests) == ([], True)
    coarse = twins._coarse(plain)
    assert 1 - (coarse[0] * coarse[1]).sum() <= twins._COARSE
    assert np.bitwise_count(np.bitwise_xor(*twins.hashes(plain))) <= twins._BITS
