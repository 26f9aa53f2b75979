"""The report as one page that needs nothing but itself: no network, no scripts."""

import io
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from tlflax.atomic import replacing
from tlflax.evaluate.metrics import UNKNOWN, Predictions
from tlflax.report import plots, style
from tlflax.report.page import data_uri, figure, render

MISTAKES = 12
"""Thumbnails of the most confident mistakes."""

PAIRS = 10
"""Rows of the table of the most frequent confusions."""

MANY = 20
"""With more classes, long tables are folded and the weakest classes come first."""

UNEVEN = 1.5
"""From this ratio of the largest class to the smallest on, the balanced accuracy is shown."""

THUMBNAIL = 192
"""Longer side of a thumbnail in pixels: twice its size on the page."""

Thumbnail = Callable[[int], np.ndarray | None]


def picture(image: np.ndarray | None) -> str | None:
    """Turns pixels into a small data URI.

    Args:
      image: [H, W], [H, W, 1] or [H, W, 3]; uint8, or float in 0..1.

    Returns:
      The address of a PNG (tiny pictures, enlarged in whole steps) or JPEG; None for None.
    """
    if image is None:
        return None
    pixels = np.asarray(image)
    if pixels.dtype.kind == "f":
        pixels = np.nan_to_num(pixels).clip(0, 1) * 255
    pixels = pixels.clip(0, 255).astype(np.uint8)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    small = Image.fromarray(pixels)
    longer = max(small.size)
    stream = io.BytesIO()
    if longer <= THUMBNAIL // 2:
        # Pixels of an 8x8 digit stay squares instead of becoming a blur.
        factor = THUMBNAIL // longer
        small.resize((small.width * factor, small.height * factor), Image.Resampling.NEAREST).save(
            stream, "png", optimize=True
        )
        return data_uri(stream.getvalue(), "png")
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    small.save(stream, "jpeg", quality=85)
    return data_uri(stream.getvalue(), "jpeg")


def _mistakes(
    predictions: Predictions, class_names: Sequence[str], thumbnail: Thumbnail
) -> list[dict[str, Any]]:
    """Returns the wrong predictions with the highest probability, pictures included."""
    wrong = np.flatnonzero((predictions.labels != UNKNOWN) & ~predictions.correct)
    order = wrong[np.argsort(-predictions.confidence[wrong], kind="stable")][:MISTAKES]
    return [
        {
            "picture": picture(thumbnail(int(i))),
            "file": predictions.files[i],
            "true": class_names[int(predictions.labels[i])],
            "predicted": class_names[int(predictions.predicted[i])],
            "probability": float(predictions.confidence[i]),
        }
        for i in order
    ]


def _confusions(summary: dict[str, Any], class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the largest entries beside the diagonal."""
    counts = np.array(summary["confusion"], int)
    rows = counts.sum(axis=1)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:PAIRS]
    cells = [divmod(int(cell), len(counts)) for cell in order]
    return [
        {
            "true": class_names[i],
            "predicted": class_names[j],
            "count": int(counts[i, j]),
            "n": int(rows[i]),
            "share": counts[i, j] / rows[i],
        }
        for i, j in cells
        if counts[i, j]
    ]


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
    thumbnail: Thumbnail,
    config: dict[str, Any],
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
                {"title": "", "stages": report["stages"]},
                {"title": "Baseline from scratch", "stages": baseline.get("stages") or []},
            )
            if group["stages"]
        ],
        "dashed": bool(baseline_history),
        "curves": figure(
            plots.curves, history, baseline_history, best_step=report.get("best_step")
        ),
        "chosen": plots.chosen(history, report.get("best_step")),
        "confusion": figure(plots.confusion, summary["confusion"], class_names),
        "confusions": _confusions(summary, class_names),
        "classes": _classes(summary),
        "many": len(class_names) > MANY,
        "mistakes": _mistakes(predictions, class_names, thumbnail),
        "wrong": int(((predictions.labels != UNKNOWN) & ~predictions.correct).sum()),
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


def write_html(
    path: str | os.PathLike,
    report: dict[str, Any],
    history: Sequence[dict[str, Any]],
    baseline_history: Sequence[dict[str, Any]] | None,
    predictions: Predictions,
    thumbnail: Thumbnail,
    config: dict[str, Any],
) -> None:
    """Writes the page.

    Args:
      path: the HTML file; replaced atomically.
      report: the content of ``report.json``.
      history: rows of ``metrics.jsonl``.
      baseline_history: the same for training from scratch, if that was done.
      predictions: of the test split, or of the validation split where there is no test split.
      thumbnail: gives the picture of prediction ``i`` ([H, W, 3] uint8), or None.
      config: the configuration of the run.
    """
    page = render(
        "template.html",
        _view(report, history, baseline_history, predictions, thumbnail, config),
    )
    with replacing(path) as temporary:
        # A file name that is not valid UTF-8 must not cost the user the whole report.
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
