"""Learning curves; the confusion matrix is in matrix.py and offered here as well."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter

from tlflax.report.canvas import DPI, WIDTH, Target, drawing, new_figure, plain_axes, save
from tlflax.report.matrix import confusion
from tlflax.report.style import DARK, LIGHT, finite, shorten

__all__ = ["chosen", "confusion", "curves", "limit_accuracy", "limit_loss", "series"]

LEVEL = 13
"""Points from one level of stage names to the next."""


def series(rows: Sequence[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Returns the epochs and values of the rows in which both are finite."""
    found = [(r["epoch"], r[key]) for r in rows if finite(r.get("epoch")) and finite(r.get(key))]
    found.sort(key=lambda pair: pair[0])
    return [x for x, _ in found], [y for _, y in found]


def _spans(history: Sequence[dict[str, Any]]) -> list[tuple[str, float, float]]:
    """Returns (name, first epoch, last epoch) for each stage, in order."""
    ends: dict[Any, tuple[str, float]] = {}
    for row in history:
        if finite(row.get("epoch")):
            stage = row.get("stage_index", row.get("stage"))
            last = ends.get(stage, ("", row["epoch"]))[1]
            ends[stage] = (str(row.get("stage", "")), max(last, row["epoch"]))
    spans, start = [], 0.0
    for name, end in ends.values():
        spans.append((name, start, max(start, end)))
        start = max(start, end)
    return spans


def _draw_stages(axes: Sequence[Axes], spans: list, colours: dict[str, str]) -> int:
    """Shades every second stage and flags each with its name above the top panel.

    A name that would reach over the pole of a later flag goes one level above that flag's name,
    so the levels are handed out from the right and no pole crosses a name.

    Returns:
      The number of levels used.
    """
    top = axes[0]
    for index, (_, start, end) in enumerate(spans):
        for ax in axes:
            if index % 2 == 1:
                ax.axvspan(start, end, color=colours["span"], lw=0, zorder=0)
            if index:
                ax.axvline(start, color=colours["muted"], lw=0.8, zorder=1)
    renderer = top.figure.canvas.get_renderer()  # pyright: ignore[reportAttributeAccessIssue]
    box = top.get_window_extent(renderer)
    pixel = 72 / DPI  # in points
    placed: list[tuple[float, float, int]] = []  # left end, pole, level
    for name, start, _ in reversed(spans):
        label = top.annotate(
            shorten(name, 48), (start, 1), xycoords=("data", "axes fraction"),
            xytext=(0, 0), textcoords="offset points", va="bottom",
            color=colours["ink"], fontsize=9, fontweight="bold",
            bbox={"facecolor": colours["background"], "lw": 0, "pad": 0.5},
        )  # fmt: skip
        size = label.get_window_extent(renderer)
        # Names near the right edge are moved to the left of their pole, back into the picture.
        shift = min(3.0, (box.x1 - size.x1) * pixel)
        left, right = size.x0 + shift / pixel, size.x1 + (shift + 4) / pixel
        beyond = [lv for x, pole, lv in placed if min(x, pole) < right]
        level = 1 + max(beyond, default=-1)
        placed.append((left, size.x0, level))
        height = 4 + LEVEL * level
        label.xyann = (shift if level or start else 0, height)
        if level:
            top.annotate(
                "", (start, 1), xycoords=("data", "axes fraction"), zorder=1,
                xytext=(0, height + 9), textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": colours["muted"], "lw": 0.8,
                            "shrinkA": 0, "shrinkB": 0},
            )  # fmt: skip
    return 1 + max((level for _, _, level in placed), default=0)


def limit_loss(ax: Axes, values: list[float]) -> None:
    """Chooses the loss axis: from zero, or logarithmic where early losses dwarf the rest."""
    ax.set_ylabel("loss")
    if not values:
        ax.set_ylim(0, 1)
    elif min(values) > 0 and max(values) > 8 * float(np.median(values)):
        ax.set_yscale("log")
        # The standard formatter writes powers of ten in mathtext, which is switched off.
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.set_ylabel("loss (log scale)")
        ax.set_ylim(min(values) / 1.3, max(values) * 1.3)
    else:
        ax.set_ylim(min(0.0, min(values) * 1.08), max(max(values) * 1.08, 1e-3))
        ax.yaxis.set_major_locator(MaxNLocator(5))


