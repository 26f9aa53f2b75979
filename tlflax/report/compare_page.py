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
    own = [i for i, row in enumerate(rows) if row["baseline_of"] is None]
    runs = [rows[i] for i in own]
    counted = {rows[i][content["split"]]["n"]: i for i in own if rows[i][content["split"]]}
    view = {
        "content": content,
        "rows": [row | {"link": _link(row, path)} for row in rows],
        "runs": runs,
        "warned": [row for row in runs if row["warnings"]],
        # Places in the list of rows: keys of figures of which there is one on the page.
        "counted": next(iter(counted.values())) if len(counted) == 1 else None,
        "measured": next((i for i in own if rows[i]["inference"]), None),
        "pictures": {kind: pack(*pair) for kind, pair in pictures.items()},
        "costs": {kind: label for kind, (_, label) in COSTS.items()},
        "pairs": sorted(
            (pair | {"index": i} for i, pair in enumerate(content["pairs"])),
            key=lambda pair: not pair["separable"],
        ),
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
