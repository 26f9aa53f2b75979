"""The reliability diagram as a picture: how often a classifier is right when it says p."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from tlflax.evaluate.statistics import wilson
from tlflax.report.canvas import WIDTH, Target, drawing, new_figure, plain_axes, save
from tlflax.report.style import DARK, LIGHT

Bins = Sequence[dict[str, Any]]


def reliability(calibration: dict[str, Any], path: Target, *, dark: bool = False) -> None:
    """Draws accuracy against probability, bin by bin, and the number of images in each bin.

    Beside it, where the report has one, the same after temperature scaling.

    Args:
      calibration: the report's entry, see `tlflax.evaluate.reliability.calibration`.
      path: a file name or an open binary file, written as PNG.
      dark: draw for a dark page.
    """
    colours = DARK if dark else LIGHT
    after, fitted = calibration["after"], calibration["temperature"]
    panels = [("as it is", calibration)]
    if after:
        panels.append((f"at temperature {fitted['value']:.3g}", after))
    with drawing():
        width = WIDTH if after else WIDTH / 2 + 0.6
        figure = new_figure(width, 4.7, colours)
        axes = figure.subplots(
            2, len(panels), sharex=True, sharey="row", squeeze=False, height_ratios=[3.2, 1]
        )
        figure.subplots_adjust(0.65 / width, 0.17, 1 - 0.2 / width, 0.93, wspace=0.16, hspace=0.1)
        for column, (title, entry) in enumerate(panels):
            top, bottom = axes[:, column]
            top.set_title(
                f"{title}: ECE {100 * entry['ece']:.1f}%", loc="left", fontsize=10,
                fontweight="bold", color=colours["ink"],
            )  # fmt: skip
            _draw_accuracy(top, entry["reliability"], colours)
            _draw_counts(bottom, entry["reliability"], colours)
            bottom.set_xlabel("probability of the answer", color=colours["ink"])
        axes[0, 0].set_ylabel("right", color=colours["ink"])
        axes[1, 0].set_ylabel("images", color=colours["ink"])
        most = max(b["n"] for _, entry in panels for b in entry["reliability"])
        axes[1, 0].set_ylim(0, 1.3 * max(1, most))
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="lower center", ncols=3, frameon=False, fontsize=8.5,
            labelcolor=colours["ink"],
        )  # fmt: skip
        save(figure, path)


def _draw_accuracy(ax: Axes, bins: Bins, colours: dict) -> None:
    plain_axes(ax, colours)
    ax.grid(axis="y", color=colours["grid"], lw=0.8)
    ax.set_axisbelow(True)
    filled = [b for b in bins if b["n"]]
    middles = [(b["low"] + b["high"]) / 2 for b in filled]
    heights = [b["accuracy"] for b in filled]
    width = 0.86 / len(bins)
    ax.bar(middles, heights, width, color=colours["train"], alpha=0.75, label="right")
    ends = [wilson(round(b["accuracy"] * b["n"]), b["n"]) for b in filled]
    low = [h - e[0] for h, e in zip(heights, ends, strict=True)]
    high = [e[1] - h for h, e in zip(heights, ends, strict=True)]
    ax.errorbar(
        middles, heights, (low, high), fmt="none", ecolor=colours["ink"], elinewidth=1,
        label="95% interval",
    )  # fmt: skip
    ax.plot(
        [b["confidence"] for b in filled], [b["confidence"] for b in filled], "o", ms=4.5,
        color=colours["validation"], zorder=4, label="what it said (mean)",
    )  # fmt: skip
    ax.plot([0, 1], [0, 1], color=colours["validation"], lw=1, ls=(0, (4, 2)), zorder=3)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1.02)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _draw_counts(ax: Axes, bins: Bins, colours: dict) -> None:
    plain_axes(ax, colours)
    ax.set_yticks([])
    width = 0.86 / len(bins)
    middles = [(b["low"] + b["high"]) / 2 for b in bins]
    ax.bar(middles, [b["n"] for b in bins], width, color=colours["muted"], alpha=0.6)
    for middle, b in zip(middles, bins, strict=True):
        if b["n"]:
            text = f"{b['n']:,}" if b["n"] < 10_000 else f"{b['n'] / 1000:.0f}k"
            ax.annotate(
                text, (middle, b["n"]), xytext=(0, 2), textcoords="offset points",
                ha="center", fontsize=6.5, color=colours["ink"],
            )  # fmt: skip
