"""The same image twice: told by decoded pixels, so that other metadata do not hide it.

At the start of every run this costs next to nothing: images are decoded small anyway when they
are checked, and only those whose small versions are equal are decoded in full and compared. The
one case it misses is a copy in another kind of format (a PNG made from a JPEG), whose small
version is another one: `python -m tlflax.audit` decodes everything in full and finds that too.
"""

from collections import defaultdict

import numpy as np

from tlflax.data import splits as cutting
from tlflax.data.decode import decode
from tlflax.data.listing import Split
from tlflax.data.manifest import Manifest, pixel_digest
from tlflax.errors import DataError, listing

# A larger share of test images among the training images, and the test accuracy measures memory;
# among the validation images, and it is the best of several: at a tenth it can be off by as much
# as most comparisons are about.
MEANINGLESS = 0.1


def mark(splits: dict[str, Split], manifest: Manifest) -> None:
    """Fills in `looks` of checked splits: one key for all images with the same pixels.

    The key is the smallest content hash among them. Where no image occurs twice that is each
    image's own hash, and cutting by it gives the same splits as cutting by content.

    Args:
        splits: with hashes.
        manifest: knows every file in them.
    """
    alike: dict[str, list[tuple[Split, int]]] = defaultdict(list)
    for split in splits.values():
        split.looks = list(split.hashes)
        for i, file in enumerate(split.files):
            alike[manifest.preview(file)].append((split, i))
    for members in alike.values():
        if len({split.hashes[i] for split, i in members}) == 1:
            continue  # one image, or copies byte for byte.
        same: dict[str, list[tuple[Split, int]]] = defaultdict(list)
        for split, i in members:
            same[manifest.pixels(split.files[i], lambda s=split, i=i: _digest(s, i))].append(
                (split, i)
            )
        for twins in same.values():
            key = min(split.hashes[i] for split, i in twins)
            for split, i in twins:
                split.looks[i] = key


def check_copies(given: dict[str, Split]) -> list[str]:
    """Looks for images that are in two splits, or under two labels.

    Args:
        given: splits as the source has them, marked.

    Returns:
        One sentence per finding.

    Raises:
        DataError: more than a tenth of the test images are training images.
    """
    warnings: list[str] = []
    names = [n for n in ("train", "val", "test") if n in given]
    for a, first in enumerate(names):
        for second in names[a + 1 :]:
            pairs = cutting.shared(given[first].looks, given[second].looks)
            if pairs:
                warnings.append(_in_both(given[first], given[second], pairs))
    for name in names:
        split = given[name]
        mixed = cutting.ambiguous(split.looks, split.labels)
        if mixed:
            pair = [f for f, h in zip(split.files, split.looks, strict=True) if h == min(mixed)]
            warnings.append(
                f"{len(mixed)} images of {name} occur under more than one label "
                f"(e.g. {listing(pair, 3)}): correct the label or remove them"
            )
    return warnings


def _in_both(first: Split, second: Split, pairs: list[tuple[int, int]]) -> str:
    shown = listing((f"{second.files[j]} = {first.files[i]}" for i, j in pairs), 3)
    share = len(pairs) / len(second)
    found = (
        f"{len(pairs)} {second.name} images ({share:.1%}) are in {first.name} too, pixel for "
        f"pixel ({shown})"
    )
    how = "remove them from one side (python -m tlflax.audit lists them)"
    if (first.name, second.name) == ("train", "test") and share > MEANINGLESS:
        raise DataError(f"{found}: the test accuracy would mean nothing; {how}")
    if (first.name, second.name) == ("val", "test") and share > MEANINGLESS:
        return (
            f"{found}: they choose the checkpoint and when to stop, so the test accuracy is no "
            f"estimate for new images; {how}"
        )
    return f"{found}: {second.name} numbers are too good by up to that much; {how}"


def _digest(split: Split, i: int) -> str:
    image: np.ndarray = decode(split.read(i), split.files[i])
    return pixel_digest(image)
