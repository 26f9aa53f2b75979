"""The plots of a report, each as two PNG files: for light and for dark pages."""

from collections.abc import Sequence
from typing import Any

from tlflax.report import inside, plots
from tlflax.report.exhibits import Activations
from tlflax.report.page import drawn
from tlflax.report.reliability import reliability


def figures(
    report: dict[str, Any],
    history: Sequence[dict[str, Any]],
    baseline_history: Sequence[dict[str, Any]] | None,
    class_names: Sequence[str],
) -> dict[str, tuple[bytes, bytes]]:
    """All plots of a report, by the name of their file: curves, confusion, reliability."""
    summary = report["test"] or report["validation"]
    best = report.get("best_step")
    found = {
        "curves": drawn(plots.curves, history, baseline_history, best_step=best),
        "confusion": drawn(plots.confusion, summary["confusion"], class_names),
    }
    if report.get("calibration"):
        found["reliability"] = drawn(reliability, report["calibration"])
    return found


def activations(shown: Activations) -> tuple[bytes, bytes]:
    """The outputs of layers for one image."""
    light, dark = (inside.activations(shown.pixels, shown.outputs, dark=d) for d in (False, True))
    return light, dark