def limit_accuracy(ax: Axes, values: list[float]) -> None:
    """Chooses the accuracy axis: up to 100%, down to the tenth below the lowest value."""
    ax.set_ylabel("accuracy")
    low = np.floor(10 * (min(values) - 0.02)) / 10 if values else 0.0
    low = min(max(0.0, low), 0.9)
    ax.set_ylim(low, 1 + 0.03 * (1 - low))
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def chosen(history: Sequence[dict[str, Any]], best_step: int | None) -> dict[str, Any] | None:
    """Returns the row of the chosen step; without one the first of the highest accuracy."""
    if best_step is not None:
        return next((row for row in reversed(history) if row.get("step") == best_step), None)
    rows = [row for row in history if finite(row.get("val_accuracy"))]
    return max(rows, key=lambda row: row["val_accuracy"], default=None)


def curves(
    history: Sequence[dict[str, Any]],
    baseline_history: Sequence[dict[str, Any]] | None,
    path: Target,
    *,
    best_step: int | None = None,
    dark: bool = False,
) -> None:
    """Draws loss and accuracy, training and validation, over the epochs of all stages.

    Args:
      history: rows of ``metrics.jsonl``; any metric may be missing, None or NaN.
      baseline_history: the same for training from scratch; its validation line is dashed.
      path: a file name or an open binary file, written as PNG.
      best_step: the step that was chosen by validation; without it the first of the highest
        validation accuracy is marked.
      dark: draw for a dark page.
    """
    colours = DARK if dark else LIGHT
    baseline = list(baseline_history or ())
    spans = _spans(history)
    best = chosen(history, best_step)
    with drawing():
        figure = new_figure(WIDTH, 5.6, colours)
        axes = figure.subplots(2, 1, sharex=True)
        figure.subplots_adjust(left=0.1, right=0.975)
        epochs = [r["epoch"] for r in [*history, *baseline] if finite(r.get("epoch"))]
        end = max(epochs, default=0) or 1
        for ax, metric in zip(axes, ("loss", "accuracy"), strict=True):
            plain_axes(ax, colours)
            ax.grid(axis="y", color=colours["grid"], lw=0.8)
            ax.set_xlim(-0.015 * end, 1.015 * end)
            lines = [
                ("train", "training", series(history, f"train_{metric}"), "-", "o"),
                ("validation", "validation", series(history, f"val_{metric}"), "-", "s"),
                ("baseline", "validation, from scratch", series(baseline, f"val_{metric}"),
                 (0, (4, 2)), "^"),
            ]  # fmt: skip
            values = []
            for colour, label, (x, y), dash, marker in lines:
                values += y
                if y:
                    ax.plot(
                        x, y, color=colours[colour], label=label, ls=dash, lw=1.7, zorder=3,
                        marker=marker if len(x) <= 30 else "", ms=4, clip_on=False,
                    )  # fmt: skip
            if best and finite(best.get("epoch")) and finite(best.get(f"val_{metric}")):
                ax.plot(
                    best["epoch"], best[f"val_{metric}"], "o", ms=11, mew=1.8, zorder=4,
                    mfc="none", mec=colours["ink"], clip_on=False, ls="",
                    label="chosen by validation",
                )  # fmt: skip
            (limit_loss if metric == "loss" else limit_accuracy)(ax, values)
            ax.yaxis.label.set_color(colours["ink"])
            ax.tick_params(which="minor", length=0, labelsize=8, labelcolor=colours["muted"])
            if not values:
                ax.text(
                    0.5, 0.5, "not measured", transform=ax.transAxes,
                    ha="center", va="center", color=colours["muted"],
                )  # fmt: skip
        axes[1].set_xlabel("epoch, counted over all stages", color=colours["ink"])
        axes[1].xaxis.set_major_locator(MaxNLocator(10, integer=end >= 1, min_n_ticks=1))
        # The panels keep their size; each level of stage names makes the picture taller.
        above = 0.15 + _draw_stages(axes, spans, colours) * LEVEL / 72
        height = above + 4.45 + 0.85
        figure.set_size_inches(WIDTH, height)
        figure.subplots_adjust(top=1 - above / height, bottom=0.85 / height, hspace=0.14)
        figure.align_ylabels(axes)
        handles = {
            label: handle
            for ax in axes
            for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
        }
        if handles:
            figure.legend(
                handles.values(), handles.keys(), loc="lower center", ncols=len(handles),
                frameon=False, labelcolor=colours["ink"], fontsize=9, handlelength=2.4,
            )  # fmt: skip
        save(figure, path)
