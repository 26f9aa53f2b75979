"""Random changes of training images. Evaluation has no augmentation parameter at all."""

import ast
import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np

from tlflax.errors import ConfigError, listing, suggest


class Augment(Protocol):
    """A random change of one image, a pure function of (image, generator state)."""

    size: int

    @property
    def margin(self) -> float:
        """Pixels are held at `held_size` = ceil(size * margin)."""
        ...

    def apply(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Maps uint8 [M, M, 3] to uint8 [size, size, 3]; `image` is not changed."""
        ...


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
        _require("flip_crop", "scale", self.scale, 0 < self.scale <= 1, "in (0, 1]")
        _require("flip_crop", "aspect", self.aspect, 1 <= self.aspect <= 4, "in [1, 4]")

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
        _require("shift_rotate", "rotation", self.rotation, 0 <= self.rotation <= 180, "0..180")
        _require("shift_rotate", "shift", self.shift, 0 <= self.shift < 1, "in [0, 1)")
        _require("shift_rotate", "zoom", self.zoom, 0 <= self.zoom < 1, "in [0, 1)")

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


_KINDS = {"flip": Flip, "flip_crop": FlipCrop, "shift_rotate": ShiftRotate}


def make_augment(name: str, size: int) -> Augment | None:
    """Makes an augmentation from its config string.

    Args:
        name: 'none', a kind ('flip', 'flip_crop', 'shift_rotate'), or a kind with arguments:
            'flip_crop(scale=0.5, flip=False)'. Parsed, never executed.
        size: side of the images it returns.

    Returns:
        The augmentation, or None for 'none'.

    Raises:
        ConfigError: the kind or an argument is unknown, or a value is out of range.
    """
    kind, arguments = _parse(str(name).strip() or "none")
    if kind == "none" and not arguments:
        return None
    if kind not in _KINDS:
        valid = ("none", *_KINDS)
        raise ConfigError(f"augment '{kind}' is not one of {listing(valid)}{suggest(kind, valid)}")
    fields = {f.name: f.type for f in dataclasses.fields(_KINDS[kind]) if f.name != "size"}
    for key, value in arguments.items():
        if key not in fields:
            have = listing(fields) or "none"
            raise ConfigError(
                f"augment '{kind}' has no argument '{key}' (it has {have}){suggest(key, fields)}"
            )
        boolean = fields[key] is bool
        if isinstance(value, bool) != boolean or not isinstance(value, bool | int | float):
            wanted = "True or False" if boolean else "a number"
            raise ConfigError(f"augment {kind}({key}={value!r}): {key} must be {wanted}")
    return _KINDS[kind](size=size, **arguments)


def held_size(augment: Augment | None, size: int) -> int:
    """Returns the side at which pixels are held before augmentation."""
    # The small constant keeps 224 * 1.25 = 280 from becoming 281 by rounding.
    return size if augment is None else math.ceil(size * augment.margin - 1e-6)


def _parse(text: str) -> tuple[str, dict[str, Any]]:
    try:
        node = ast.parse(text, mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, {}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
            if all(k.arg for k in node.keywords):
                return node.func.id, {str(k.arg): ast.literal_eval(k.value) for k in node.keywords}
    except (SyntaxError, ValueError, TypeError, RecursionError):
        node = None  # anything that is no plain call ends in the one error below.
    raise ConfigError(
        f"augment '{text}' is not a name or a name with keyword arguments, like "
        f"flip_crop(scale=0.5){suggest(text.partition('(')[0], ('none', *_KINDS))}"
    )


def _warp(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Samples `image` at matrix @ (x, y, 1) for every result pixel, edges repeated."""
    return cv2.warpAffine(
        image,
        matrix,
        (size, size),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


def _require(kind: str, key: str, value: Any, valid: bool, wanted: str) -> None:
    if not valid:
        raise ConfigError(f"augment {kind}({key}={value}): {key} must be {wanted}")
