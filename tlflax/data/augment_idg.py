"""The augmentation of Keras' `ImageDataGenerator`, number for number."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageEnhance

from tlflax.data.augment_values import require, require_choice
from tlflax.data.warp import to_uint8, warp

_FILLS = ("nearest", "reflect", "constant", "wrap")
_SCALED = "leave it out: pixels are scaled inside the network, as its weights want it"
_CENTRED = "leave it out: pixels are centred and scaled inside the network, as its weights want it"
Shift = float | tuple[float, ...]


@dataclass(frozen=True)
class KerasIDG:
    """Rotation, shift, shear, zoom, flips and brightness as ``ImageDataGenerator`` has them.

    Arguments, distributions and arithmetic are those of Keras 3.15
    (``keras.src.legacy.preprocessing.image``). For the same parameters `transform` differs from
    ``ImageDataGenerator.apply_transform`` by less than 0.02 of 255 up to 300 pixels (seen on
    noise; 'constant' and 'wrap' by nothing); `apply` rounds once, at the end, to whole levels.
    With ``brightness_range`` Keras cuts off fractions before it changes the brightness, and so
    does this. The draws come from another generator than Keras'.

    Kept from Keras, though it may surprise:

    - ``height_shift_range`` moves pixels along the rows, left and right, and
      ``width_shift_range`` up and down (keras-team/keras issue 17398).
    - ``shear_range`` is in degrees: 0.2 changes nothing that can be seen.
    - ``zoom_range=0.2`` draws the zooms of width and height each for itself, between 0.8 (larger)
      and 1.2 (smaller).

    With `fill_mode` 'nearest' and 'reflect' it takes about a sixth of Keras' time (OpenCV 5, images
    of 150 pixels); 'constant' and 'wrap' cost what they cost in Keras, because they are scipy's
    there and here. So does everything with OpenCV up to 4.13, which is too coarse.

    Attributes:
        size: side of images and results.
        rotation_range: largest angle in degrees, either way.
        width_shift_range: below 1 the largest shift as a share of the side, from 1 on in pixels,
            either way. A whole number k draws whole pixels below k; a tuple draws one of its
            numbers, and the sign.
        height_shift_range: the same.
        shear_range: largest angle in degrees, either way.
        zoom_range: largest change of scale, or (lowest, highest) scale; above 1 shows more than
            the image.
        horizontal_flip: whether every other image is mirrored left-right.
        vertical_flip: whether every other image is mirrored top-bottom.
        brightness_range: (lowest, highest) factor, or None.
        channel_shift_range: largest number of levels added to all pixels, either way; kept
            within the image's own darkest and lightest value.
        fill_mode: what is outside the image: 'nearest', 'reflect', 'constant' or 'wrap'.
        cval: level that 'constant' fills in.

    Raises:
        ConfigError: a value is out of range, or nothing would change.
    """

    size: int
    rotation_range: float = 0.0
    width_shift_range: Shift = 0.0
    height_shift_range: Shift = 0.0
    shear_range: float = 0.0
    zoom_range: float | tuple[float, float] = 0.0
    horizontal_flip: bool = False
    vertical_flip: bool = False
    brightness_range: tuple[float, float] | None = None
    channel_shift_range: float = 0.0
    fill_mode: str = "nearest"
    cval: float = 0.0

    # Arguments of ImageDataGenerator that have their place somewhere else.
    elsewhere: ClassVar[dict[str, str]] = {
        "rescale": _SCALED,
        "preprocessing_function": _SCALED,
        "featurewise_center": _CENTRED,
        "featurewise_std_normalization": _CENTRED,
        "samplewise_center": _CENTRED,
        "samplewise_std_normalization": _CENTRED,
        "validation_split": "set data_splits in the config (val=0.2 in tl.dataset)",
    }

    def __post_init__(self):
        def check(key: str, valid: bool, wanted: str) -> None:
            require("keras_idg", key, getattr(self, key), valid, wanted)

        check("rotation_range", 0 <= self.rotation_range <= 360, "degrees in 0..360")
        for key in ("width_shift_range", "height_shift_range"):
            value = getattr(self, key)
            if isinstance(value, tuple):
                continue
            check(key, value >= 0, "at least 0")
            none = isinstance(value, int) and value == 1
            check(key, not none, "1.0 (up to a pixel): whole pixels below 1 are none at all")
        check("shear_range", 0 <= self.shear_range < 90, "degrees in [0, 90)")
        low, high = self._zooms
        check("zoom_range", 0 < low <= high, "in [0, 1) or (low, high) with 0 < low <= high")
        if self.brightness_range is not None:
            low, high = self.brightness_range
            check("brightness_range", 0 <= low <= high, "(low, high) with 0 <= low <= high")
        check("channel_shift_range", 0 <= self.channel_shift_range <= 255, "levels in 0..255")
        check("cval", 0 <= self.cval <= 255, "a level in 0..255")
        require_choice("keras_idg", "fill_mode", self.fill_mode, _FILLS)
        changes = (
            self.rotation_range, self.shear_range, self.horizontal_flip, self.vertical_flip,
            np.any(self.width_shift_range), np.any(self.height_shift_range),
            self._zooms != (1, 1), self.brightness_range, self.channel_shift_range,
        )  # fmt: skip
        require(
            "keras_idg", "rotation_range", self.rotation_range, any(changes),
            "set, or another argument: as in Keras nothing is changed without one",
        )  # fmt: skip

    @property
    def margin(self) -> float:
        """No more pixels than are returned: Keras resizes first."""
        return 1.0

    @property
    def _zooms(self) -> tuple[float, float]:
        if isinstance(self.zoom_range, tuple):
            return self.zoom_range
        return 1 - self.zoom_range, 1 + self.zoom_range

    def apply(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draws, transforms and rounds: uint8 [size, size, 3] to the same."""
        return to_uint8(self.transform(image, self.draw(rng, image.shape[:2])))

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, Any]:
        """Draws the parameters of one image, by Keras' names and distributions.

        Args:
            rng: where the draws come from.
            shape: (rows, columns) of the image.

        Returns:
            theta and shear (degrees), tx and ty (pixels), zx and zy (scales), flip_horizontal,
            flip_vertical, channel_shift_intensity (levels) and brightness (factor), the last two
            None if not asked for: what ``ImageDataGenerator.apply_transform`` takes.
        """
        zx, zy = rng.uniform(*self._zooms, 2)
        channels, bright = self.channel_shift_range, self.brightness_range
        return {
            "theta": rng.uniform(-self.rotation_range, self.rotation_range),
            "tx": _shift(rng, self.height_shift_range, shape[0]),
            "ty": _shift(rng, self.width_shift_range, shape[1]),
            "shear": rng.uniform(-self.shear_range, self.shear_range),
            "zx": zx,
            "zy": zy,
            "flip_horizontal": bool(rng.random() < 0.5) and self.horizontal_flip,
            "flip_vertical": bool(rng.random() < 0.5) and self.vertical_flip,
            "channel_shift_intensity": rng.uniform(-channels, channels) if channels else None,
            "brightness": None if bright is None else rng.uniform(*bright),
        }

    def transform(self, image: np.ndarray, parameters: dict[str, Any]) -> np.ndarray:
        """Applies parameters of `draw`.

        Args:
            image: uint8 or float32 [H, W, 3].
            parameters: by Keras' names; those that are absent change nothing.

        Returns:
            float32 [H, W, 3], not rounded.
        """
        matrix = _matrix(parameters, image.shape)
        pixels = np.asarray(image, np.float32)
        if not np.array_equal(matrix, np.eye(3)):
            pixels = warp(pixels, matrix[:2], self.fill_mode, self.cval)
        if parameters.get("channel_shift_intensity") is not None:
            shifted = pixels + np.float32(parameters["channel_shift_intensity"])
            pixels = np.clip(shifted, pixels.min(), pixels.max())
        if parameters.get("flip_horizontal"):
            pixels = pixels[:, ::-1]
        if parameters.get("flip_vertical"):
            pixels = pixels[::-1]
        if parameters.get("brightness") is not None:
            whole = Image.fromarray(np.ascontiguousarray(pixels.astype(np.uint8)))
            bright = ImageEnhance.Brightness(whole).enhance(parameters["brightness"])
            pixels = np.asarray(bright, np.float32)
        return np.ascontiguousarray(pixels)


