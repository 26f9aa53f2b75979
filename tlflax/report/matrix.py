"""The confusion matrix as a picture, for two classes as well as for a hundred."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

from tlflax.evaluate.statistics import wilson
from tlflax.report.canvas import WIDTH, Target, drawing, new_figure, plain_axes, save
from tlflax.report.style import DARK, LIGHT, interval, percent, shorten


def confusion(
    matrix: Sequence[Sequence[int]] | np.ndarray,
    class_names: Sequence[str],
    path: Target,
    *,
    dark: bool = False,
) -> None:
    """Draws a confusion matrix, coloured by the share of each true class.

    Up to 12 classes carry counts and row percentages, up to 24 counts, more only colours; with
    more than 40 classes not every name is written.

    Args:
      matrix: counts [K, K], rows for the true classes.
      class_names: K names.
      path: a file name or an open binary file, written as PNG.
      dark: draw for a dark page.
    """
    colours = DARK if dark else LIGHT
    counts = np.asarray(matrix, int)
    k = len(class_names)
    if counts.shape != (k, k):
        raise ValueError(f"confusion: {k} class names need a {k}x{k} matrix, got {counts.shape}")
    rows = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, rows, out=np.full((k, k), np.nan), where=rows > 0)
    side = 4.6 if k <= 3 else 5.6 if k <= 6 else WIDTH
    every = int(np.ceil(k / 40))
    names = [shorten(str(name), 18 if k <= 12 else 24) for name in class_names]
    with drawing():
        figure = new_figure(side, side, colours, layout="constrained")
        ax = figure.subplots()
        plain_axes(ax, colours)
        colour_map = LinearSegmentedColormap.from_list("shares", colours["ramp"])
        colour_map = colour_map.with_extremes(bad=colours["empty"])
        ax.imshow(shares, cmap=colour_map, vmin=0, vmax=1, interpolation="nearest")
        label_size = 9 if k <= 12 else 7.5 if k <= 30 else 6.5
        ticks = range(0, k, every)
        flat = k <= 6 and max(map(len, names)) <= 42 // k
        ax.set_xticks(
            ticks, names[::every], fontsize=label_size, color=colours["ink"],
            **({} if flat else {"rotation": 90 if k > 12 else 45, "rotation_mode": "anchor",
                                "ha": "right", "va": "center" if k > 12 else "top"}),
        )  # fmt: skip
        ax.set_yticks(ticks, names[::every], fontsize=label_size, color=colours["ink"])
        ax.set_xlabel("predicted", color=colours["muted"])
        ax.set_ylabel("true", color=colours["muted"])
        if k <= 40:
            # Gaps between the cells, in the colour of the page.
            ax.set_xticks(np.arange(k + 1) - 0.5, minor=True)
            ax.set_yticks(np.arange(k + 1) - 0.5, minor=True)
            ax.grid(which="minor", color=colours["background"], lw=1.5 if k <= 12 else 0.8)
            ax.tick_params(which="minor", length=0)
        if k <= 24:
            _write_cells(ax, counts, shares, colours)
        n, right = int(counts.sum()), int(np.trace(counts))
        # Left-aligned with the names, which constrained layout places only while drawing.
        figure.suptitle(
            f"Accuracy {percent(right / n)} ({right:,} of {n:,}), "
            f"95% interval {interval(wilson(right, n))}" if n else "No labelled images",
            fontsize=10 if side > 5 else 9, color=colours["ink"], fontweight="bold",
        )  # fmt: skip
        save(figure, path)


def _write_cells(ax: Axes, counts: np.ndarray, shares: np.ndarray, colours: dict) -> None:
    """Writes counts, and with up to 12 classes row percentages, into the cells."""
    k = len(counts)
    size = float(np.interp(k, [2, 4, 7, 12, 13, 24], [18, 14, 12, 9.5, 9, 6.5]))
    small = max(6.0, 0.62 * size)
    digits = 1 if k <= 4 else 0
    smallest = 10.0 ** -(2 + digits)
    for (i, j), value in np.ndenumerate(counts):
        share = np.nan_to_num(shares[i, j])
        ink = colours["on_ramp"] if share > 0.5 else colours["ink"]
        texts = [(f"{value:,}", size, 0.0, "bold" if i == j else "normal")]
        if not value:
            texts = [("0", small, 0.0, "normal")] if k <= 12 else []
            ink = colours["muted"]
        elif k <= 12:
            percentage = f"{100 * share:.{digits}f}%"
            if share < smallest:
                percentage = f"<{100 * smallest:.{digits}f}%"
            texts = [
                (texts[0][0], size, 0.45 * size, texts[0][3]),
                (percentage, small, -0.75 * size, "normal"),
            ]
        for text, points, up, weight in texts:
            ax.annotate(
                text, (j, i), xytext=(0, up), textcoords="offset points", color=ink,
                ha="center", va="center", fontsize=points, fontweight=weight,
            )  # fmt: skip
