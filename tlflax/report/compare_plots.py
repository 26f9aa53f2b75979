"""Pictures of several runs: accuracies, validation curves, accuracy over what it costs."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter

from tlflax.report.canvas import WIDTH, Target, drawing, new_figure, plain_axes, save
from tlflax.report.labels import place_labels
from tlflax.report.plots import limit_accuracy, limit_loss, series
from tlflax.report.style import DARK, LIGHT, finite, interval, percent, shorten

# Okabe & Ito (2008), without the yellow that is too pale on white (orange on dark pages).
_LIGHT = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#1f2328")
_DARK = ("#56b4e9", "#f0a04b", "#2fc79b", "#e3a0c5", "#3d8ec4", "#f0e442", "#e6e8eb")
_MARKERS = "osD^vPX"

Row = dict[str, Any]

# kind -> (value of a row, axis label)
COSTS: dict[str, tuple[Callable[[Row], Any], str]] = {
    "parameters": (lambda r: r["parameters"]["total"], "parameters"),
    "trained_parameters": (
        lambda r: r["parameters"]["trained"],
        "trained parameters (most in one stage)",
    ),
    "seconds": (lambda r: r["seconds"], "seconds of training"),
    "epoch_seconds": (lambda r: r["seconds_per_epoch"], "seconds per epoch"),
    "speed": (lambda r: r["images_per_second"], "images per second, inference"),
}

_STEP = 6.0
"""Points between marks that would lie on each other."""


def draw(
    kind: str,
    content: Mapping[str, Any],
    histories: Mapping[str, Sequence[Row]],
    path: Target,
    *,
    dark: bool = False,
) -> None:
    """Draws one picture of a comparison.

    Args:
      kind: ``accuracy``, ``curves`` or a key of `COSTS`.
      content: of compare.json.
      histories: row name -> rows of its metrics.jsonl.
      path: a file name or an open binary file, written as PNG.
      dark: draw for a dark page.
    """
    rows, split = content["runs"], content["split"]
    if kind == "accuracy":
        _bars(rows, split, path, dark)
    elif kind == "curves":
        _curves(rows, histories, path, dark)
    else:
        _scatter(rows, split, *COSTS[kind], path, dark)


def _look(rows: Sequence[Row], dark: bool) -> list[dict[str, Any]]:
    """Colour, marker and dash of each row; a baseline is the dashed, hollow form of its run."""
    palette = _DARK if dark else _LIGHT
    order = [row["name"] for row in rows if row["baseline_of"] is None]
    looks = []
    for row in rows:
        i = order.index(row["baseline_of"] or row["name"])
        rival = row["baseline_of"] is not None
        looks.append(
            {
                "color": palette[i % len(palette)],
                "marker": _MARKERS[(i // len(palette) + i) % len(_MARKERS)],
                "ls": (0, (4, 2)) if rival else "-",
                "mfc": "none" if rival else palette[i % len(palette)],
            }
        )
    return looks


def _bars(rows: Sequence[Row], split: str, path: Target, dark: bool) -> None:
    """Horizontal bars from zero, each with its interval and its figures."""
    colours = DARK if dark else LIGHT
    names = [shorten(row["name"], 36) for row in rows]
    height = 0.75 + 0.36 * len(rows)
    with drawing():
        figure = new_figure(WIDTH, height, colours)
        ax = figure.subplots()
        plain_axes(ax, colours)
        ax.grid(axis="x", color=colours["grid"], lw=0.8)
        for y, (row, look) in enumerate(zip(rows, _look(rows, dark), strict=True)):
            score = row[split]
            if not score or not finite(score["accuracy"]):
                ax.text(0.01, y, f"no {split} images", va="center", color=colours["muted"])
                continue
            rival = row["baseline_of"] is not None
            low, high = score["accuracy_ci95"]
            ax.barh(
                y, score["accuracy"], 0.62, zorder=2, color=look["color"],
                alpha=0.35 if rival else 0.75, lw=0,
            )  # fmt: skip
            ax.plot([low, high], [y, y], color=colours["ink"], lw=1.6, zorder=3)
            for end in (low, high):
                ax.plot([end, end], [y - 0.14, y + 0.14], color=colours["ink"], lw=1.6, zorder=3)
            ax.text(
                1.02, y, f"{percent(score['accuracy'])}  [{interval(score['accuracy_ci95'])}]",
                va="center", color=colours["ink"], fontsize=8.5,
            )  # fmt: skip
        ax.set_yticks(range(len(rows)), names, color=colours["ink"], fontsize=9)
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.set_xlim(0, 1)
        ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        ax.set_xlabel(f"{split} accuracy, 95% interval", color=colours["ink"])
        renderer = figure.canvas.get_renderer()  # pyright: ignore[reportAttributeAccessIssue]
        label = max(t.get_window_extent(renderer).width for t in ax.get_yticklabels())
        left = label / figure.get_window_extent(renderer).width + 0.03
        figure.subplots_adjust(left=left, right=0.77, top=1 - 0.1 / height, bottom=0.6 / height)
        save(figure, path)


def _curves(
    rows: Sequence[Row], histories: Mapping[str, Sequence[Row]], path: Target, dark: bool
) -> None:
    """Validation accuracy and loss of all rows over their epochs."""
    colours = DARK if dark else LIGHT
    shown = [
        (row, look) for row, look in zip(rows, _look(rows, dark), strict=True)
        if histories.get(row["name"])
    ]  # fmt: skip
    columns = 2 if max((len(r["name"]) for r, _ in shown), default=0) > 24 else 3
    lines = -(-len(shown) // columns)
    height = 4.9 + 0.2 * lines
    with drawing():
        figure = new_figure(WIDTH, height, colours)
        axes = figure.subplots(2, 1, sharex=True)
        bottom = (0.6 + 0.2 * lines) / height
        figure.subplots_adjust(0.1, bottom, 0.975, 1 - 0.12 / height, hspace=0.12)
        for ax, metric, limit in (
            (axes[0], "val_accuracy", limit_accuracy),
            (axes[1], "val_loss", limit_loss),
        ):
            plain_axes(ax, colours)
            ax.grid(axis="y", color=colours["grid"], lw=0.8)
            values: list[float] = []
            for row, look in shown:
                x, y = series(histories[row["name"]], metric)
                values += y
                marker = look if len(x) <= 30 else look | {"marker": ""}
                ax.plot(x, y, lw=1.6, ms=4, zorder=3, label=shorten(row["name"], 40), **marker)
            limit(ax, values)
            ax.set_ylabel(f"validation {ax.get_ylabel()}", color=colours["ink"])
            ax.tick_params(which="minor", length=0, labelsize=8, labelcolor=colours["muted"])
        axes[1].set_xlabel("epoch, counted over all stages", color=colours["ink"])
        axes[1].xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
        figure.align_ylabels(axes)
        if shown:
            figure.legend(
                *axes[0].get_legend_handles_labels(), loc="lower center", ncols=columns,
                frameon=False, labelcolor=colours["ink"], fontsize=8.5, handlelength=2.6,
            )  # fmt: skip
        save(figure, path)


def _scatter(
    rows: Sequence[Row],
    split: str,
    value: Callable[[Row], Any],
    label: str,
    path: Target,
    dark: bool,
) -> None:
    """Accuracy with its interval over a cost; the runs' names beside the marks."""
    colours = DARK if dark else LIGHT
    points = [
        (row, look, float(value(row)))
        for row, look in zip(rows, _look(rows, dark), strict=True)
        if finite(value(row)) and value(row) > 0 and row[split] and finite(row[split]["accuracy"])
    ]
    with drawing():
        figure = new_figure(5.0, 3.7, colours)
        ax = figure.subplots()
        figure.subplots_adjust(0.135, 0.14, 0.97, 0.97)
        plain_axes(ax, colours)
        ax.grid(color=colours["grid"], lw=0.8)
        ax.set_xlabel(label, color=colours["ink"])
        ax.set_ylabel(f"{split} accuracy", color=colours["ink"])
        if not points:
            ax.set_xticks([])
            ax.set_yticks([])
            ax.text(
                0.5, 0.5, "not measured", transform=ax.transAxes,
                ha="center", va="center", color=colours["muted"],
            )  # fmt: skip
            save(figure, path)
            return
        _limits(ax, [x for *_, x in points], [row[split] for row, *_ in points])
        marks = []
        for (row, look, x), shift in zip(points, _beside(ax, points), strict=True):
            score = row[split]
            x_pixel, y_pixel = ax.transData.transform((x, score["accuracy"]))
            beside = (x_pixel + shift * figure.dpi / 72, y_pixel)
            at = float(ax.transData.inverted().transform(beside)[0])
            ends = score["accuracy_ci95"]
            ax.plot([at, at], ends, color=look["color"], lw=1.6, ls=look["ls"], zorder=2)
            ax.plot(
                [at], [score["accuracy"]], ls="", ms=7, zorder=3, color=look["color"],
                marker=look["marker"], mfc=look["mfc"], mew=1.5,
            )  # fmt: skip
            marks.append(
                (row["name"], look["color"], at, score["accuracy"], *score["accuracy_ci95"])
            )
        place_labels(ax, marks, colours)
        save(figure, path)


