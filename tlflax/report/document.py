"""Everything a finished run leaves for its reader."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tlflax.atomic import replacing
from tlflax.evaluate.metrics import Predictions, write_predictions
from tlflax.report import sections
from tlflax.report.exhibits import Exhibits
from tlflax.report.figures import activations, figures
from tlflax.report.html import write_html
from tlflax.report.page import pack
from tlflax.report.sections import Thumbnail


def plain(value: Any) -> Any:
    """Returns a value as JSON knows it: NaN and infinities become None, arrays lists.

    Raises:
      TypeError: if the value is of a type that has no natural form in JSON.
    """
    if hasattr(value, "__array__"):  # numpy and jax, without importing jax
        value = np.asarray(value).tolist()
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"report.json: no JSON form for {type(value).__name__} {value!r}")


def to_json(value: Any) -> str:
    """Writes strict JSON, indented by two, with lists of numbers on one line.

    A confusion matrix of 102 classes is then 102 lines and not ten thousand.
    """
    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    # Safe on the finished text: inside JSON strings a line break is written as backslash n.
    return re.sub(
        r"\[\n\s+((?:-?[\d.eE+-]+|null)(?:,\n\s+(?:-?[\d.eE+-]+|null))*)\n\s+\]",
        lambda found: "[" + re.sub(r",\n\s+", ", ", found.group(1)) + "]",
        text,
    )


def write_report(
    run_dir: Path,
    report: dict[str, Any],
    history: Sequence[dict[str, Any]],
    baseline_history: Sequence[dict[str, Any]] | None,
    predictions: Predictions,
    thumbnail: Thumbnail,
    config: dict[str, Any],
    class_names: Sequence[str],
    exhibits: Callable[[], Exhibits] = Exhibits,
) -> None:
    """Writes report.json, predictions.csv, the plots, pictures.json and report.html.

    ``pictures.json`` holds the small pictures of the page, for `tlflax.result.Run.mistakes`.

    The numbers come first and the page last: if drawing fails, they are there.

    Args:
      run_dir: an existing folder; files of an earlier report are replaced one by one.
      report: the content of ``report.json``, with ``best_step`` beside the fixed keys.
      history: rows of ``metrics.jsonl``.
      baseline_history: the same for training from scratch, if that was done.
      predictions: of the test split, or of the validation split where there is no test split.
      thumbnail: gives the picture of prediction ``i`` ([H, W, 3] uint8), or None.
      config: the configuration of the run.
      class_names: K names.
      exhibits: decodes and computes the other pictures, after the numbers have been written.
    """
    run_dir = Path(run_dir)
    report = plain(report)
    history = [plain(row) for row in history]
    baseline_history = [plain(row) for row in baseline_history or ()]
    with replacing(run_dir / "report.json") as temporary:
        temporary.write_text(to_json(report) + "\n", encoding="utf-8", errors="backslashreplace")
    write_predictions(run_dir / "predictions.csv", predictions, class_names)
    plots = figures(report, history, baseline_history, class_names)
    _write_plots(run_dir, plots)
    shown = exhibits()
    if shown.activations:
        plots |= (inside := {"activations": activations(shown.activations)})
        _write_plots(run_dir, inside)
    pictures = sections.pictures(shown, predictions, class_names, thumbnail)
    with replacing(run_dir / "pictures.json") as temporary:
        temporary.write_text(json.dumps(pictures) + "\n", encoding="utf-8")
    write_html(
        run_dir / "report.html",
        report,
        history,
        baseline_history,
        predictions,
        config,
        {name: pack(*both) for name, both in plots.items()},
        pictures,
    )


def _write_plots(run_dir: Path, plots: Mapping[str, tuple[bytes, bytes]]) -> None:
    """Writes those for light pages as NAME.png."""
    for name, (light, _) in plots.items():
        with replacing(run_dir / f"{name}.png") as temporary:
            temporary.write_bytes(light)
