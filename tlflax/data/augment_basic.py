"""Flips, parts and small turns, by one uint8 warp."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from tlflax.data.augment_values import require


@dataclass(frozen=True)
class Flip:
    """Left-right flip of every other image."""

    size: int

    @property
    def margin(self) -> float:
        """No more pixels than are returned."""
        return 1.0

    def apply(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns the image or its mirror image."""
        return np.ascontiguousarray(image[:, ::-1]) if rng.random() < 0.5 else image


@dataclass(frozen=True)
class FlipCrop:
    """A random part of the image, slightly stretched, and a flip of every other image.

    Attributes:
        size: side of the result.
        scale: smallest share of the area that is kept; the largest is 1. The default 0.64 keeps
            4/5 of each side: mild, as small training sets want it.
        aspect: largest change of width against height, as a factor.
        flip: whether to flip.
    """

    size: int
    scale: float = 0.64
    aspect: float = 1.1
    flip: bool = True

    def __post_init__(self):
        require("flip_crop", "scale", self.scale, 0 < self.scale <= 1, "in (0, 1]")
        require("flip_crop", "aspect", self.aspect, 1 <= self.aspect <= 4, "in [1, 4]")

    @property
    def margin(self) -> float:
        """Enough pixels for the smallest part, but at most 1.25 a side."""
        return min(1.25, 1 / math.sqrt(self.scale))

    def apply(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Cuts, stretches and flips."""
        area = rng.uniform(self.scale, 1.0)
        stretch = math.exp(rng.uniform(-1, 1) * math.log(self.aspect) / 2)
        x, y, mirrored = rng.random(3)
        width = min(1.0, math.sqrt(area) * stretch)
        height = min(1.0, math.sqrt(area) / stretch)
        side_y, side_x = image.shape[:2]
        # Source position of result pixel i: offset + (i + 1/2) * step - 1/2, centre to centre.
        step_x, step_y = width * side_x / self.size, height * side_y / self.size
        left, top = x * (1 - width) * side_x, y * (1 - height) * side_y
        if self.flip and mirrored < 0.5:
            left, step_x = left + width * side_x, -step_x
        matrix = np.array(
            [[step_x, 0, left + step_x / 2 - 0.5], [0, step_y, top + step_y / 2 - 0.5]]
        )
        return _warp(image, matrix, self.size)


@dataclass(frozen=True)
class ShiftRotate:
    """Small rotation, shift and zoom without a flip, for digits and letters.

    Attributes:
        size: side of the result.
        rotation: largest angle in degrees, either way.
        shift: largest shift as a share of the side, either way.
        zoom: largest change of scale, either way.
    """

    size: int
    rotation: float = 10.0
    shift: float = 0.1
    zoom: float = 0.1

    def __post_init__(self):
        require("shift_rotate", "rotation", self.rotation, 0 <= self.rotation <= 180, "0..180")
        require("shift_rotate", "shift", self.shift, 0 <= self.shift < 1, "in [0, 1)")
        require("shift_rotate", "zoom", self.zoom, 0 <= self.zoom < 1, "in [0, 1)")

    @property
    def margin(self) -> float:
        """No more pixels than are returned."""
        return 1.0

    def apply(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Warps about the centre; the edge is repeated outwards."""
        turn, dx, dy, grow = rng.uniform(-1, 1, 4)
        angle = math.radians(self.rotation) * turn
        step = image.shape[0] / self.size / (1 + self.zoom * grow)
        rotate = step * np.array(
            [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        )
        shift = np.array([dx, dy]) * self.shift * image.shape[0]
        middle = np.full(2, (self.size - 1) / 2)
        offset = (np.array(image.shape[1::-1]) - 1) / 2 - rotate @ middle + shift
        return _warp(image, np.column_stack([rotate, offset]), self.size)


def _warp(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Samples `image` at matrix @ (x, y, 1) for every result pixel, edges repeated."""
    return cv2.warpAffine(
        image,
        matrix,
        (size, size),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