def _limits(ax: Axes, xs: Sequence[float], scores: Sequence[Row]) -> None:
    """Axes around the intervals; the horizontal one logarithmic where costs differ by far."""
    low = min(s["accuracy_ci95"][0] for s in scores)
    high = max(s["accuracy_ci95"][1] for s in scores)
    pad = 0.08 * max(high - low, 0.02)
    ax.set_ylim(low - pad, high + pad)
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0 if high - low > 0.04 else 1))
    least, most = min(xs), max(xs)
    if most > 6 * least:
        ax.set_xscale("log")
        room = (most / least) ** 0.22
        ax.set_xlim(least / room, most * room)
    else:
        room = 0.22 * (most - least) or 0.5 * most
        ax.set_xlim(max(0.0, least - room), most + room)
        ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.xaxis.set_major_formatter(lambda x, _: _short(x))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.tick_params(which="minor", length=0)


def _short(value: float) -> str:
    """Writes 2,257,984 as ``2.26M``."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _beside(ax: Axes, points: Sequence[tuple[Row, Any, float]]) -> list[float]:
    """Shifts in points that set marks of (nearly) the same cost side by side."""
    figure = ax.get_figure()
    assert figure is not None
    pixels = [float(ax.transData.transform((x, 0.5))[0]) * 72 / figure.dpi for *_, x in points]
    shifts = [0.0] * len(points)
    order = sorted(range(len(points)), key=lambda i: pixels[i])
    group: list[int] = []
    for i in [*order, None]:
        if i is not None and (not group or pixels[i] - pixels[group[-1]] < _STEP):
            group.append(i)
            continue
        centre = sum(pixels[j] for j in group) / max(len(group), 1)
        for place, j in enumerate(sorted(group)):
            if len(group) > 1:
                shifts[j] = centre + (place - (len(group) - 1) / 2) * _STEP - pixels[j]
        group = [] if i is None else [i]
    return [s if math.isfinite(s) else 0.0 for s in shifts]
