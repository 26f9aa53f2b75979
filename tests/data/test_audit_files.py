"""Every oddity of a single file is told, and clean files are told nothing about."""

import io
import struct

import numpy as np
import pytest
from image_files import encoded, pixels
from PIL import Image

from tlflax.data.audit import examine
from tlflax.data.audit.facts import Facts, look


def photo(seed, height=64, width=64):
    """Noise over smooth blobs, so that no two look alike."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(50, 30, (height, width, 3))
    return np.clip(pixels(seed, height, width) * 0.6 + noise, 2, 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Two classes of four clean PNGs in each of two splits."""
    seed = 0
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(4):
                seed += 1
                (tmp_path / split / name / f"{i}.png").write_bytes(encoded(photo(seed)))
    return tmp_path


def found(folder, **options):
    report = examine(str(folder), image_size=32, **options)
    # Every set here is small: that is told of in test_audit_sets.
    return {f.kind: f for f in report.findings if f.kind != "tiny"}


def test_clean(folder):
    report = examine(f"folder:{folder}", image_size=32)
    assert [f.kind for f in report.findings] == ["tiny"] and not report.failed
    assert report.images == 16 and report.counts["test"] == {"cat": 4, "dog": 4}
    assert report.sizes == {"width": [64, 64, 64], "height": [64, 64, 64]}


def rotated():
    image = Image.fromarray(photo(90, 48, 64))
    exif = image.getexif()
    exif[0x0112] = 6
    return encoded(image, "JPEG", exif=exif)


def animated(fmt):
    frames = [Image.fromarray(photo(91 + i)) for i in range(3)]
    return encoded(frames[0], fmt, save_all=True, append_images=frames[1:], duration=50)


def with_hole(fmt="PNG"):
    rgba = np.dstack([photo(95), np.full((64, 64), 255, np.uint8)])
    rgba[:9, :9, 3] = 0
    return encoded(Image.fromarray(rgba, "RGBA"), fmt)


def deep(top):
    values = np.random.default_rng(0).integers(0, top, (64, 64)).astype(np.uint16)
    return encoded(Image.fromarray(values))


def deep_colour():
    """16-bit RGB, which Pillow can read and not write: the PNG by hand."""
    import zlib

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    values = np.random.default_rng(0).integers(0, 65536, (64, 64 * 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    header = struct.pack(">IIBBBBB", 64, 64, 16, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def palette(transparent=False):
    image = Image.fromarray(photo(97)).quantize(64)
    return encoded(image, "PNG", **({"transparency": 3} if transparent else {}))


CASES = {
    "truncated": ("x.jpg", encoded(photo(98), "JPEG")[:900], {"unreadable": "error"}),
    "empty": ("x.png", b"", {"unreadable": "error"}),
    "no image": ("x.jpg", b"<html>not found</html>", {"unreadable": "error"}),
    "suffix": ("x.jpg", encoded(photo(99)), {"suffix": "note"}),
    "jpeg": ("x.JPEG", encoded(photo(99), "JPEG"), {}),
    "webp": ("x.webp", encoded(photo(99), "WEBP", lossless=True), {}),
    "rotated": ("x.jpg", rotated(), {"rotated": "note"}),
    "gif": ("x.gif", animated("GIF"), {"animated": "note", "palette": "note"}),
    "moving webp": ("x.webp", animated("WEBP"), {"animated": "note"}),
    "still gif": ("x.gif", encoded(photo(91), "GIF"), {"palette": "note"}),
    "hole": ("x.png", with_hole(), {"transparent": "note"}),
    "opaque alpha": ("x.png", encoded(Image.fromarray(photo(95)).convert("RGBA")), {}),
    "palette": ("x.png", palette(), {"palette": "note"}),
    "palette hole": ("x.png", palette(True), {"palette": "note", "transparent": "note"}),
    "cmyk": ("x.jpg", encoded(Image.fromarray(photo(96)).convert("CMYK"), "JPEG"),
             {"cmyk": "note"}),
    "16 bit": ("x.png", deep(65536), {"deep": "note"}),
    "16 bit colour": ("x.png", deep_colour(), {"deep": "note"}),
    "12 of 16 bit": ("x.png", deep(4096),
                     {"deep": "note", "dim": "warning", "not_compared": "note"}),
    "blank": ("x.png", encoded(np.full((64, 64, 3), 9, np.uint8)),
              {"blank": "warning", "not_compared": "note"}),
    "small": ("x.png", encoded(photo(94, 64, 31)), {"small": "note", "not_compared": "note"}),
    "other": ("x.txt", b"labels", {"other": "note"}),
    "odd suffix": ("x.jpg_large", encoded(photo(93), "JPEG"), {"unused": "warning"}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_one_odd_file_among_clean_ones(folder, case):
    name, data, expected = CASES[case]
    (folder / "train/cat" / name).write_bytes(data)
    seen = found(folder)
    assert {kind: f.severity for kind, f in seen.items()} == expected
    for kind in expected.keys() - {"not_compared"}:
        (line,) = seen[kind].files
        assert line.startswith(f"train/cat/{name}") and seen[kind].message.startswith("1 ")


def test_the_reason_and_the_content_are_named(folder):
    for case in ("truncated", "suffix", "odd suffix"):
        name, data, _ = CASES[case]
        (folder / "train/cat" / f"{case[:3]}{name}").write_bytes(data)
    seen = found(folder)
    assert "truncated or damaged" in seen["unreadable"].files[0]
    assert seen["suffix"].files == ["train/cat/sufx.jpg is PNG"]
    assert seen["unused"].files == ["train/cat/oddx.jpg_large is JPEG"]
    assert "on_bad_image=skip" in seen["unreadable"].fix


def test_images_saved_after_a_division(folder):
    for path in folder.glob("*/*/*.png"):
        image = np.asarray(Image.open(path))
        path.write_bytes(encoded((image / 255).round().astype(np.uint8)))
    seen = found(folder)
    assert seen["rescaled"].severity == "error" and seen["rescaled"].count == 16
    assert "blank" not in seen


def test_facts_are_those_of_the_upright_image():
    facts = Facts("x", "train", 0)
    thumb = look(rotated(), facts)
    assert (facts.width, facts.height, facts.orientation) == (48, 64, 6)
    assert thumb is not None and thumb.shape == (32, 32) and thumb.std() > 3
    assert facts.low < facts.high and len(facts.digest) == 16
    empty = Facts("x", "train", 0)
    assert look(b"", empty) is None and empty.fault == "empty file"


def test_a_phone_photo_with_a_preview_is_no_animation():
    images = [Image.fromarray(photo(s)) for s in (1, 2)]
    buffer = io.BytesIO()
    images[0].save(buffer, "MPO", save_all=True, append_images=images[1:])
    facts = Facts("x.jpg", "train", 0)
    look(buffer.getvalue(), facts)
    assert facts.format == "JPEG" and not facts.moving


def test_an_animation_may_be_cut_off_anywhere():
    frames = [Image.fromarray(photo(s, 8, 8)).quantize(4) for s in (1, 2)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=50)
    seen = set()
    for end in range(len(data) + 1):
        facts = Facts("x.gif", "train", 0)
        thumb = look(data[:end], facts)
        assert (thumb is None) == (facts.fault is not None)
        seen.add((facts.fault is None, facts.moving))
    # Nothing can be seen; the first frame alone; more than one was begun.
    assert seen == {(False, False), (True, False), (True, True)}
