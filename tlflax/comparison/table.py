"""The comparison as a table for people."""

import html
from collections.abc import Callable, Sequence
from typing import Any

from tlflax.report import style


def _of(split: str, key: str, end: int | None = None) -> Callable[[dict[str, Any]], Any]:
    def value(row: dict[str, Any]) -> Any:
        found = row[split][key] if row[split] else None
        return found if end is None or found is None else found[end]

    return value


COLUMNS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "run": lambda r: r["name"],
    "backbone": lambda r: r["backbone"],
    "endpoint": lambda r: r["endpoint"],
    "parameters": lambda r: r["parameters"]["total"],
    "trained_parameters": lambda r: r["parameters"]["trained"],
    "epochs": lambda r: r["epochs"],
    "seconds": lambda r: r["seconds"],
    "seconds_per_epoch": lambda r: r["seconds_per_epoch"],
    "validation_accuracy": _of("validation", "accuracy"),
    "validation_ci95_low": _of("validation", "accuracy_ci95", 0),
    "validation_ci95_high": _of("validation", "accuracy_ci95", 1),
    "validation_n": _of("validation", "n"),
    "chosen_on_test": lambda r: r["chosen_on_test"],
    "test_accuracy": _of("test", "accuracy"),
    "test_ci95_low": _of("test", "accuracy_ci95", 0),
    "test_ci95_high": _of("test", "accuracy_ci95", 1),
    "test_n": _of("test", "n"),
    "test_loss": _of("test", "loss"),
    "images_per_second": lambda r: r["images_per_second"],
}
"""Columns of compare.csv: name -> value of a row of compare.json."""


def _accuracy(split: str) -> Callable[[dict[str, Any]], str]:
    def text(row: dict[str, Any]) -> str:
        s = row[split]
        mark = " (with test images)" if split == "validation" and row["chosen_on_test"] else ""
        text = f"{style.percent(s['accuracy'])} [{style.interval(s['accuracy_ci95'])}]" if s else ""
        return text and text + mark

    return text


SHOWN: dict[str, Callable[[dict[str, Any]], str]] = {
    "run": lambda r: r["name"],
    "backbone": lambda r: r["backbone"],
    "parameters": lambda r: style.count(r["parameters"]["total"]),
    "trained": lambda r: style.count(r["parameters"]["trained"]),
    "epochs": lambda r: style.number(r["epochs"]),
    "time": lambda r: style.duration(r["seconds"]),
    "s/epoch": lambda r: style.number(r["seconds_per_epoch"]),
    "validation": _accuracy("validation"),
    "test": _accuracy("test"),
    "images/s": lambda r: style.count(r["images_per_second"]),
}


class Table:
    """Text on a terminal, HTML in a notebook.

    Attributes:
      rows: of compare.json.
    """

    def __init__(self, rows: Sequence[dict[str, Any]]):
        self.rows = list(rows)

    def _cells(self) -> list[list[str]]:
        return [list(SHOWN), *([f(row) for f in SHOWN.values()] for row in self.rows)]

    def __str__(self) -> str:
        cells = self._cells()
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join(
            "  ".join(
                c.ljust(w) if i < 2 else c.rjust(w)
                for i, (c, w) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in cells
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head, *lines = [[html.escape(c) for c in line] for line in self._cells()]
        body = "".join(f"<tr><td>{'</td><td>'.join(line)}</td></tr>" for line in lines)
        return f"<table><thead><tr><th>{'</th><th>'.join(head)}</th></tr></thead>{body}</table>"
