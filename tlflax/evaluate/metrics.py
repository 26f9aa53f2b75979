"""Predictions of one split and the numbers that summarise them."""

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tlflax.atomic import replacing
from tlflax.evaluate.statistics import wilson

UNKNOWN = -1
"""Label of an image whose class is not known."""

SMALLEST_PROBABILITY = 1e-12
"""Floor under the logarithm: one wrong image with probability 0 costs 27.6, not infinity."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a classifier said about N images, K classes.

    Attributes:
      files: N file names, as the user knows them.
      labels: int32 [N], the true class or -1 where it is unknown.
      probabilities: float32 [N, K], rows sum to one.
    """

    files: list[str]
    labels: np.ndarray
    probabilities: np.ndarray

    def __post_init__(self):
        object.__setattr__(self, "files", [str(f) for f in self.files])
        object.__setattr__(self, "labels", np.asarray(self.labels, np.int32))
        object.__setattr__(self, "probabilities", np.asarray(self.probabilities, np.float32))
        n = len(self.files)
        shape = self.probabilities.shape
        if self.labels.shape != (n,) or len(shape) != 2 or shape[0] != n or shape[1] == 0:
            raise ValueError(
                f"Predictions: {n} files need labels [{n}] and probabilities [{n}, K], "
                f"got {self.labels.shape} and {shape}"
            )
        if n and not UNKNOWN <= self.labels.min() <= self.labels.max() < shape[1]:
            raise ValueError(
                f"Predictions: labels must be -1 or a class in 0..{shape[1] - 1}, "
                f"got {self.labels.min()}..{self.labels.max()}"
            )

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class, int32 [N]."""
        return self.probabilities.argmax(axis=1).astype(np.int32)

    @property
    def confidence(self) -> np.ndarray:
        """The probability of the predicted class, float32 [N]."""
        return self.probabilities.max(axis=1)

    @property
    def correct(self) -> np.ndarray:
        """Whether the predicted class is the true one, bool [N]; False where it is unknown."""
        return self.predicted == self.labels

    def surest_mistakes(self, count: int) -> list[int]:
        """Positions of the wrong predictions with the highest probability, the surest first."""
        wrong = np.flatnonzero((self.labels != UNKNOWN) & ~self.correct)
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")][:count].tolist()


def summarise(p: Predictions, class_names: Sequence[str]) -> dict[str, Any]:
    """Computes the numbers of ``report.json`` for one split.

    Images of unknown class are left out. What is not defined (the recall of a class without
    images, the precision of a class that was never predicted, everything of an empty split) is
    NaN, which ``report.json`` shows as null. The loss is the mean negative log likelihood in nats
    with probabilities clipped below at 1e-12. The balanced accuracy is the mean recall of the
    classes that have images, as scikit-learn's ``balanced_accuracy_score``.

    Args:
      p: predictions over K classes.
      class_names: K names.

    Returns:
      ``{"accuracy", "accuracy_ci95": [lo, hi], "balanced_accuracy", "n", "loss", "per_class":
      {name: {"precision", "recall", "recall_ci95", "f1", "n"}}, "confusion": [[int]],
      "most_confused": [...]}`` with rows of the confusion matrix for the true classes, and
      `most_confused` of it; plain Python numbers throughout.

    Raises:
      ValueError: if the number of names is not K, or a name occurs twice.
    """
    names = [str(name) for name in class_names]
    classes = range(p.probabilities.shape[1])
    if len(names) != len(classes) or len(set(names)) != len(names):
        raise ValueError(f"summarise: need {len(classes)} different class names, got {names}")

    known = p.labels != UNKNOWN
    labels, predicted = p.labels[known], p.predicted[known]
    n, right = int(known.sum()), int(p.correct.sum())
    if n:
        likelihood = p.probabilities[known, labels].astype(np.float64)
        loss = float(-np.log(np.maximum(likelihood, SMALLEST_PROBABILITY)).mean())
    else:
        loss = float("nan")
    # Four lines, because importing scikit-learn's takes as long as the rest of a small run.
    matrix = np.zeros((len(classes), len(classes)), int)
    np.add.at(matrix, (labels, predicted), 1)
    hits, counts, guesses = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    with np.errstate(invalid="ignore"):  # 0 / 0 is what is not defined
        recalls = hits / counts
        scores = hits / guesses, recalls, 2 * hits / (counts + guesses), counts
    return {
        "accuracy": right / n if n else float("nan"),
        "accuracy_ci95": list(wilson(right, n)),
        "balanced_accuracy": float(recalls[counts > 0].mean()) if n else float("nan"),
        "n": n,
        "loss": loss,
        "per_class": {
            name: {
                "precision": float(precision),
                "recall": float(recall),
                "recall_ci95": list(wilson(int(matrix[i, i]), int(count))),
                "f1": float(f1),
                "n": int(count),
            }
            for i, (name, precision, recall, f1, count) in enumerate(
                zip(names, *scores, strict=True)
            )
        },
        "confusion": matrix.tolist(),
        "most_confused": most_confused(matrix, names),
    }


def most_confused(
    confusion: Sequence[Sequence[int]] | np.ndarray, class_names: Sequence[str], count: int = 10
) -> list[dict[str, Any]]:
    """The largest entries beside the diagonal of a confusion matrix (rows: true classes).

    Returns:
      At most ``count`` of ``{"true", "predicted", "count", "n", "share"}``, the most frequent
      first: ``count`` of the ``n`` images of class ``true`` were taken for ``predicted``.
    """
    counts = np.array(confusion, int)
    rows = counts.sum(axis=1)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:count]
    cells = [divmod(int(cell), len(counts)) for cell in order]
    return [
        {
            "true": class_names[i],
            "predicted": class_names[j],
            "count": int(counts[i, j]),
            "n": int(rows[i]),
            "share": float(counts[i, j] / rows[i]),
        }
        for i, j in cells
        if counts[i, j]
    ]


def write_predictions(path: str | os.PathLike, p: Predictions, class_names: Sequence[str]) -> None:
    """Writes ``file,label,predicted,probability,correct``, one line per image.

    Label and correct are empty where the class is unknown; correct is 1 or 0 otherwise.

    Args:
      path: the CSV file; replaced atomically.
      p: predictions over K classes.
      class_names: K names.
    """
    with (
        replacing(path) as temporary,
        open(
            # File names that are not valid UTF-8 survive the round trip.
            temporary,
            "w",
            newline="",
            encoding="utf-8",
            errors="surrogateescape",
        ) as out,
    ):
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["file", "label", "predicted", "probability", "correct"])
        rows = zip(p.files, p.labels, p.predicted, p.confidence, p.correct, strict=True)
        for file, label, predicted, confidence, correct in rows:
            known = label != UNKNOWN
            writer.writerow(
                [
                    file,
                    class_names[label] if known else "",
                    class_names[predicted],
                    f"{confidence:.6f}",
                    int(correct) if known else "",
                ]
            )
