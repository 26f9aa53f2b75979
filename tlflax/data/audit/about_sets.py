"""What is wrong with the set as a whole: rare and missing classes, small splits, stray files."""

from collections.abc import Sequence

import numpy as np

from tlflax.data.audit.facts import Facts
from tlflax.data.audit.findings import Finding, counted
from tlflax.data.audit.twins import SMALLEST
from tlflax.evaluate.statistics import WIDE, images_needed, wilson

# The largest class over the smallest from which training is lopsided enough to be told.
_IMBALANCE = 5.0


def about_counts(
    counts: dict[str, np.ndarray], class_names: Sequence[str], whole: bool
) -> list[Finding]:
    """What follows from the images per class, int [classes] of each split."""
    found = []
    for split, count in counts.items():
        lacking = [c for c, n in zip(class_names, count, strict=True) if not n]
        if lacking:
            found.append(
                Finding(
                    "warning", "missing", f"{split} has no images of {len(lacking)} classes",
                    "add some, or leave the class out (--config.classes=...): its accuracy in "
                    f"{split} cannot be known", lacking, len(lacking),
                )
            )  # fmt: skip
        present = count[count > 0]
        ratio = present.max() / present.min() if len(present) else 1.0
        if split == "train" and ratio > _IMBALANCE:
            most, least = class_names[int(count.argmax())], _least(class_names, count)
            found.append(
                Finding(
                    "warning", "imbalance", f"train has {ratio:.1f} times as many images of {most} "
                    f"as of {least}", "train with class_weights='balanced' or sampling='balanced' "
                    "in the stage, and judge by the accuracy of each class", [most, least], 2,
                )
            )  # fmt: skip
        n = int(count.sum())
        enough = images_needed(0.5, WIDE)
        if split != "train" and not whole and n < enough:
            low, high = wilson(round(0.9 * n), n)
            found.append(
                Finding(
                    "warning", "tiny", f"{split} has {n} images: even 90 % right could be anything "
                    f"from {low:.0%} to {high:.0%} (95 % interval)",
                    f"take {enough} or more, which keeps it within 20 points at any accuracy; "
                    f"{images_needed(0.9, 0.1)} keep it within 10 at 90 %", [], n,
                )
            )  # fmt: skip
    return found


def about_rest(
    listed: Sequence[str], ignored: Sequence[Facts], tiny: int, complete: bool
) -> list[Finding]:
    """What the listing left out, and what this audit could not look at.

    Args:
        listed: warnings of the source.
        ignored: files that are not taken for images.
        tiny: images too small to be looked for elsewhere.
        complete: whether all look-alikes are listed.
    """
    found = [Finding("warning", "layout", line, "see the folder layout in the README") for line in
             listed if "are no images are ignored" not in line]  # fmt: skip
    hidden = [f for f in ignored if f.fault is None]
    if hidden:
        found.append(
            Finding(
                "warning", "unused",
                f"{counted(len(hidden), 'image')} not used because of the name's suffix",
                "rename them (.jpg, .png, ...)", [f"{f.file} is {f.format}" for f in hidden],
                len(hidden),
            )
        )  # fmt: skip
    other = [f for f in ignored if f.fault is not None]
    if other:
        found.append(
            Finding(
                "note", "other", f"{counted(len(other), 'file')} or folders that are no images: "
                "ignored", "", [f.file for f in other], len(other),
            )
        )  # fmt: skip
    if tiny:
        found.append(
            Finding(
                "note", "not_compared", f"{counted(tiny, 'image')} flat or below {SMALLEST} "
                "pixels: only copies pixel for pixel are looked for there", "", [], tiny,
            )
        )  # fmt: skip
    if not complete:
        found.append(
            Finding(
                "warning", "too_many", "there are more look-alikes than can be listed",
                "if these are frames of films, split by film and audit with --no-look-alikes",
            )
        )  # fmt: skip
    return found


def _least(class_names: Sequence[str], count: np.ndarray) -> str:
    return class_names[min(np.flatnonzero(count).tolist(), key=lambda i: count[i])]
