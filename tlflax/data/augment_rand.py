"""RandAugment: a few operations, drawn from a fixed list, at one strength for all."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from tlflax.data.augment_values import require

# What geometric operations leave empty, as in the authors' code (TPU's EfficientNet,
# autoaugment.py): the middle of the range.
_GREY = (128, 128, 128)

Operation = Callable[[np.ndarray, float], np.ndarray]


@dataclass(frozen=True)
class RandAugment:
    """RandAugment (Cubuk et al., arXiv:1909.13719): n operations at one magnitude.

    Each operation is drawn from the paper's fourteen, all equally likely, with repetition:

    ==========================  ====================================  =====================
    operation                   at magnitude m = magnitude / 10       direction
    ==========================  ====================================  =====================
    identity                    nothing                               -
    autocontrast                each channel stretched to 0..255      -
    equalize                    each channel's histogram flattened    -
    rotate                      30 m degrees                          either, at random
    shear_x, shear_y            0.3 m                                 either, at random
    translate_x, translate_y    0.45 m of the side                    either, at random
    color, contrast             factor 1 +- 0.9 m                     either, at random
    brightness, sharpness       factor 1 +- 0.9 m                     either, at random
    posterize                   8 - 4 m bits, rounded                 -
    solarize                    inverted from level 256 (1 - m) on    -
    ==========================  ====================================  =====================

    The ends of the scales are AutoAugment's (arXiv:1805.09501; 150 of 331 pixels for the
    translations). Everything grows stronger with the magnitude; in the authors' code solarize
    grows weaker and the factors run from 0.1 to 1.9. torchvision counts magnitudes to 30: its 9
    is 3 here. The paper chose n=2, magnitude=9 for ImageNet; on another set look at what it does
    first (``tl.dataset(...).show(augment="randaugment")``).

    Attributes:
        size: side of images and results.
        n: operations for each image, from 1 on.
        magnitude: strength in 0..10.
        flip: whether every other image is mirrored left-right first.

    Raises:
        ConfigError: a value is out of range.
    """

    size: int
    n: int = 2
    magnitude: float = 9.0
    flip: bool = False

    def __post_init__(self):
        require("randaugment", "n", self.n, 1 <= self.n <= 10, "in 1..10")
        require("randaugment", "magnitude", self.magnitude, 0 <= self.magnitude <= 10, "in 0..10")

    @property
    def margin(self) -> float:
        """No more pixels than are returned."""
        return 1.0

    def apply(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draws and applies: uint8 [size, size, 3] to the same."""
        if self.flip and rng.random() < 0.5:
            image = np.ascontiguousarray(image[:, ::-1])
        for name, level in self.draw(rng):
            image = OPERATIONS[name](image, level)
        return image

    def draw(self, rng: np.random.Generator) -> list[tuple[str, float]]:
        """Draws the operations for one image: n pairs of (name, magnitude in -1..1)."""
        names = list(OPERATIONS)
        chosen = rng.integers(len(names), size=self.n)
        signs = 1 - 2 * rng.integers(2, size=self.n)
        return [
            (names[k], float(sign) * self.magnitude / 10)
            for k, sign in zip(chosen, signs, strict=True)
        ]


def _affine(image: np.ndarray, matrix: list[list[float]]) -> np.ndarray:
    """Samples at matrix @ (x, y, 1) from the image's centre; grey outside."""
    x, y = (image.shape[1] - 1) / 2, (image.shape[0] - 1) / 2
    m = np.array(matrix, np.float64)
    m[:, 2] += np.array([x, y]) - m[:, :2] @ (x, y)
    return cv2.warpAffine(
        image, m, image.shape[1::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT, borderValue=_GREY,
    )  # fmt: skip


def _rotate(image: np.ndarray, level: float) -> np.ndarray:
    angle = math.radians(30 * level)
    cos, sin = math.cos(angle), math.sin(angle)
    return _affine(image, [[cos, -sin, 0], [sin, cos, 0]])


def _pil(change: Callable[[Image.Image, float], Image.Image]) -> Operation:
    return lambda image, level: np.asarray(change(Image.fromarray(image), level))


def _enhance(kind: Callable) -> Operation:
    return _pil(lambda image, level: kind(image).enhance(1 + 0.9 * level))


OPERATIONS: dict[str, Operation] = {
    "identity": lambda image, level: image,
    "autocontrast": _pil(lambda image, level: ImageOps.autocontrast(image)),
    "equalize": _pil(lambda image, level: ImageOps.equalize(image)),
    "rotate": _rotate,
    "shear_x": lambda image, v: _affine(image, [[1, 0.3 * v, 0], [0, 1, 0]]),
    "shear_y": lambda image, v: _affine(image, [[1, 0, 0], [0.3 * v, 1, 0]]),
    "translate_x": lambda image, v: _affine(image, [[1, 0, 0.45 * v * image.shape[1]], [0, 1, 0]]),
    "translate_y": lambda image, v: _affine(image, [[1, 0, 0], [0, 1, 0.45 * v * image.shape[0]]]),
    "color": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "posterize": _pil(lambda image, v: ImageOps.posterize(image, round(8 - 4 * abs(v)))),
    "solarize": _pil(lambda image, v: ImageOps.solarize(image, round(256 * (1 - abs(v))))),
}
"""Name -> change of uint8 [H, W, 3] by a magnitude in -1..1; the image itself is left alone."""
