"""What a finished run is: numbers, pictures, and a model that can predict."""

import dataclasses
import io
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tlflax.convert.store import Weights
from tlflax.data.decode import decode
from tlflax.data.listing import Split
from tlflax.errors import ConfigError
from tlflax.evaluate.metrics import Predictions, summarise
from tlflax.train.streams import Streams
from tlflax.versions import versions_of

_PACKAGES = ("tlflax", "jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
_THUMBNAIL = 160  # pixels, longest side


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a number."""
    return {"python": platform.python_version(), **versions_of(*_PACKAGES)}


def describe_weights(weights: Weights | None) -> dict[str, Any]:
    """The report's ``weights`` entry."""
    if weights is None:
        return {"source": "none (random initial values)", "sha256": None, "certificate": None}
    return {
        "source": weights.source,
        "sha256": weights.sha256,
        "certificate": weights.certificate,
    }


def predictions_of(
    streams: Streams, finals: dict[str, tuple[dict[str, Any], str | None]], name: str, split: Split
) -> dict[str, Predictions]:
    """Predictions of each set of variables on a split; empty if the split is.

    Args:
      streams: data of the model.
      finals: name -> (variables, block up to which they are the pretrained ones or ``None``).
      name: ``val`` or ``test``.
      split: the same split's files and labels.
    """
    if not len(split):
        return {}
    log_p = {k: streams.predict(v, name, boundary) for k, (v, boundary) in finals.items()}
    return {k: Predictions(list(split.files), split.labels, np.exp(v)) for k, v in log_p.items()}


def score_of(
    predictions: dict[str, Predictions], name: str, classes: Sequence[str]
) -> dict[str, Any] | None:
    """Metrics of one entry, ``None`` without predictions."""
    return summarise(predictions[name], classes) if predictions else None


class Picture:
    """A PNG that a notebook shows and `save` writes."""

    def __init__(self, png: bytes):
        self.png = png

    def _repr_png_(self) -> bytes:
        return self.png

    def save(self, path: str | Path) -> None:
        """Writes the file."""
        Path(path).write_bytes(self.png)


@dataclasses.dataclass
class Run:
    """A finished run.

    Attributes:
      folder: the run directory.
      results: content of report.json.
      history: rows of metrics.jsonl.
      baseline_history: the same of the from-scratch baseline.
      predictions: on the test split (validation where there is none).
    """

    folder: Path
    results: dict[str, Any]
    history: list[dict[str, Any]]
    baseline_history: list[dict[str, Any]]
    predictions: Predictions | None = None

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """Opens a run directory.

        Raises:
          ConfigError: there is no finished run in it.
        """
        folder = Path(folder)
        path = folder / "report.json"
        if not path.is_file():
            raise ConfigError(f"{folder} holds no finished run: it has no report.json")
        results = json.loads(path.read_text(encoding="utf-8"))
        return cls(folder, results, _rows(folder), _rows(folder / "baseline"))

    def headline(self) -> str:
        """Accuracy with its interval and sample size, in one line."""
        kind = "test" if self.results["test"] else "validation"
        s = self.results[kind]
        low, high = s["accuracy_ci95"]
        text = (
            f"{kind} accuracy {s['accuracy']:.4f} (95% interval {low:.3f}-{high:.3f}, n={s['n']})"
        )
        if self.results["test"] and self.results["data"].get("chosen_on_test"):
            text += ", chosen on these images: no estimate"
        if self.results["baseline"] and self.results["baseline"][kind]:
            text += f"; from scratch {self.results['baseline'][kind]['accuracy']:.4f}"
        return f"{text}\nreport: {self.folder / 'report.html'}"

    def report(self) -> dict[str, Any]:
        """Prints the headline and returns the content of report.json."""
        print(self.headline())
        return self.results

    def plot(self) -> Picture:
        """Loss and accuracy curves."""
        from tlflax.report import plots

        buffer = io.BytesIO()
        best = self.results.get("best_step")
        plots.curves(self.history, self.baseline_history, buffer, best_step=best)
        return Picture(buffer.getvalue())

    def confusion(self) -> Picture:
        """Confusion matrix."""
        from tlflax.report import plots

        summary = self.results["test"] or self.results["validation"]
        buffer = io.BytesIO()
        plots.confusion(summary["confusion"], list(summary["per_class"]), buffer)
        return Picture(buffer.getvalue())

    def predict(self, images: Any) -> Predictions:
        """Predicts with the best checkpoint.

        Args:
          images: RGB uint8 ``[N, H, W, 3]``, or paths of image files and folders.
        """
        from tlflax.predict import Predictor

        return Predictor.open(self.folder).predict(images)

    def write(self, split: Split, config: dict[str, Any], classes: Sequence[str]) -> None:
        """Writes report.json, predictions.csv, the plots and report.html."""
        from tlflax.report.document import write_report

        assert self.predictions is not None

        def thumbnail(i: int) -> np.ndarray:
            import cv2

            image = decode(split.read(i), split.files[i])
            scale = min(1.0, _THUMBNAIL / max(image.shape[:2]))
            size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
            return cv2.resize(image, size, interpolation=cv2.INTER_AREA)

        write_report(
            self.folder, self.results, self.history, self.baseline_history, self.predictions,
            thumbnail, config, classes,
        )  # fmt: skip


def _rows(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
