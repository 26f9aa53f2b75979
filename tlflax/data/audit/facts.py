"""What one image is: format, size, oddities, a digest of its pixels, a thumbnail."""

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from tlflax.data.decode import ORIENTATION, decode
from tlflax.data.listing import Split
from tlflax.errors import DataError

# Side of the thumbnails that pictures are compared by.
THUMB = 32
# Images in work at a time; with their pixels this bounds the memory.
_BLOCK = 512


@dataclass(slots=True)
class Facts:
    """One image file.

    Attributes:
        file: name shown to users.
        split: 'train', 'val' or 'test'.
        label: position in the class names.
        fault: why it cannot be decoded, or None. All fields below are empty then.
        format: Pillow's name of the content: 'JPEG', 'PNG', ...
        mode: Pillow's pixel kind: 'RGB', 'P', 'CMYK', ...
        width: in pixels, upright.
        height: in pixels, upright.
        orientation: EXIF value 1..8; above 1 the stored pixels lie on their side or are mirrored.
        clear: whether some pixels are transparent.
        deep: whether a channel has 16 bits.
        moving: whether there is more than one frame.
        low: smallest value of the decoded RGB pixels.
        high: largest.
        digest: of the decoded pixels and their shape.
    """

    file: str
    split: str
    label: int
    fault: str | None = None
    format: str = ""
    mode: str = ""
    width: int = 0
    height: int = 0
    orientation: int = 1
    clear: bool = False
    deep: bool = False
    moving: bool = False
    low: int = 0
    high: int = 0
    digest: bytes = b""


def look(data: bytes, facts: Facts) -> np.ndarray | None:
    """Decodes one image and fills in its facts.

    Args:
        data: the encoded file.
        facts: with file, split and label.

    Returns:
        Its thumbnail, uint8 [THUMB, THUMB], or None if it cannot be decoded.
    """
    try:
        pixels = decode(data, facts.file)
    except DataError as error:
        facts.fault = str(error).removeprefix(f"{facts.file}: ")
        return None
    # A second time for the header alone: what was in the file before it became RGB.
    with Image.open(io.BytesIO(data)) as image:
        facts.format = "JPEG" if image.format == "MPO" else image.format or ""
        facts.mode = image.mode
        facts.orientation = image.getexif().get(ORIENTATION, 1)
        facts.deep = _deep(data, image)
        if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
            low, _ = image.convert("RGBA").getchannel("A").getextrema()
            facts.clear = low < 255  # pyright: ignore[reportOperatorIssue]
        # Last: where it fails the image is in no order any more.
        facts.moving = _moving(image)
    facts.height, facts.width = pixels.shape[:2]
    facts.low, facts.high = int(pixels.min()), int(pixels.max())
    h = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    h.update(np.ascontiguousarray(pixels).data)
    facts.digest = h.digest()
    return _thumb(pixels)


def scan(
    splits: Sequence[Split], thumbs: np.ndarray, threads: int | None = None
) -> Iterator[Facts]:
    """Yields the facts of every image, in order, decoding in threads.

    Args:
        splits: to be looked at.
        thumbs: uint8 [all images, THUMB, THUMB], written to row by row.
        threads: None for a few more than cores, which hides the reading.
    """
    items = [(split, i) for split in splits for i in range(len(split))]

    def one(row: int) -> Facts:
        split, i = items[row]
        facts = Facts(split.files[i], split.name, int(split.labels[i]))
        try:
            data = split.read(i)
        except DataError as error:
            facts.fault = str(error).removeprefix(f"{facts.file}: ")
            return facts
        thumb = look(data, facts)
        if thumb is not None:
            thumbs[row] = thumb
        return facts

    with ThreadPoolExecutor(threads or min(32, (os.cpu_count() or 1) + 2)) as pool:
        for start in range(0, len(items), _BLOCK):
            yield from pool.map(one, range(start, min(start + _BLOCK, len(items))))


def _thumb(pixels: np.ndarray) -> np.ndarray:
    """Grey thumbnail: averaged where it shrinks, interpolated where it grows."""
    height, width = pixels.shape[:2]
    if min(height, width) < THUMB:
        larger = (max(width, THUMB), max(height, THUMB))
        pixels = cv2.resize(pixels, larger, interpolation=cv2.INTER_LINEAR)
    small = cv2.resize(pixels, (THUMB, THUMB), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)


def _moving(image: Image.Image) -> bool:
    # A phone's MPO is one photo with a preview or a depth map behind it.
    if image.format == "MPO":
        return False
    try:
        return getattr(image, "is_animated", False)
    except Exception:  # Pillow's plugins raise nearly anything on damaged bytes.
        # Cut off behind the first frame, which has been decoded, inside the header of the next.
        return True


def _deep(data: bytes, image: Image.Image) -> bool:
    """Whether it has 16 bits; Pillow hides that for colour PNG, which it brings to 8 itself."""
    if image.format == "PNG":
        return data[24] == 16  # bit depth in the IHDR chunk (PNG specification, 11.2.2).
    return image.mode.startswith("I;16")
