"""The same picture twice: by its pixels, or re-encoded, resized or mirrored.

Copies with other pixels are found in two steps. Each thumbnail gets a 64-bit hash: the signs of
its lowest DCT coefficients (a perceptual hash after Zauner, "Implementation and benchmarking of
perceptual image hash functions", 2010, with 0 for the median: that makes the hash of the mirror
image the hash with every bit of an odd column turned over). All pairs whose hashes differ in few
bits are then compared as pictures: coarsely, by the correlation of the 16x16 thumbnails, and in
detail, by that of the 32x32 thumbnails without what a blurred version of them says as well.

All pairs of hashes are compared, vectorised, so that no pair is missed: n^2 / 2 of them at 1.4 ns.
For 50,000 images, and as many mirror images, that is 3.5 s of one core.

The limits were set on 7,430 photos of five kinds (pets, food, flowers, leaves, CIFAR-10). Copies
of the 3,900 that are 128 to 256 pixels wide (JPEG quality 90 to 10, WebP, half, double and squashed
size, brightness 1.2, contrast 0.8, grey) differ in at most 7 bits, coarse distance 0.019 and detail
0.063; of CIFAR's 32 pixels at JPEG quality 50: 6 bits, 0.016, 0.093. Three pairs that are the same
photo indeed have 0, 4 and 5 bits, 0.001, 0.012 and 0.024, and 0.004, 0.07 and 0.15; the nearest
two different photos (two leaves) 6 bits, 0.027, and 0.21. A crop of a few percent is not found.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from tlflax.data.audit.facts import THUMB, Facts

# See above. Bits of 64, and 1 - correlation.
_BITS, _COARSE, _DETAIL = 10, 0.025, 0.17
# Smaller images have no detail to compare: of scikit-learn's digits (8x8), 65 different pairs
# would count as copies.
SMALLEST = 32
# Grey levels of a thumbnail: below it is noise that would be compared.
_FLAT = 3.0
# Hashes compared at a time (8 bytes each: they should stay in the processor's cache), and pairs of
# thumbnails.
_ELEMENTS, _PAIRS = 2**18, 16_384
# Thumbnails whose contrast is computed at a time.
_BLOCK = 512
# More pairs than that are no list any more; the search ends there.
MOST_PAIRS = 200_000
_BLUR = 2.0


class Pair(NamedTuple):
    """Two images, by position, that show the same."""

    first: int
    second: int
    mirrored: bool


def identical(facts: Sequence[Facts]) -> list[list[int]]:
    """Returns groups of positions of images with the same pixels."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for i, f in enumerate(facts):
        if f.fault is None:
            groups[f.digest].append(i)
    return [group for group in groups.values() if len(group) > 1]


def comparable(facts: Sequence[Facts], thumbs: np.ndarray) -> np.ndarray:
    """Returns the positions of images that are large enough and not flat, int [M]."""
    usable = [f.fault is None and min(f.width, f.height) >= SMALLEST for f in facts]
    flat = np.zeros(len(thumbs), bool)
    # Not all at once: numpy computes it in 8 bytes a pixel.
    for start in range(0, len(thumbs), _BLOCK):
        block = thumbs[start : start + _BLOCK]
        flat[start : start + _BLOCK] = block.reshape(len(block), -1).std(axis=1) < _FLAT
    return np.flatnonzero(np.asarray(usable, bool) & ~flat)


def hashes(thumbs: np.ndarray) -> np.ndarray:
    """Returns a 64-bit perceptual hash of each thumbnail, uint64 [N]."""
    signs = np.zeros((len(thumbs), 64), bool)
    for i, thumb in enumerate(thumbs):
        # Without the first coefficient, the mean.
        signs[i] = cv2.dct(thumb.astype(np.float32))[:9, :9].ravel()[1:65] > 0
    return np.packbits(signs, axis=1).view(np.uint64)[:, 0]


