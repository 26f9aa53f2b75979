"""The comparison of runs as one page that needs nothing but itself."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tlflax.atomic import replacing
from tlflax.report.compare_plots import COSTS
from tlflax.report.document import plain
from tlflax.report.page import pack, render

FEW = 6
"""So many pairs are told in words; of more the table shows those that are separable first."""


def write_page(
    path: Path, content: Mapping[str, Any], pictures: Mapping[str, tuple[bytes, bytes]]
) -> None:
    """Writes compare.html.

    Args:
      path: the file; replaced atomically.
      content: of compare.json.
      pictures: kind -> PNG files for light and dark pages.
    """
    content = plain(content)
    rows = content["runs"]
    runs = [row for row in rows if row["baseline_of"] is None]
    view = {
        "content": content,
        "rows": [row | {"link": _link(row, path)} for row in rows],
        "runs": runs,
        "n": sorted({row[content["split"]]["n"] for row in runs if row[content["split"]]}),
        "pictures": {kind: pack(*pair) for kind, pair in pictures.items()},
        "costs": list(COSTS),
        "pairs": sorted(content["pairs"], key=lambda pair: not pair["separable"]),
        "folded": len(content["pairs"]) > FEW,
    }
    with replacing(path) as temporary:
        temporary.write_text(
            render("compare.html", view), encoding="utf-8", errors="backslashreplace"
        )


def _link(row: Mapping[str, Any], page: Path) -> str | None:
    """Where the run's own report is, seen from the page."""
    report = Path(row["folder"]) / "report.html"
    if row["baseline_of"] is not None or not report.is_file():
        return None
    return Path(os.path.relpath(report.resolve(), page.resolve().parent)).as_posix()
