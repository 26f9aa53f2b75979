"""Names beside marks, where they cover least."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from tlflax.report.style import shorten

Mark = tuple[str, float, float, float, float]
"""Name, x, y, and the lower and upper end of the vertical interval; in data coordinates."""

# (dx, dy) in points, horizontal and vertical alignment; the first that is free is taken.
_PLACES = [
    (sign * dx, dy, "left" if sign > 0 else "right", "center")
    for dy in (0, 9, -9, 18, -18, 27, -27, 38, -38, 50, -50, 64, -64)
    for dx in (8, 20)
    for sign in (1, -1)
]


def place_labels(ax: Axes, marks: Sequence[Mark], colours: dict[str, str]) -> None:
    """Writes each name near its mark: over no mark, interval or other name if there is room.

    Args:
      ax: with its final limits.
      marks: what is drawn.
      colours: of the page.
    """
    figure = ax.figure
    renderer = figure.canvas.get_renderer()  # pyright: ignore[reportAttributeAccessIssue]
    scale = figure.dpi / 72
    inside = ax.get_window_extent(renderer)
    taken = [_box(ax, mark, 5 * scale) for mark in marks]
    taken += [_line(ax, mark, 1.5 * scale) for mark in marks]
    # The outer ones first: they have room on one side at least.
    for name, x, y, *_ in sorted(marks, key=lambda m: abs(m[2] - sum(ax.get_ylim()) / 2)):
        found = []
        for rank, (dx, dy, ha, va) in enumerate(_PLACES):
            text = ax.annotate(
                shorten(name, 30), (x, y), xytext=(dx, dy), textcoords="offset points",
                ha=ha, va=va, fontsize=8.5, color=colours["ink"], zorder=4,
            )  # fmt: skip
            box = text.get_window_extent(renderer)
            cost = sum(_overlap(box, other) for other in taken) + 3 * _outside(box, inside)
            text.remove()
            found.append((cost, rank, box))
            if not cost:
                break
        _, rank, box = min(found, key=lambda f: f[:2])
        dx, dy, ha, va = _PLACES[rank]
        ax.annotate(
            shorten(name, 30), (x, y), xytext=(dx, dy), textcoords="offset points",
            ha=ha, va=va, fontsize=8.5, color=colours["ink"], zorder=4,
            # A name that is not beside its mark is tied to it.
            arrowprops={"arrowstyle": "-", "color": colours["muted"], "lw": 0.6, "shrinkB": 4}
            if abs(dy) > 9 or abs(dx) > 8
            else None,
        )  # fmt: skip
        taken.append(box)


def _box(ax: Axes, mark: Mark, size: float) -> Bbox:
    x, y = ax.transData.transform((mark[1], mark[2]))
    return Bbox.from_extents(x - size, y - size, x + size, y + size)


def _line(ax: Axes, mark: Mark, size: float) -> Bbox:
    x, low = ax.transData.transform((mark[1], mark[3]))
    _, high = ax.transData.transform((mark[1], mark[4]))
    return Bbox.from_extents(x - size, low, x + size, high)


def _overlap(a: Bbox, b: Bbox) -> float:
    shared = Bbox.intersection(a, b)
    return shared.width * shared.height if shared is not None else 0.0


def _outside(box: Bbox, frame: Bbox) -> float:
    return box.width * box.height - _overlap(box, frame)
