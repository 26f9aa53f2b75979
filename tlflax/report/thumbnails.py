"""Small pictures inside the page: addresses that need no request."""

import io

import numpy as np
from PIL import Image

from tlflax.report.page import data_uri

THUMBNAIL = 192
"""Longer side of a thumbnail in pixels: twice its size on the page."""


def as_pixels(image: np.ndarray) -> np.ndarray:
    """Brings [H, W], [H, W, 1] or [H, W, 3], uint8 or float in 0..1, to uint8."""
    pixels = np.asarray(image)
    if pixels.dtype.kind == "f":
        pixels = np.nan_to_num(pixels).clip(0, 1) * 255
    pixels = pixels.clip(0, 255).astype(np.uint8)
    return pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels


def enlarged(pixels: np.ndarray) -> np.ndarray:
    """Enlarges a tiny picture in whole steps: pixels of an 8x8 digit stay squares."""
    factor = THUMBNAIL // max(pixels.shape[:2])
    return pixels if factor < 2 else pixels.repeat(factor, 0).repeat(factor, 1)


def picture(image: np.ndarray | None) -> str | None:
    """Turns pixels into a small data URI.

    Args:
      image: [H, W], [H, W, 1] or [H, W, 3]; uint8, or float in 0..1.

    Returns:
      The address of a PNG (tiny pictures, enlarged in whole steps) or JPEG; None for None.
    """
    if image is None:
        return None
    pixels = as_pixels(image)
    stream = io.BytesIO()
    if max(pixels.shape[:2]) <= THUMBNAIL // 2:
        Image.fromarray(enlarged(pixels)).save(stream, "png", optimize=True)
        return data_uri(stream.getvalue(), "png")
    small = Image.fromarray(pixels)
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    small.save(stream, "jpeg", quality=85)
    return data_uri(stream.getvalue(), "jpeg")
