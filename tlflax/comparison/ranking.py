"""Which runs are ranked, and which of them are best, by validation accuracy."""

from collections.abc import Sequence
from typing import Any

from tlflax.evaluate.statistics import wilson

NOISE = 1.1
"""Speeds and times that differ by less than this factor count as equal."""

_ONE_ERROR = 0.6827  # coverage of plus and minus one standard error of a normal distribution


def ranked(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows that can be chosen from: those with a validation accuracy of images of their own.

    Where a run was validated on its test images, ranking it beside others would set its test
    accuracy against their validation accuracies. Where every run is such, all are ranked.
    """
    known = [row for row in rows if row["validation"]]
    return [row for row in known if not row["chosen_on_test"]] or known


def most_accurate(
    rows: Sequence[dict[str, Any]],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The row to take for validation accuracy, and the others that have the same.

    Ties go to the smaller network, then to the faster, then to what was trained in less time,
    then to the first.
    """
    top = max(row["validation"]["accuracy"] for row in rows)
    same = [row for row in rows if row["validation"]["accuracy"] == top]

    def order(row: dict[str, Any]) -> tuple[float, float, float]:
        speed = row["images_per_second"]
        return row["parameters"]["total"], -(speed or 0.0), row["seconds"]

    best = min(same, key=order)
    return best, [row for row in same if row is not best]


def within_reach(rows: Sequence[dict[str, Any]], best: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows at most one standard error of the best validation accuracy below it."""
    low = best["validation"]["accuracy"] - standard_error(best)
    return [row for row in rows if row["validation"]["accuracy"] >= low]


def standard_error(row: dict[str, Any]) -> float:
    """Of the validation accuracy, downwards; not zero at 100%, where the usual formula is.

    The one-standard-error rule (Breiman et al., "Classification and regression trees", 1984,
    section 3.4.3): what lies within it of the best is as good as it for all that is known.
    """
    accuracy, n = row["validation"]["accuracy"], row["validation"]["n"]
    return accuracy - wilson(round(accuracy * n), n, _ONE_ERROR)[0]


def pareto(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Names of the ranked rows that no other beats in all of `pareto_goals`.

    A row is beaten by one that is worse in nothing and better in something. Speeds within
    `NOISE` are equal.
    """
    known = ranked(rows)
    timed = _timed(known)

    def beats(a: dict[str, Any], b: dict[str, Any]) -> bool:
        accuracy = a["validation"]["accuracy"] - b["validation"]["accuracy"]
        smaller = b["parameters"]["total"] - a["parameters"]["total"]
        ratio = a["images_per_second"] / b["images_per_second"] if timed else 1.0
        worse = accuracy < 0 or smaller < 0 or ratio < 1 / NOISE
        return not worse and (accuracy > 0 or smaller > 0 or ratio > NOISE)

    return [b["name"] for b in known if not any(beats(a, b) for a in known)]


def pareto_goals(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What `pareto` looks at: speeds only where every ranked row has one."""
    speed = ["images/s"] if _timed(ranked(rows)) else []
    return ["validation accuracy", *speed, "parameters"]


def _timed(rows: Sequence[dict[str, Any]]) -> bool:
    return all(row["images_per_second"] for row in rows)
