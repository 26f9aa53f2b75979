"""Heat maps over photos, and the outputs of layers as pictures."""

import io
from collections.abc import Mapping, Sequence

import cv2
import matplotlib
import numpy as np

from tlflax.errors import ConfigError
from tlflax.report.canvas import WIDTH, drawing, new_figure, plain_axes, save
from tlflax.report.grid import grid
from tlflax.report.style import DARK, LIGHT, shorten

COLOURS = "inferno"
"""Colour map of heat: its lightness grows all the way, so it is read without colour as well."""


def overlay(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lays heat over a photo; what has none is seen in grey.

    Args:
      pixels: uint8 [H, W, 3].
      heat: float [h, w], not below 0; its largest value is drawn as the hottest.

    Returns:
      uint8 [H, W, 3]; the grey photo alone where there is no heat at all.
    """
    height, width = pixels.shape[:2]
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
    top = float(heat.max())
    if not np.isfinite(top) or top <= 0:
        return np.repeat(grey, 3, -1).astype(np.uint8)
    share = cv2.resize((heat / top).astype(np.float32), (width, height))[..., None]
    colour = matplotlib.colormaps[COLOURS](share[..., 0])[..., :3].astype(np.float32) * 255
    mixed = grey * (1 - 0.75 * share) + colour * 0.75 * share
    return mixed.round().clip(0, 255).astype(np.uint8)


def overlays(
    pixels: np.ndarray,
    heat: np.ndarray,
    captions: Sequence[str],
    title: str = "",
    *,
    dark: bool = False,
) -> bytes:
    """Draws photos, each beside itself with heat over it.

    Args:
      pixels: uint8 [N, S, S, 3].
      heat: float [N, h, w].
      captions: N.
      title: above everything.
      dark: draw for a dark page.

    Returns:
      A PNG.
    """
    images, lines = [], []
    for photo, warm, caption in zip(pixels, heat, captions, strict=True):
        images += [photo, overlay(photo, warm)]
        lines += [caption, "" if warm.max() > 0 else "nothing speaks for it here"]
    return grid(images, lines, 2 if len(pixels) == 1 else 6, title=title, dark=dark)


def activations(
    pixels: np.ndarray,
    outputs: Mapping[str, np.ndarray],
    channels: int = 7,
    *,
    dark: bool = False,
) -> bytes:
    """Draws the outputs of layers for one photo, a row for each layer.

    Of a map [h, w, C] the channels that vary most over it are shown, the one that varies most
    first, each in its own range of values; of tokens [N, C] the whole table; of a vector its
    values.

    Args:
      pixels: uint8 [S, S, 3].
      outputs: layer -> float [...] without batch.
      channels: how many of each map, from 1.
      dark: draw for a dark page.

    Returns:
      A PNG.

    Raises:
      ConfigError: ``channels`` is not a number from 1.
    """
    if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
        raise ConfigError(f"channels must be a whole number from 1, got {channels!r}")
    columns, cell = 1 + channels, WIDTH / (1 + channels)
    label, side, colours = 0.32, 0.94 * cell, DARK if dark else LIGHT
    height = len(outputs) * (cell + label)
    stream = io.BytesIO()
    with drawing():
        figure = new_figure(WIDTH, height, colours)
        # One for all pictures, in inches: axes of their own for each would take most of the time.
        whole = figure.add_axes((0, 0, 1, 1))
        whole.set_axis_off()
        for row, (name, values) in enumerate(outputs.items()):
            bottom = height - (row + 1) * (cell + label)

            def show(column: int, picture: np.ndarray, bottom: float = bottom) -> None:
                left, scale = column * cell, side / max(picture.shape[:2])
                x, y = left + scale * picture.shape[1], bottom + side - scale * picture.shape[0]
                whole.imshow(
                    picture, cmap="viridis", interpolation="nearest" if column else None,
                    extent=(left, x, y, bottom + side), aspect="auto",
                )  # fmt: skip

            shape = " x ".join(map(str, values.shape))
            whole.text(
                0, bottom + cell + 0.06, f"{shorten(name, 40)}   {shape}",
                color=colours["ink"], fontsize=9, fontweight="bold",
            )  # fmt: skip
            show(0, pixels)
            if values.ndim == 3:
                order = np.argsort(-values.var(axis=(0, 1)), kind="stable")[:channels]
                for column, k in enumerate(order, start=1):
                    show(column, values[..., k])
                    whole.text(
                        (column + 0.03) * cell, bottom + 0.91 * cell, str(k), va="top", fontsize=7,
                        color="white", bbox={"facecolor": "#0008", "lw": 0, "pad": 1},
                    )  # fmt: skip
                continue
            box = 1 / columns, bottom / height, (channels - 0.06) / columns, side / height
            ax = figure.add_axes(box)
            plain_axes(ax, colours)
            ax.set_xticks([])
            ax.set_yticks([])
            if values.ndim == 2:
                ax.imshow(values, cmap="viridis", aspect="auto", interpolation="nearest")
            else:
                x, y = np.arange(values.size), values.ravel()
                ax.vlines(x, 0, y, colors=colours["train"], lw=0.7)
                ax.axhline(0, color=colours["muted"], lw=0.6)
                ax.margins(x=0.005)
        whole.set(xlim=(0, WIDTH), ylim=(0, height))
        save(figure, stream)
    return stream.getvalue()
