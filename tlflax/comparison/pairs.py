"""Which two runs can be compared, and what their difference is in words."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from tlflax.comparison.entry import Entry
from tlflax.evaluate.paired import LEVEL, Difference, compare_paired, holm
from tlflax.report.style import points_of, small_p


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two rows on the images that both were asked about.

    Attributes:
      first: name of a row.
      second: name of another.
      result: accuracy of the first minus that of the second.
      p_holm: McNemar's p adjusted for all pairs.
      family: number of pairs.
    """

    first: str
    second: str
    result: Difference
    p_holm: float
    family: int

    @property
    def separable(self) -> bool:
        """Whether these images show a difference."""
        return self.p_holm < LEVEL

    def flipped(self) -> "Pair":
        """The same pair seen from the other side."""
        r = self.result
        low, high = r.ci95
        turned = Difference(r.n, r.only_second, r.only_first, -r.difference, (-high, -low), r.p)
        return dataclasses.replace(self, first=self.second, second=self.first, result=turned)

    @property
    def figures(self) -> str:
        """Interval and p value, e.g. ``95% interval 0.8 to 4.0; McNemar p = .004``."""
        low, high = self.result.ci95
        text = f"95% interval {points_of(low)} to {points_of(high)}; McNemar {small_p(self.p_holm)}"
        return f"{text}, Holm over {self.family} pairs" if self.family > 1 else text

    @property
    def words(self) -> str:
        """One sentence, the better one first."""
        pair = self.flipped() if self.result.difference < 0 else self
        r = pair.result
        if not r.only_first + r.only_second:
            return (
                f"{pair.first} and {pair.second} are right about the same images: "
                f"not separable on these {r.n:,}."
            )
        by = f"{points_of(r.difference)} points ({pair.figures})"
        if pair.separable:
            return f"{pair.first} is better than {pair.second} by {by}."
        return (
            f"{pair.first} and {pair.second} are not separable on these {r.n:,} images: "
            f"they differ by {by}."
        )

    def content(self) -> dict[str, Any]:
        """Entry of compare.json."""
        facts = dataclasses.asdict(self.result)
        names = {"first": self.first, "second": self.second}
        more = {"p_holm": self.p_holm, "separable": self.separable, "words": self.words}
        return names | facts | more


def compare_pairs(entries: Sequence[Entry]) -> tuple[list[Pair], list[str]]:
    """Compares every two runs, and every run with its own baseline.

    Returns:
      The pairs, and sentences about what could not be compared or only in part.
    """
    raw: list[tuple[str, str, Difference]] = []
    notes: list[str] = []
    for i, a in enumerate(entries):
        for b in entries[i + 1 :]:
            if b.of == a.name or (a.of is None and b.of is None):
                found, note = _compare(a, b)
                if found is not None:
                    raw.append((a.name, b.name, found))
                if note:
                    notes.append(note)
    adjusted = holm([d.p for _, _, d in raw])
    pairs = [Pair(a, b, d, p, len(raw)) for (a, b, d), p in zip(raw, adjusted, strict=True)]
    return pairs, notes


def _compare(a: Entry, b: Entry) -> tuple[Difference | None, str]:
    who = f"{a.name} and {b.name}"
    if sorted(a.classes) != sorted(b.classes):
        return None, f"{who} were not compared: they tell other classes apart."
    if a.answered != b.answered:
        return None, f"{who} were not compared: one has no test images."
    if not a.answers or not b.answers:
        return None, f"{who} were not compared image by image: predictions.csv is missing."
    common = [image for image in a.answers if image in b.answers]
    if not common:
        return None, f"{who} were not compared: they were tested on different images."
    right = [np.array([x.answers[image] for image in common]) for x in (a, b)]
    note = ""
    if len(common) < max(len(a.answers), len(b.answers)):
        note = (
            f"{who} were compared on the {len(common):,} {a.answered} images that both have, of "
            f"{len(a.answers):,} and {len(b.answers):,}."
        )
    elif a.report["data"].get("source") != b.report["data"].get("source") and (
        a.report["data"].get("fingerprint") != b.report["data"].get("fingerprint")
    ):
        note = (
            f"{who} name different sources ({a.report['data'].get('source')}, "
            f"{b.report['data'].get('source')}); their images were matched by name and label."
        )
    return compare_paired(*right), note