def _mirror_mask() -> np.uint64:
    odd = np.arange(81).reshape(9, 9).ravel()[1:65] % 9 % 2 == 1
    return np.packbits(odd).view(np.uint64)[0]


def look_alikes(thumbs: np.ndarray, digests: Sequence[bytes]) -> tuple[list[Pair], bool]:
    """Finds pairs of pictures that are the same but for encoding, size or a reflection.

    Args:
        thumbs: uint8 [N, THUMB, THUMB].
        digests: of the pixels; equal ones are no pair here.

    Returns:
        The pairs, and whether that are all of them.
    """
    codes, coarse = hashes(thumbs), _coarse(thumbs)
    found: list[Pair] = []
    for mirrored in (False, True):
        others = codes ^ _mirror_mask() if mirrored else codes
        for first, second in _near(codes, others):
            for start in range(0, len(first), _PAIRS):
                a, b = first[start : start + _PAIRS], second[start : start + _PAIRS]
                kept = 1 - (coarse[a] * _turned(coarse[b], mirrored)).sum(axis=(1, 2)) <= _COARSE
                kept[kept] = _same_detail(thumbs[a[kept]], _turned(thumbs[b[kept]], mirrored))
                found += [
                    Pair(i, j, mirrored)
                    for i, j in zip(a[kept].tolist(), b[kept].tolist(), strict=True)
                    if digests[i] != digests[j]
                ]
                if len(found) > MOST_PAIRS:
                    return found[:MOST_PAIRS], False
    # A symmetric picture is its own mirror image: such a pair once is enough.
    straight = {(p.first, p.second) for p in found if not p.mirrored}
    return [p for p in found if not (p.mirrored and (p.first, p.second) in straight)], True


def _near(codes: np.ndarray, others: np.ndarray):
    """Yields positions (i, j), i < j, where codes[i] and others[j] differ in few bits."""
    room = max(_ELEMENTS, len(codes))
    differing, bits = np.empty(room, np.uint64), np.empty(room, np.uint8)
    start = 0
    while start < len(codes):
        width = len(codes) - start
        rows = min(width, max(1, _ELEMENTS // width))
        # The same memory each time: new pages would take longer than the arithmetic.
        block = differing[: rows * width].reshape(rows, width)
        np.bitwise_xor(codes[start : start + rows, None], others[None, start:], out=block)
        distance = np.bitwise_count(block.ravel(), out=bits[: rows * width])
        i, j = np.divmod(np.flatnonzero(distance <= _BITS), width)
        later = i < j
        yield i[later] + start, j[later] + start
        start += rows


def _turned(images: np.ndarray, mirrored: bool) -> np.ndarray:
    return images[:, :, ::-1] if mirrored else images


def _coarse(thumbs: np.ndarray) -> np.ndarray:
    """Returns thumbnails of half the side with mean 0 and norm 1: products are correlations."""
    half = THUMB // 2
    small = np.zeros((len(thumbs), half, half), np.float32)
    for i, thumb in enumerate(thumbs):
        small[i] = cv2.resize(thumb.astype(np.float32), (half, half), interpolation=cv2.INTER_AREA)
    return _standard(small)


def _same_detail(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whether thumbnails [K, THUMB, THUMB] agree in what blurring takes away, bool [K]."""
    a, b = (_standard(_sharp(x.astype(np.float32))) for x in (a, b))
    return 1 - (a * b).sum(axis=(1, 2)) <= _DETAIL


def _sharp(images: np.ndarray) -> np.ndarray:
    blurred = [cv2.GaussianBlur(image, (0, 0), _BLUR) for image in images]
    return images - np.asarray(blurred, np.float32).reshape(images.shape)


def _standard(images: np.ndarray) -> np.ndarray:
    """Brings each image [K, H, W] to mean 0 and norm 1."""
    centred = images - images.mean(axis=(1, 2), keepdims=True)
    norm = np.sqrt((centred**2).sum(axis=(1, 2), keepdims=True))
    return centred / np.maximum(norm, 1e-6)
