"""Which run to take, for what, and why.

The choice looks at validation accuracies only. Test results stand beside it as the estimate of
what was chosen; were they to choose, the test images would be validation images.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from tlflax.comparison.pairs import Pair
from tlflax.comparison.ranking import NOISE, most_accurate, ranked, within_reach
from tlflax.report import style


@dataclasses.dataclass(frozen=True)
class Goal:
    """Something to choose for besides accuracy.

    Attributes:
      key: name in compare.json.
      title: how the sentence begins.
      value: of a row; ``None`` where it is not known.
      more_is_better: or less.
      noise: factor within which two values count as equal.
      gain: words for a ratio (at least 1), the chosen row's and the reference's values, and the
        reference's name.
      none: words where nothing is better by more than the noise.
    """

    key: str
    title: str
    value: Callable[[dict[str, Any]], float | None]
    more_is_better: bool
    noise: float
    gain: Callable[[float, float, float, str], str]
    none: str

    def ratio(self, row: dict[str, Any], other: dict[str, Any]) -> float:
        """How many times better a row is than another; below 1 where it is worse."""
        a, b = self.value(row), self.value(other)
        assert a is not None and b is not None
        return a / b if self.more_is_better else b / a


GOALS = (
    Goal(
        "speed",
        "For speed of inference",
        lambda row: row["images_per_second"],
        True,
        NOISE,
        lambda ratio, a, b, name: (
            f"{ratio:.1f} times the images/s of {name} ({a:,.0f} against {b:,.0f})"
        ),
        "is more than 10% faster",
    ),
    Goal(
        "size",
        "For size",
        lambda row: row["parameters"]["total"],
        False,
        1.0,
        lambda ratio, a, b, name: (
            f"{style.count(a)} parameters, {100 / ratio:.0f}% of those of {name}"
        ),
        "has fewer parameters",
    ),
    Goal(
        "training_time",
        "For training time",
        lambda row: row["seconds"],
        False,
        NOISE,
        lambda ratio, a, b, name: (
            f"{style.duration(a)}, {100 / ratio:.0f}% of the time of {name} ({style.duration(b)})"
        ),
        "trains more than 10% faster",
    ),
)


def advise(
    rows: Sequence[dict[str, Any]], pairs: Sequence[Pair], split: str
) -> dict[str, dict[str, Any]]:
    """Recommends a run for accuracy, speed, size and training time.

    Args:
      rows: runs as in compare.json, without baselines.
      pairs: of those rows.
      split: ``test``, or ``validation`` where there are no test images.

    Returns:
      ``{"accuracy": {"run", "words"}, ...}``; ``run`` is None where nothing can be said.
    """
    known = ranked(rows)
    if not known:
        return {"accuracy": {"run": None, "words": "No run has a validation accuracy."}}
    if len(known) == 1:
        row = known[0]
        only = "There is only one run" if len(rows) == 1 else "Only one run can be ranked"
        words = f"{only}, {row['name']}: nothing to choose between."
        return {"accuracy": {"run": row["name"], "words": words}}
    best, tied = most_accurate(known)
    find = _finder(pairs)
    advice = {"accuracy": {"run": best["name"], "words": _accuracy(best, tied, known, find, split)}}
    near = within_reach(known, best)
    for goal in GOALS:
        advice[goal.key] = _advise_for(goal, known, near, best, find, split)
    return advice


def _finder(pairs: Sequence[Pair]) -> Callable[[str, str], Pair | None]:
    table = {(p.first, p.second): p for p in pairs}
    table |= {(p.second, p.first): p.flipped() for p in pairs}
    return lambda a, b: table.get((a, b))


def _score(row: dict[str, Any], split: str) -> str:
    s = row[split]
    return f"{style.percent(s['accuracy'])} (95% interval {style.interval(s['accuracy_ci95'])})"


def _accuracy(
    best: dict[str, Any],
    tied: Sequence[dict[str, Any]],
    rows: Sequence[dict[str, Any]],
    find: Callable[[str, str], Pair | None],
    split: str,
) -> str:
    n = best["validation"]["n"]
    text = f"For accuracy: {best['name']}, validation {_score(best, 'validation')} on {n:,} images"
    if split == "test" and best["test"]:
        text += f", test {_score(best, 'test')} on {best['test']['n']:,}"
    text += "."
    if tied:
        names = [row["name"] for row in tied]
        text += (
            f" {_list(names)} {_verb(names, 'has', 'have')} the same validation accuracy; "
            f"{best['name']} was taken as {_why(best, tied)}."
        )
    found = [(row, find(best["name"], row["name"])) for row in rows if row is not best]
    alike = [row["name"] for row, p in found if p and not p.separable]
    if alike:
        counts = {p.result.n for row, p in found if p and not p.separable}
        images = f"{counts.pop():,} {split} images" if len(counts) == 1 else f"the {split} images"
        text += f" {_list(alike)} cannot be told apart from it on {images}."
    for row, p in found:
        if p and p.separable and p.result.difference < 0:
            text += (
                f" On the {split} images, however, {row['name']} is better than it by "
                f"{style.points_of(-p.result.difference)} points ({p.flipped().figures})."
            )
    return text


def _why(best: dict[str, Any], tied: Sequence[dict[str, Any]]) -> str:
    if all(best["parameters"]["total"] < row["parameters"]["total"] for row in tied):
        return "the smaller network"
    speeds = [row["images_per_second"] for row in (best, *tied)]
    if all(speeds) and all(speeds[0] > NOISE * s for s in speeds[1:]):
        return "the faster network"
    if all(best["seconds"] < row["seconds"] for row in tied):
        return "the one trained in less time"
    return "the first by size, speed and training time, in this order"


def _advise_for(
    goal: Goal,
    rows: Sequence[dict[str, Any]],
    near: Sequence[dict[str, Any]],
    best: dict[str, Any],
    find: Callable[[str, str], Pair | None],
    split: str,
) -> dict[str, Any]:
    if not all(goal.value(row) for row in rows):
        words = f"{goal.title}: nothing can be said, it was not measured alike for every run."
        return {"run": None, "words": words}
    better = [row for row in near if goal.ratio(row, best) > goal.noise]
    if not better:
        text = f"{goal.title}: {best['name']} as well; no run within reach of it {goal.none}."
        chosen = best
    else:
        # Among equals the more accurate one.
        top = max(better, key=lambda row: goal.ratio(row, best))
        equals = [row for row in better if goal.ratio(top, row) <= goal.noise]
        chosen = max(equals, key=lambda row: (row["validation"]["accuracy"], goal.ratio(row, top)))
        a, b = goal.value(chosen), goal.value(best)
        assert a is not None and b is not None
        gain = goal.gain(goal.ratio(chosen, best), a, b, best["name"])
        text = f"{goal.title}: {chosen['name']}, {gain}, {_at(chosen, best, find, split)}."
    beyond = [row for row in rows if row not in near and goal.ratio(row, chosen) > goal.noise]
    if beyond:
        row = max(beyond, key=lambda row: goal.ratio(row, chosen))
        a, b = goal.value(row), goal.value(chosen)
        assert a is not None and b is not None
        gain = goal.gain(goal.ratio(row, chosen), a, b, chosen["name"])
        text += (
            f" Out of reach on validation: {row['name']}, {gain}, {_at(row, best, find, split)}."
        )
    return {"run": chosen["name"], "words": text}


def _at(
    row: dict[str, Any],
    best: dict[str, Any],
    find: Callable[[str, str], Pair | None],
    split: str,
) -> str:
    """The price in accuracy: on the images of ``split`` where both were asked about them."""
    pair = find(row["name"], best["name"])
    if pair is not None:
        separable = "" if pair.separable else "not "
        return (
            f"at {style.points(pair.result.difference)} of {split} accuracy "
            f"({separable}separable on {pair.result.n:,} images)"
        )
    difference = row["validation"]["accuracy"] - best["validation"]["accuracy"]
    return f"at {style.points(difference)} of validation accuracy (not compared image by image)"


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _verb(names: Sequence[str], one: str, several: str) -> str:
    return one if len(names) == 1 else several
