"""What a finished run is: numbers, pictures, and a model that can predict."""

import dataclasses
import functools
import io
import json
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlflax.convert.store import Weights
from tlflax.data.decode import thumbnail
from tlflax.data.listing import Split
from tlflax.errors import ConfigError
from tlflax.evaluate.metrics import Predictions, summarise
from tlflax.inside import Inside
from tlflax.picture import Picture
from tlflax.report.exhibits import Exhibits
from tlflax.train.streams import Streams
from tlflax.versions import versions_of

if TYPE_CHECKING:
    from tlflax.predict import Predictor

_PACKAGES = ("tlflax", "jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
_THUMBNAIL = 192  # pixels, longest side


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


@dataclasses.dataclass
class Run(Inside):
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
            share = self.results["data"].get("leaked", 1.0)
            those = "these images" if share == 1 else f"{share:.0%} of these images"
            text += f", chosen on {those}: no estimate"
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

    def reliability(self) -> Picture:
        """Reliability diagram: whether it is right as often as it says.

        Raises:
          ConfigError: the run has none (no labelled images, or an older version wrote it).
        """
        from tlflax.report.reliability import reliability

        calibration = self.results.get("calibration")
        if not calibration:
            raise ConfigError(f"{self.folder} has no calibration in its report.json")
        buffer = io.BytesIO()
        reliability(calibration, buffer)
        return Picture(buffer.getvalue())

    def mistakes(self) -> Picture:
        """The most confident mistakes.

        Raises:
          ConfigError: there are none, or none whose picture is in the run directory.
        """
        from tlflax.report import gallery

        return Picture(gallery.mistakes(self._pictures("mistakes", "nothing was wrong")))

    def samples(self) -> Picture:
        """Training images of each class.

        Raises:
          ConfigError: the run directory holds none.
        """
        from tlflax.report import gallery

        return Picture(gallery.samples(self._pictures("samples", "it was written without")))

    def _pictures(self, kind: str, otherwise: str) -> list[dict[str, Any]]:
        """Small pictures of the report, with what is known of each."""
        path = self.folder / "pictures.json"
        if not path.is_file():
            raise ConfigError(f"{self.folder} has no pictures.json: an older version wrote it")
        found = json.loads(path.read_text(encoding="utf-8"))[kind]
        if not any(entry.get("picture") or entry.get("pictures") for entry in found):
            raise ConfigError(f"{self.folder} holds no pictures of {kind}: {otherwise}")
        return found

    def predict(self, images: Any) -> Predictions:
        """Predicts with the best checkpoint.

        Args:
          images: RGB uint8 ``[N, H, W, 3]``, Pillow images, or paths of image files and folders.
        """
        return self._predictor.predict(images)

    @functools.cached_property
    def _predictor(self) -> "Predictor":
        from tlflax.predict import Predictor

        return Predictor.open(self.folder)

    def _looked_at(self) -> tuple[Any, dict[str, Any]]:
        return self._predictor.model, self._predictor.variables

    def write(
        self,
        split: Split,
        config: dict[str, Any],
        classes: Sequence[str],
        exhibits: Callable[[], Exhibits] = Exhibits,
    ) -> None:
        """Writes report.json, predictions.csv, the pictures and report.html.

        Args:
          split: images of the predictions.
          config: recorded.
          classes: names in label order.
          exhibits: decodes and computes further pictures.
        """
        from tlflax.report.document import write_report

        assert self.predictions is not None

        def picture(i: int) -> np.ndarray:
            return thumbnail(split.read(i), split.files[i], _THUMBNAIL)

        write_report(
            self.folder, self.results, self.history, self.baseline_history, self.predictions,
            picture, config, classes, exhibits,
        )  # fmt: skip


def _rows(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
