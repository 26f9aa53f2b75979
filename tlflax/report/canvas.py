"""What both kinds of plot share: the canvas, its resolution and its text settings."""

import logging
import os
import warnings
from contextlib import contextmanager
from typing import IO, Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager

DPI = 200
"""The page shows 100 dots per inch: every pixel twice."""

WIDTH = 7.0  # inches

# No mathtext and no TeX: a class called "a$b$" is shown as it is written.
SETTINGS = {"text.usetex": False, "text.parse_math": False, "font.size": 9.0}

# Tried in this order for what DejaVu Sans lacks; only those that are installed are used.
FALLBACK_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "PingFang SC",
    "Hiragino Sans",
    "Microsoft YaHei",
    "Malgun Gothic",
    "Arial Unicode MS",
)

Target = str | os.PathLike | IO[bytes]


@contextmanager
def drawing():
    """Sets the text settings, and keeps names in scripts that the font lacks from failing."""
    font_log = logging.getLogger("matplotlib.font_manager")
    level = font_log.level
    installed = set(fontManager.get_font_names())
    family = ["DejaVu Sans", *(font for font in FALLBACK_FONTS if font in installed)]
    settings: Any = SETTINGS | {"font.family": family}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # Boxes in the picture; the page itself spells such names correctly.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        font_log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            font_log.setLevel(level)


def new_figure(width: float, height: float, colours: dict[str, str], **options) -> Figure:
    """Returns a figure (size in inches) with a canvas of its own: nothing global, no pyplot."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor=colours["background"], **options)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Target) -> None:
    """Writes a figure as PNG."""
    # Without the version of matplotlib in it the same run writes the same bytes.
    figure.savefig(path, format="png", dpi=DPI, metadata={"Software": None})


def plain_axes(ax: Axes, colours: dict[str, str]) -> None:
    """Takes away everything around the axes but the labels."""
    ax.set_facecolor(colours["background"])
    for side in ax.spines.values():
        side.set_visible(False)
    ax.tick_params(length=0, colors=colours["muted"], labelsize=8.5)
