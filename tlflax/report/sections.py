"""What the sections with pictures and with probabilities show; the templates lay it out."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tlflax.evaluate.metrics import Predictions
from tlflax.report.exhibits import Exhibits, Look
from tlflax.report.inside import overlay
from tlflax.report.thumbnails import enlarged, picture

MISTAKES = 12
"""Thumbnails of the most confident mistakes."""

Thumbnail = Callable[[int], np.ndarray | None]


def pictures(
    exhibits: Exhibits, predictions: Predictions, class_names: Sequence[str], thumbnail: Thumbnail
) -> dict[str, Any]:
    """Returns all that is shown besides plots, JSON-able: pictures are data URIs."""
    return {
        "mistakes": mistakes(predictions, class_names, thumbnail),
        "looks": looks(exhibits, predictions, class_names),
        "activations": activations(exhibits, predictions, class_names),
        "samples": samples(exhibits),
        "previews": previews(exhibits),
    }


def mistakes(
    predictions: Predictions, class_names: Sequence[str], thumbnail: Thumbnail
) -> list[dict[str, Any]]:
    """Returns the wrong predictions with the highest probability, pictures included."""
    return [
        {"picture": picture(thumbnail(i)), **_answer(predictions, i, class_names)}
        for i in predictions.surest_mistakes(MISTAKES)
    ]


def _answer(p: Predictions, i: int, class_names: Sequence[str]) -> dict[str, Any]:
    """What was said of one labelled image, and what it is."""
    label, predicted = int(p.labels[i]), int(p.predicted[i])
    return {
        "file": p.files[i],
        "true": class_names[label],
        "predicted": class_names[predicted],
        "probability": float(p.probabilities[i, predicted]),
        "probability_of_true": float(p.probabilities[i, label]),
        "right": label == predicted,
    }


def looks(
    exhibits: Exhibits, predictions: Predictions, class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Returns images and the same with their heat over them, mistakes first."""
    return [
        {
            "picture": picture(look.pixels),
            "overlay": picture(_overlay(look)),
            "cold": not look.heat.max() > 0,
            "where": _where(look.heat),
            **_answer(predictions, look.index, class_names),
        }
        for look in exhibits.looks
    ]


def activations(
    exhibits: Exhibits, predictions: Predictions, class_names: Sequence[str]
) -> dict[str, Any] | None:
    """Returns of which image and layers outputs are drawn, None without any."""
    found = exhibits.activations
    if found is None:
        return None
    shapes = {name: values.shape for name, values in found.outputs.items()}
    return {
        "layers": [{"name": k, "shape": " x ".join(map(str, v))} for k, v in shapes.items()],
        "flat": any(len(shape) < 3 for shape in shapes.values()),
        **_answer(predictions, found.index, class_names),
    }


def _overlay(look: Look) -> np.ndarray:
    # Enlarged before and not after: heat is smooth where the pixels of a small image are squares.
    return overlay(enlarged(look.pixels), look.heat)


def _where(heat: np.ndarray) -> str:
    """Says in words where the hottest position is, for those who do not see the picture."""
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    vertical = ("top", "middle", "bottom")[min(2, int(3 * (row + 0.5) / heat.shape[0]))]
    sideways = ("left", "centre", "right")[min(2, int(3 * (column + 0.5) / heat.shape[1]))]
    return f"{vertical} {sideways}"


def samples(exhibits: Exhibits) -> list[dict[str, Any]]:
    """Returns the training images by class."""
    return [{"name": s.name, "pictures": [*map(picture, s.pictures)]} for s in exhibits.samples]


def previews(exhibits: Exhibits) -> list[dict[str, Any]]:
    """Returns each augmentation with images and their versions."""
    return [
        {
            "augment": p.augment,
            "stages": p.stages,
            "rows": [{"name": name, "pictures": [*map(picture, row)]} for name, row in p.rows],
        }
        for p in exhibits.previews
    ]


def calibration(report: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the report's entry with what it means in words, None without one."""
    entry = report.get("calibration")
    if not entry:
        return None
    said = _mean(entry["reliability"], "confidence")
    right = _mean(entry["reliability"], "accuracy")
    chance = entry["ece"] <= entry["ece_by_chance"]["p95"]
    return {
        **entry,
        "by_chance": chance,
        "tendency": "surer than it is right" if said > right else "less sure than it is right",
        "said": said,
        "right": right,
    }


def _mean(bins: Sequence[dict[str, Any]], key: str) -> float:
    """Mean over images of what the bins hold."""
    filled = [b for b in bins if b["n"]]
    return sum(b[key] * b["n"] for b in filled) / sum(b["n"] for b in filled)
