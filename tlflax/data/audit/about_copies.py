"""What follows from the same picture twice: in two splits, under two labels, or just twice."""

from collections import Counter
from collections.abc import Sequence

from tlflax.data.audit.facts import Facts
from tlflax.data.audit.findings import Finding, counted
from tlflax.data.audit.twins import Pair

_ORDER = ("train", "val", "test")


def about_copies(facts: Sequence[Facts], groups: Sequence[Sequence[int]]) -> list[Finding]:
    """What follows from groups of images with the same pixels."""
    leaks, mixed, inside = [], [], []
    for group in groups:
        members = sorted((facts[i] for i in group), key=lambda f: _ORDER.index(f.split))
        if len({f.label for f in members}) > 1:
            mixed.append(members)
        if len({f.split for f in members}) > 1:
            leaks.append(members)
        elif len({f.label for f in members}) == 1:
            inside.append(members)
    found = []
    if leaks:
        found.append(
            Finding(
                "error", "leak", f"{counted(len(leaks), 'image')} in more than one split, pixel "
                f"for pixel{_shares(leaks, facts)}", "delete them from all splits but one",
                [" = ".join(f.file for f in reversed(g)) for g in leaks], len(leaks),
            )
        )  # fmt: skip
    if mixed:
        found.append(
            Finding(
                "error", "contradiction",
                f"{counted(len(mixed), 'image')} under more than one label, pixel for pixel",
                "correct the label, or delete them", [" = ".join(f.file for f in g) for g in mixed],
                len(mixed),
            )
        )  # fmt: skip
    if inside:
        extra = sum(len(g) - 1 for g in inside)
        found.append(
            Finding(
                "note", "copies", f"{counted(len(inside), 'image')} several times within a split "
                f"({counted(extra, 'file')} too many)",
                "delete the copies: each counts as often as it occurs",
                [" = ".join(f.file for f in g) for g in inside], len(inside),
            )
        )  # fmt: skip
    return found


def about_look_alikes(facts: Sequence[Facts], pairs: Sequence[Pair], whole: bool) -> list[Finding]:
    """What follows from pairs of images that show the same.

    Args:
        facts: of all images.
        pairs: positions in them.
        whole: whether the splits are still to be cut.
    """
    what = "of the same picture with other pixels (re-encoded, resized, brightened or mirrored)"
    look = "look at the pairs; delete what is the same "
    across = [p for p in pairs if facts[p.first].split != facts[p.second].split]
    inside = [p for p in pairs if facts[p.first].split == facts[p.second].split]
    mixed = [p for p in inside if facts[p.first].label != facts[p.second].label]
    alike = [p for p in inside if facts[p.first].label == facts[p.second].label]
    found = []

    def tell(severity: str, kind: str, chosen: list[Pair], text: str, fix: str) -> None:
        if chosen:
            lines = [_pair(facts, p) for p in chosen]
            message = f"{counted(len(chosen), 'pair')} {text}"
            found.append(Finding(severity, kind, message, fix, lines, len(chosen)))

    later = [_sorted(facts, p) for p in across]
    tell(
        "error", "leak_alike", across, f"across splits {what}{_shares(later, facts)}",
        f"{look}from one side",
    )  # fmt: skip
    tell("warning", "alike_labels", mixed, f"with two labels {what}", f"{look}or relabel")
    tell(
        "warning" if whole else "note", "alike", alike, f"within a split {what}"
        + (": a cut into splits may part them" if whole else ""),
        look + ("before cutting" if whole else "if it should not count twice"),
    )  # fmt: skip
    return found


def _sorted(facts: Sequence[Facts], pair: Pair) -> list[Facts]:
    return sorted((facts[i] for i in pair[:2]), key=lambda f: _ORDER.index(f.split))


def _pair(facts: Sequence[Facts], pair: Pair) -> str:
    first, second = _sorted(facts, pair)
    return f"{second.file} = {first.file}{' (mirrored)' * pair.mirrored}"


def _shares(groups: Sequence[Sequence[Facts]], facts: Sequence[Facts]) -> str:
    """'; 12 of 400 test images are in train': what the numbers of each split are off by."""
    sizes = Counter(f.split for f in facts)
    parts = []
    for split, before in (("val", ("train",)), ("test", ("train", "val"))):
        for other in before:
            hit = {
                f.file for g in groups for f in g
                if f.split == split and any(o.split == other for o in g)
            }  # fmt: skip
            if hit:
                share = len(hit) / sizes[split]
                parts.append(
                    f"{len(hit)} of {sizes[split]} {split} images ({share:.1%}) in {other}"
                )
    return f": {', '.join(parts)}" if parts else ""
