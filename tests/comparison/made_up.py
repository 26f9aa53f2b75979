"""Run directories with made-up numbers that agree with each other."""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
from report_samples import history, policy

from tlflax.evaluate.metrics import Predictions, summarise, write_predictions
from tlflax.report.document import to_json

NAMES = ("cat", "dog")


def predictions(right, folder="test", files=None):
    """Predictions of two classes that are right where ``right`` is true."""
    right = np.asarray(right, bool)
    labels = np.arange(len(right)) % 2
    said = np.where(right, labels, 1 - labels)
    probabilities = np.full((len(right), 2), 0.1)
    probabilities[np.arange(len(right)), said] = 0.9
    files = files or [f"{folder}/{NAMES[y]}/{i:04}.jpg" for i, y in enumerate(labels)]
    return Predictions(files, labels, probabilities)


def right(n, wrong):
    """N answers, those at ``wrong`` wrong."""
    found = np.ones(n, bool)
    found[list(wrong)] = False
    return found


def blank(kind, content, histories, path, *, dark=False):
    """In the place of `compare_plots.draw`, where no picture is looked at."""
    Image.new("RGB", (8, 8)).save(path, format="PNG")


def write(
    folder, tested, *, validation=(90, 100), speed=None, parameters=(1000, 9000), seconds=30.0,
    epochs=4, baseline=None, names=NAMES, report=None, device="cpu",
):  # fmt: skip
    """Writes a finished run.

    Args:
      folder: run directory.
      tested: `Predictions` of the test split, or None.
      validation: (right, images).
      speed: images/s.
      parameters: (trained, frozen).
      seconds: of the stage.
      epochs: of the stage.
      baseline: right answers of a from-scratch baseline on the test images.
      names: classes.
      report: more keys.
      device: of the speed.
    """
    folder.mkdir(parents=True)
    validated = predictions(right(validation[1], range(validation[0], validation[1])), "val")
    stage = {
        "name": "head", "epochs": epochs, "steps": 25 * epochs, "seconds": seconds,
        "trainable_parameters": parameters[0], "frozen_parameters": parameters[1],
        "best_step": 25, "val_accuracy": 0.9, "policy": policy(("a", "head"), 1),
    }  # fmt: skip
    content = {
        "test": summarise(tested, names) if tested else None,
        "validation": summarise(validated, names),
        "baseline": None,
        "stages": [stage],
        "backbone": "glyph_cnn",
        "endpoint": "block3",
        "data": {"source": "folder:pets", "fingerprint": "abc"},
        "seed": 0,
        "warnings": [],
        "cache": {"features": []},
    }
    if speed:
        content["inference"] = {
            "images_per_second": speed, "batch_size": 32, "device": device,
            "precision": "float32",
        }  # fmt: skip
    rows = history([("head", epochs)])
    for i, row in enumerate(rows):
        row["seconds"] = 10.0 + 2.0 * i  # ten seconds of compiling, two seconds an epoch
    write_rows(folder, rows)
    if baseline is not None:
        found = predictions(baseline)
        content["baseline"] = {
            "test": summarise(found, names), "validation": summarise(validated, names),
            "stages": [stage | {"trainable_parameters": sum(parameters), "frozen_parameters": 0}],
            "epochs": epochs,
        }  # fmt: skip
        write_rows(folder / "baseline", rows)
        write_predictions(folder / "baseline" / "predictions.csv", found, names)
    write_predictions(folder / "predictions.csv", tested or validated, names)
    (folder / "report.json").write_text(to_json(content | (report or {})))
    return folder


def write_rows(folder, rows):
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
