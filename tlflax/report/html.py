"""The report as one page that needs nothing but itself: no network, no scripts."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tlflax.atomic import replacing
from tlflax.evaluate.metrics import UNKNOWN, Predictions
from tlflax.folders import STUDY
from tlflax.report import plots, sections, style
from tlflax.report.page import render

MANY = 20
"""With more classes, long tables are folded and the weakest classes come first."""

UNEVEN = 1.5
"""From this ratio of the largest class to the smallest on, the balanced accuracy is shown."""


def _commonest(summary: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the accuracy of always answering with the most frequent class of the split."""
    if not summary.get("n"):
        return None
    name, scores = max(summary["per_class"].items(), key=lambda item: item[1]["n"])
    return {"name": name, "accuracy": scores["n"] / summary["n"]}


def _uneven(summary: dict[str, Any]) -> bool:
    """Whether the classes of the split differ in size so much that accuracy says little."""
    sizes = [scores["n"] for scores in summary["per_class"].values() if scores["n"]]
    return bool(sizes) and max(sizes) >= UNEVEN * min(sizes)


def _classes(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the per-class scores, with many classes the lowest recall first."""
    rows = [{"name": name, **scores} for name, scores in summary["per_class"].items()]
    if len(rows) > MANY:
        rows.sort(key=lambda row: row["recall"] if style.finite(row["recall"]) else 2.0)
    return rows


def _view(
    report: dict[str, Any],
    history: Sequence[dict[str, Any]],
    baseline_history: Sequence[dict[str, Any]] | None,
    predictions: Predictions,
    config: dict[str, Any],
    figures: Mapping[str, Any],
    pictures: Mapping[str, Any],
) -> dict[str, Any]:
    """Collects everything the template shows; the template only lays it out."""
    summary = report["test"] or report["validation"]
    baseline = report.get("baseline") or {}
    rival = baseline.get("test" if report["test"] else "validation")
    data = report["data"]
    class_names = data.get("class_names") or list(summary["per_class"])
    counts = data.get("counts") or {}
    certificate = (report["weights"] or {}).get("certificate") or {}
    return {
        "report": report,
        "split": "test" if report["test"] else "validation",
        "summary": summary,
        "rival": rival,
        "untrained": (report.get("before") or {}).get("test" if report["test"] else "validation"),
        "difference": summary["accuracy"] - rival["accuracy"]
        if rival and style.finite(summary["accuracy"]) and style.finite(rival["accuracy"])
        else None,
        "commonest": _commonest(summary),
        "uneven": _uneven(summary),
        "stage_groups": [
            group
            for group in (
                {"title": "", "key": "", "stages": report["stages"]},
                {
                    "title": "Baseline from scratch",
                    "key": "baseline.",
                    "stages": baseline.get("stages") or [],
                },
            )
            if group["stages"]
        ],
        "dashed": bool(baseline_history),
        "figures": figures,
        "chosen": plots.chosen(history, report.get("best_step")),
        "classes": _classes(summary),
        "many": len(class_names) > MANY,
        **pictures,
        "wrong": int(((predictions.labels != UNKNOWN) & ~predictions.correct).sum()),
        "calibration": sections.calibration(report),
        "grad_cam": report.get("grad_cam") or {},
        "no_activations": (report.get("activations") or {}).get("reason"),
        "class_names": class_names,
        "counts": counts,
        "totals": {split: sum(by_class.values()) for split, by_class in counts.items()},
        "certificate": certificate,
        "endpoints": certificate.get("endpoints") or {},
        "statements": {
            key: json.dumps(value, default=str)
            if isinstance(value, dict | list | tuple | bool)
            else style.number(value)
            for key, value in certificate.items()
            if key not in ("method", "endpoints") and value not in (None, "", [], {})
        },
        "config": json.dumps(config, indent=2, default=str, ensure_ascii=False),
    }


def _in_study(folder: Path) -> bool:
    """Whether a run directory is one of those that the study around it compares."""
    try:
        study = json.loads((folder.parent / STUDY).read_text(encoding="utf-8"))
        return folder.name in study["runs"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_html(
    path: str | os.PathLike,
    report: dict[str, Any],
    history: Sequence[dict[str, Any]],
    baseline_history: Sequence[dict[str, Any]] | None,
    predictions: Predictions,
    config: dict[str, Any],
    figures: Mapping[str, Any],
    pictures: Mapping[str, Any],
) -> None:
    """Writes the page.

    Args:
      path: the HTML file; replaced atomically.
      report: the content of ``report.json``.
      history: rows of ``metrics.jsonl``.
      baseline_history: the same for training from scratch, if that was done.
      predictions: of the test split, or of the validation split where there is no test split.
      config: the configuration of the run.
      figures: plots by name, as `tlflax.report.page.pack` gives them.
      pictures: what `tlflax.report.sections.pictures` returns.
    """
    view = _view(report, history, baseline_history, predictions, config, figures, pictures)
    # Beside the folder of a study's run stands the page that compares them all.
    view["in_study"] = _in_study(Path(path).absolute().parent)
    page = render("template.html", view)
    with replacing(path) as temporary:
        # A file name that is not valid UTF-8 must not cost the user the whole report.
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
