"""What is wrong with single files: unreadable, misnamed, turned, transparent, ..."""

from collections.abc import Sequence

from tlflax.data.audit.facts import Facts
from tlflax.data.audit.findings import Finding

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


def about_files(facts: Sequence[Facts], image_size: int, catalogue: bool) -> list[Finding]:
    """What can be said of single files.

    Args:
        facts: of all images.
        image_size: side of the network's input in pixels.
        catalogue: whether the names are no file names (tfds).
    """
    good = [f for f in facts if f.fault is None]
    found: list[Finding] = []

    def tell(severity: str, kind: str, chosen: Sequence[Facts], what: str, fix: str) -> None:
        if chosen:
            names = [f.file for f in chosen]
            found.append(Finding(severity, kind, f"{_n(chosen)} {what}", fix, names, len(chosen)))

    bad = [f for f in facts if f.fault is not None]
    if bad:
        found.append(
            Finding(
                "error", "unreadable", f"{_n(bad)} cannot be decoded",
                "repair or delete them (a run can leave them out: --config.on_bad_image=skip)",
                [f"{f.file}: {f.fault}" for f in bad], len(bad),
            )
        )  # fmt: skip
    black = [f for f in good if f.high <= 1]
    if 2 * len(black) > len(good):
        tell(
            "error", "rescaled", black, "have no pixel above 1 of 255: saved after a division by "
            "255, probably", "save the pixels as they were, 0 to 255; tlflax scales them itself",
        )  # fmt: skip
    blank = [f for f in good if f.low == f.high or (f.high <= 1 and 2 * len(black) <= len(good))]
    if not any(f.kind == "rescaled" for f in found):
        tell("warning", "blank", blank, "show nothing: all pixels are the same", "delete them")
    dim = [f for f in good if f.deep and 1 < f.high < _DIM]
    tell(
        "warning", "dim", dim, f"have 16 bits and use few of them: brought to 8 bits, no pixel is "
        f"above {_DIM} of 255", "stretch them to the full range and save them with 8 bits",
    )  # fmt: skip
    if not catalogue:
        wrong = [f for f in good if _wrong_suffix(f)]
        tell(
            "note", "suffix", wrong, "are in another format than their names say"
            + (f" (e.g. {wrong[0].file} is {wrong[0].format})" if wrong else ""),
            "nothing here, where the content decides; rename them for tools that go by the name",
        )  # fmt: skip
    tell(
        "note", "rotated", [f for f in good if f.orientation in range(2, 9)],
        "are stored turned or mirrored, with an EXIF note that says so",
        "nothing here: they are turned upright; PIL alone, TensorFlow and Keras leave them as "
        "stored, so do not compare with those before you have re-saved them upright",
    )  # fmt: skip
    tell(
        "note", "transparent", [f for f in good if f.clear],
        "have transparent pixels: the colours stored beneath are what the network sees",
        "if these are wrong, save them over the background that you want",
    )  # fmt: skip
    tell(
        "note", "palette", [f for f in good if f.mode in ("P", "PA")],
        "have a palette of at most 256 colours", "nothing: they are brought to RGB",
    )  # fmt: skip
    tell(
        "note", "cmyk", [f for f in good if f.mode == "CMYK"],
        "are in print colours (CMYK): brought to RGB without a colour profile, which "
        "shifts colours",
        "save them as RGB with a program that knows profiles if colour matters",
    )  # fmt: skip
    tell(
        "note", "deep", [f for f in good if f.deep], "have 16 bits a channel",
        "nothing: they are brought to 8 (65535 becomes 255)",
    )  # fmt: skip
    tell(
        "note", "animated", [f for f in good if f.moving], "have several frames",
        "nothing if the first is what you want: only that is used",
    )  # fmt: skip
    small = [f for f in good if min(f.width, f.height) < image_size]
    tell(
        "note", "small", small, f"have a side below {image_size} pixels and are enlarged for a "
        f"network of that size", "a smaller image_size is faster and may do as well",
    )  # fmt: skip
    return found


def _n(chosen: Sequence[Facts]) -> str:
    return f"{len(chosen)} image{'s' * (len(chosen) != 1)}"


def _wrong_suffix(f: Facts) -> bool:
    allowed = _SUFFIXES.get(f.format)
    return allowed is not None and not f.file.lower().endswith(allowed)
