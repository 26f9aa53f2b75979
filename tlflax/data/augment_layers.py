"""The augmentation of Keras' preprocessing layers, number for number."""

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from tlflax.data.augment_values import pair, require, require_choice
from tlflax.data.warp import to_uint8, warp

_FLIPS = ("horizontal", "vertical", "horizontal_and_vertical", "none")
# jax.scipy.ndimage, with which Keras' layers compute, blends the border's pixels with what is
# outside and repeats after n pixels: scipy's 'grid-' variants.
_FILLS = {
    "reflect": "reflect",
    "nearest": "nearest",
    "constant": "grid-constant",
    "wrap": "grid-wrap",
}
Factor = float | tuple[float, float]


@dataclass(frozen=True)
class KerasLayers:
    """RandomFlip, RandomRotation, RandomZoom, RandomTranslation, RandomContrast, RandomBrightness.

    One after the other in this order, those of factor 0 left out. Arguments, distributions and
    arithmetic are those of Keras 3.15's layers (on JAX). For the same parameters `transform`
    differs from the layers' ``transform_images`` by less than 0.02 of 255 up to 300 pixels (seen
    on noise); `apply` rounds once, at the end, to whole levels. The draws come from another
    generator than Keras'.

    Kept from Keras, though it may surprise:

    - 'horizontal_and_vertical' mirrors both ways at once or not at all.
    - ``zoom`` is the share of the image by which more is shown: positive zooms out.
    - a number for ``contrast`` draws factors between 1 and 1 + contrast; for both ways write
      (0.2, 0.2).

    Attributes:
        size: side of images and results.
        flip: 'horizontal' (left-right), 'vertical', 'horizontal_and_vertical' or 'none'; every
            other image is flipped.
        rotation: largest angle as a fraction of a full turn, either way, or (low, high);
            positive is counter-clockwise.
        zoom: largest change, or (low, high), the same for width and height.
        translation: largest shift as a share of the side, or (low, high), drawn for height and
            width each; positive is down and right.
        contrast: factors are drawn from [1 - low, 1 + high]; the distance to each channel's mean
            is multiplied.
        brightness: largest share of 255 that is added, either way, or (low, high).
        fill_mode: what is outside the image: 'reflect', 'nearest', 'constant' or 'wrap'.
        fill_value: level that 'constant' fills in.

    Raises:
        ConfigError: a value is out of range, or nothing would change.
    """

    size: int
    flip: str = "horizontal"
    rotation: Factor = 0.1
    zoom: Factor = 0.1
    translation: Factor = 0.0
    contrast: Factor = 0.0
    brightness: Factor = 0.0
    fill_mode: str = "reflect"
    fill_value: float = 0.0

    def __post_init__(self):
        require_choice("keras_layers", "flip", self.flip, _FLIPS)
        require_choice("keras_layers", "fill_mode", self.fill_mode, _FILLS)
        bounds = {
            "rotation": (-1, 1, "in 0..1 (a full turn) or (low, high) in -1..1"),
            "zoom": (-0.99, 1, "in 0..0.99 or (low, high) in -0.99..1"),
            "translation": (-1, 1, "in 0..1 or (low, high) in -1..1"),
            "contrast": (0, 1, "in 0..1 or (low, high) in 0..1"),
            "brightness": (-1, 1, "in 0..1 or (low, high) in -1..1"),
        }
        for key, (low, high, wanted) in bounds.items():
            value = getattr(self, key)
            if isinstance(value, tuple):
                valid = low <= min(value) and max(value) <= high
            else:
                valid = 0 <= value <= (min(high, -low) if low else high)
            require("keras_layers", key, value, valid, wanted)
        require(
            "keras_layers", "fill_value", self.fill_value, 0 <= self.fill_value <= 255,
            "a level in 0..255",
        )  # fmt: skip
        changes = any(np.any(getattr(self, key)) for key in bounds)
        require(
            "keras_layers", "flip", self.flip, changes or self.flip != "none",
            "set, or another argument: nothing is changed without one",
        )  # fmt: skip

    @property
    def margin(self) -> float:
        """No more pixels than are returned: Keras' layers see resized images."""
        return 1.0

    def apply(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draws, transforms and rounds: uint8 [size, size, 3] to the same."""
        return to_uint8(self.transform(image, self.draw(rng, image.shape[:2])))

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, Any]:
        """Draws the parameters of one image from Keras' distributions.

        Args:
            rng: where the draws come from.
            shape: (rows, columns) of the image.

        Returns:
            flip (bool), angle (degrees), zoom (scale: 1.1 shows a tenth more), translation
            ((right, down) in pixels), contrast (factor) and brightness (levels); None for what
            is not asked for.
        """
        rows, columns = shape[:2]
        flip = bool(rng.random() <= 0.5)
        angle, zoom = rng.uniform(*pair(self.rotation)), rng.uniform(*pair(self.zoom))
        down, right = rng.uniform(*pair(self.translation), 2)
        low, high = self._contrasts
        contrast, brightness = rng.uniform(1 - low, 1 + high), rng.uniform(*pair(self.brightness))
        return {
            "flip": flip and self.flip != "none",
            "angle": 360 * angle if np.any(self.rotation) else None,
            "zoom": 1 + zoom if np.any(self.zoom) else None,
            "translation": (right * columns, down * rows) if np.any(self.translation) else None,
            "contrast": contrast if np.any(self.contrast) else None,
            "brightness": 255 * brightness if np.any(self.brightness) else None,
        }

    @property
    def _contrasts(self) -> tuple[float, float]:
        return pair(self.contrast) if isinstance(self.contrast, tuple) else (0.0, self.contrast)

    def transform(self, image: np.ndarray, parameters: dict[str, Any]) -> np.ndarray:
        """Applies parameters of `draw`, each to the result of the one before, as layers do.

        Args:
            image: uint8 or float32 [H, W, 3].
            parameters: as from `draw`; those that are absent or None change nothing.

        Returns:
            float32 [H, W, 3], not rounded, within 0..255.
        """
        pixels = np.asarray(image, np.float32)
        if parameters.get("flip"):
            down = -1 if "vertical" in self.flip else 1
            right = -1 if "horizontal" in self.flip else 1
            pixels = pixels[::down, ::right]
        for matrix in _matrices(parameters, pixels.shape):
            pixels = warp(pixels, matrix, _FILLS[self.fill_mode], self.fill_value)
        if (factor := parameters.get("contrast")) is not None:
            # factor * (pixel - mean) + mean, a channel at a time.
            mean = np.array(cv2.mean(pixels)[:3])
            pixels = cv2.transform(
                pixels, np.column_stack([factor * np.eye(3), (1 - factor) * mean])
            )
            pixels = np.clip(pixels, 0, 255)
        if (levels := parameters.get("brightness")) is not None:
            pixels = np.clip(pixels + np.float32(levels), 0, 255)
        return np.ascontiguousarray(pixels)


def _matrices(parameters: dict[str, Any], shape: tuple[int, ...]) -> list[np.ndarray]:
    """Positions of the result's pixels in the image, a [2, 3] for each change of geometry."""
    # The centre of the pixels' midpoints.
    x, y = (shape[1] - 1) / 2, (shape[0] - 1) / 2
    found = []
    if (angle := parameters.get("angle")) is not None:
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        turn = [[cos, -sin, x - x * cos + y * sin], [sin, cos, y - x * sin - y * cos]]
        found.append(np.array(turn))
    if (zoom := parameters.get("zoom")) is not None:
        found.append(np.array([[zoom, 0, x * (1 - zoom)], [0, zoom, y * (1 - zoom)]]))
    if (shift := parameters.get("translation")) is not None:
        found.append(np.array([[1, 0, -shift[0]], [0, 1, -shift[1]]], np.float64))
    return found