def _shift(rng: np.random.Generator, given: Shift, side: int) -> float:
    """A shift in pixels, as Keras reads a range."""
    sign = 1 - 2 * int(rng.integers(2))
    if isinstance(given, tuple):
        pixels = sign * given[rng.integers(len(given))]
    elif isinstance(given, int):
        pixels = sign * int(rng.integers(max(given, 1)))
    else:
        pixels = rng.uniform(-given, given)
    return pixels * side if np.max(given) < 1 else pixels


def _matrix(parameters: dict[str, Any], shape: tuple[int, ...]) -> np.ndarray:
    """Position of a pixel (x, y, 1) of the result in the image, [3, 3]; about the centre."""
    theta, shear = (math.radians(parameters.get(key, 0)) for key in ("theta", "shear"))
    cos, sin = math.cos(theta), math.sin(theta)
    rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    shift = np.array([[1, 0, parameters.get("tx", 0)], [0, 1, parameters.get("ty", 0)], [0, 0, 1]])
    slant = np.array([[1, -math.sin(shear), 0], [0, math.cos(shear), 0], [0, 0, 1]])
    zoom = np.diag([parameters.get("zx", 1), parameters.get("zy", 1), 1])
    # Keras takes half the height for x and half the width for y; images are square here.
    x, y = shape[0] / 2 - 0.5, shape[1] / 2 - 0.5
    centre, back = (np.array([[1, 0, s * x], [0, 1, s * y], [0, 0, 1]]) for s in (1, -1))
    return centre @ rotation @ shift @ slant @ zoom @ back
