"""Pictures of a finished run for a notebook, from the small ones that its directory holds."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from tlflax.report.grid import grid
from tlflax.report.style import certainty

Entries = Sequence[Mapping[str, Any]]


def mistakes(entries: Entries) -> bytes:
    """Draws the most confident mistakes as a PNG; ``entries`` as `sections.mistakes` makes them."""
    shown = [e for e in entries if e["picture"]]
    captions = [f"{e['true']}: {e['predicted']} {certainty(e['probability'])}" for e in shown]
    title = "Most confident mistakes (what it is: what was said, and with which probability)"
    return grid([_pixels(e["picture"]) for e in shown], captions, 4, title=title)


def samples(entries: Entries) -> bytes:
    """Draws training images as a PNG, class by class; ``entries`` are of `sections.samples`."""
    images = [_pixels(picture) for entry in entries for picture in entry["pictures"]]
    captions = [entry["name"] for entry in entries for _ in entry["pictures"]]
    return grid(images, captions, 6, title="Training images")


def _pixels(address: str) -> np.ndarray:
    """Pixels [H, W, 3] of a data URI."""
    content = base64.b64decode(address.partition("base64,")[2])
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))
