"""The comparison of runs as one page that needs nothing but itself."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tlflax.atomic import replacing
from tlflax.report import compare_plots
from tlflax.report.document import plain
from tlflax.report.page import figure, render

FEW = 10
"""With more pairs the table begins with those that are separable and the rest is folded."""


def write_page(
    path: Path, content: Mapping[str, Any], histories: Mapping[str, Sequence[dict[str, Any]]]
) -> None:
    """Writes compare.html.

    Args:
      path: the file; replaced atomically.
      content: of compare.json.
      histories: row name -> rows of its metrics.jsonl.
    """
    content = plain(content)
    costs = [k for k in compare_plots.COSTS]
    pictures = {
        kind: figure(_drawer(kind), content, histories) for kind in ("accuracy", "curves", *costs)
    }
    rows = content["runs"]
    runs = [row for row in rows if row["baseline_of"] is None]
    view = {
        "content": content,
        "rows": [row | {"link": _link(row, path)} for row in rows],
        "runs": runs,
        "n": sorted({row[content["split"]]["n"] for row in runs if row[content["split"]]}),
        "pictures": pictures,
        "costs": costs,
        "pairs": sorted(content["pairs"], key=lambda pair: not pair["separable"]),
        "folded": len(content["pairs"]) > FEW,
    }
    with replacing(path) as temporary:
        temporary.write_text(
            render("compare.html", view), encoding="utf-8", errors="backslashreplace"
        )


def _drawer(kind: str) -> Any:
    def draw(*arguments: Any, **options: Any) -> None:
        compare_plots.draw(kind, *arguments, **options)

    return draw


def _link(row: Mapping[str, Any], page: Path) -> str | None:
    """Where the run's own report is, seen from the page."""
    report = Path(row["folder"]) / "report.html"
    if row["baseline_of"] is not None or not report.is_file():
        return None
    return Path(os.path.relpath(report.resolve(), page.resolve().parent)).as_posix()
