"""What is wrong with single files: unreadable, misnamed, turned, transparent, ..."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from tlflax.data.audit.facts import Facts
from tlflax.data.audit.findings import Finding, counted

# Pillow's format -> suffixes that go with it.
_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
}
# 16-bit pixels divided by 257 that stay below this are of fewer bits (10 bits: 3, 12 bits: 15).
_DIM = 32


class _Rule(NamedTuple):
    severity: str
    kind: str
    applies: Callable[[Facts], bool]
    what: str  # reads on from '3 images'
    fix: str = ""


_RULES = (
    _Rule(
        "warning", "dim", lambda f: f.deep and 1 < f.high < _DIM,
        f"with 16 bits that use few of them: brought to 8 bits, no pixel is above {_DIM} of 255",
        "stretch them to the full range and save them with 8 bits",
    ),
    _Rule(
        "note", "rotated", lambda f: f.orientation in range(2, 9),
        "stored turned or mirrored, with an EXIF note that says so: tlflax turns them upright",
        "PIL alone, TensorFlow and Keras leave them as stored; to compare with those, save them "
        "upright",
    ),
    _Rule(
        "note", "transparent", lambda f: f.clear,
        "with transparent pixels: the colours stored beneath are what the network sees",
        "if these are wrong, save them over the background that you want",
    ),
    _Rule(
        "note", "palette", lambda f: f.mode in ("P", "PA"),
        "with a palette of at most 256 colours: brought to RGB",
    ),
    _Rule(
        "note", "cmyk", lambda f: f.mode == "CMYK",
        "in print colours (CMYK): brought to RGB without a colour profile, which shifts colours",
        "if colour matters, save them as RGB with a program that knows profiles",
    ),
    _Rule(
        "note", "deep", lambda f: f.deep,
        "with 16 bits a channel: brought to 8 (65535 becomes 255)",
    ),
    _Rule(
        "note", "animated", lambda f: f.moving, "with several frames: only the first is used",
        "if another shows what matters, save that one",
    ),
)  # fmt: skip


def about_files(facts: Sequence[Facts], image_size: int, catalogue: bool) -> list[Finding]:
    """What can be said of single files.

    Args:
        facts: of all images.
        image_size: side of the network's input in pixels.
        catalogue: whether the names are no file names (tfds).
    """
    bad = [f for f in facts if f.fault is not None]
    good = [f for f in facts if f.fault is None]
    found: list[Finding] = []
    if bad:
        found.append(
            Finding(
                "error", "unreadable", f"{counted(len(bad), 'image')} that cannot be decoded",
                "repair or delete them (a run can leave them out: --config.on_bad_image=skip)",
                [f"{f.file}: {f.fault}" for f in bad], len(bad),
            )
        )  # fmt: skip
    for rule in (*_black(good), *_RULES, _small(image_size)):
        chosen = [f.file for f in good if rule.applies(f)]
        if chosen:
            what = f"{counted(len(chosen), 'image')} {rule.what}"
            found.append(Finding(rule.severity, rule.kind, what, rule.fix, chosen, len(chosen)))
    wrong = [f for f in good if not catalogue and _misnamed(f)]
    if wrong:
        found.append(
            Finding(
                "note", "suffix",
                f"{counted(len(wrong), 'image')} in another format than the name says: tlflax goes "
                "by the content", "rename them for tools that go by the name",
                [f"{f.file} is {f.format}" for f in wrong], len(wrong),
            )
        )  # fmt: skip
    return found


def _black(good: Sequence[Facts]) -> list[_Rule]:
    """Black images are a mistake in saving if most are, and single ones are empty."""
    black = sum(f.high <= 1 for f in good)
    if 2 * black > len(good):
        return [
            _Rule(
                "error", "rescaled", lambda f: f.high <= 1,
                "without a pixel above 1 of 255: saved after a division by 255, probably",
                "save the pixels as they were, 0 to 255; tlflax scales them itself",
            )
        ]  # fmt: skip
    empty = "that show nothing: all pixels are the same"
    return [
        _Rule("warning", "blank", lambda f: f.low == f.high or f.high <= 1, empty, "delete them")
    ]


def _small(image_size: int) -> _Rule:
    return _Rule(
        "note", "small", lambda f: min(f.width, f.height) < image_size,
        f"with a side below {image_size} pixels, enlarged for a network of that size",
        "a smaller image_size is faster and may do as well",
    )  # fmt: skip


def _misnamed(f: Facts) -> bool:
    allowed = _SUFFIXES.get(f.format)
    return allowed is not None and not f.file.lower().endswith(allowed)
