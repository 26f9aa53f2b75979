"""Small images for the tests of tlflax.data."""

import io

import numpy as np
from PIL import Image


def pixels(seed, height=12, width=10):
    """Smooth random uint8 RGB, so that JPEG changes little."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (3, 3, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR))


def encoded(image, fmt="PNG", **options):
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def png(seed, height=12, width=10):
    return encoded(pixels(seed, height, width))


def write_tree(root, counts, seed=0):
    """Writes PNGs: counts maps 'train/cat' (or 'cat') to a number. Returns root."""
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            seed += 1
            (root / folder / f"{i:03d}.png").write_bytes(png(seed))
    return root
