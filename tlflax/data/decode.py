"""Encoded bytes -> uint8 RGB of the size and with the resampling a backbone's contract asks for."""

import io
import math
import re
import warnings
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from tlflax.errors import ConfigError, DataError, listing, suggest

# name -> (PIL filter, cv2 flag). cv2 has no entry for nearest: PIL's nearest samples at pixel
# centres (as TF and torch do) and never antialiases, so it serves both settings.
_METHODS = {
    "nearest": (Image.Resampling.NEAREST, None),
    "bilinear": (Image.Resampling.BILINEAR, cv2.INTER_LINEAR),
    "bicubic": (Image.Resampling.BICUBIC, cv2.INTER_CUBIC),
}
_FITS = ("squash", "crop")
# EXIF tag and its values: what brings the stored pixels upright (EXIF 2.32, table 6).
ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# As the warnings module keeps it, to see whether it is there.
_PILLOW = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
_WIDE = ("I;16", "I;16L", "I;16B", "I;16N")


@dataclass(frozen=True)
class Resize:
    """How an image becomes square. Part of a backbone's input contract.

    Attributes:
        method: 'nearest', 'bilinear' or 'bicubic'.
        antialias: True widens the filter when shrinking (PIL, ``timm``); False samples at
            half-pixel centres without it (TensorFlow's ``tf.image.resize`` default, torch's
            ``antialias=False``). Bicubic without antialias uses torch's kernel (a = -0.75).
        fit: 'squash' maps the whole image to the square; 'crop' scales the shorter side to
            ``size / crop_fraction`` and cuts the centre.
        crop_fraction: share of the shorter side that the centre crop keeps, in (0, 1].

    Raises:
        ConfigError: a field holds a value that is not listed above.
    """

    method: str = "bilinear"
    antialias: bool = True
    fit: str = "squash"
    crop_fraction: float = 1.0

    def __post_init__(self):
        for field, value, valid in (("method", self.method, _METHODS), ("fit", self.fit, _FITS)):
            if value not in valid:
                hint = suggest(str(value), valid)
                raise ConfigError(f"resize {field} '{value}' is not one of {listing(valid)}{hint}")
        if not isinstance(self.antialias, bool):
            raise ConfigError(f"resize antialias must be True or False, not {self.antialias!r}")
        if not 0 < self.crop_fraction <= 1:
            raise ConfigError(f"resize crop_fraction must be in (0, 1], not {self.crop_fraction}")


def decode(data: bytes, name: str) -> np.ndarray:
    """Decodes an image file.

    Args:
        data: the encoded file (any format PIL reads; the first frame of an animation).
        name: what to call the image in an error.

    Returns:
        uint8 RGB [H, W, 3], upright (EXIF orientation applied), alpha dropped.

    Raises:
        DataError: the bytes are empty, truncated, damaged or no image.
    """
    return np.asarray(_load(data, name))


def decode_pillow(image: Image.Image, name: str) -> np.ndarray:
    """The same as `decode`, of an image that Pillow has opened or made.

    Args:
        image: any mode that `decode` can read; it stays as it is.
        name: what to call the image in an error.

    Returns:
        uint8 RGB [H, W, 3], upright, alpha dropped.

    Raises:
        DataError: its file is damaged or closed, or its mode has no fixed white level.
    """
    _quieten()
    try:
        return np.asarray(_upright_rgb(image))
    except MemoryError:
        raise
    except Exception as error:
        raise DataError(f"{name}: {str(error).strip() or type(error).__name__}") from error


def decode_resized(data: bytes, name: str, size: int, rule: Resize) -> np.ndarray:
    """The same as ``resize(decode(data, name), size, rule)``, bit for bit, in 0.85 of its time.

    Two copies of the full-size image are left out. Neither this nor `decode` lets the JPEG
    library scale (PIL's ``draft``): that would be faster still, and other pixels.

    Returns:
        uint8 RGB [size, size, 3].

    Raises:
        DataError: as `decode`.
    """
    image = _load(data, name)
    pil_filter, cv2_flag = _METHODS[rule.method]
    if not rule.antialias and cv2_flag is not None:
        return resize(np.asarray(image), size, rule)
    height, width = _scaled(image.height, image.width, size, rule)
    if image.size != (width, height):
        image = image.resize((width, height), pil_filter)
    return _centre(np.asarray(image), size)


def thumbnail(data: bytes, name: str, side: int) -> np.ndarray:
    """Decodes a small picture for people to look at; no network should be shown it.

    JPEGs are decoded at a fraction of their size, which is many times faster.

    Returns:
        uint8 RGB, its longer side at most ``side``.

    Raises:
        DataError: as `decode`.
    """
    _quieten()
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format == "JPEG":
                image.draft(image.mode, (2 * side, 2 * side))
            small = _upright_rgb(image)
    except MemoryError:
        raise
    except Exception as error:
        raise DataError(f"{name}: {_reason(data, error)}") from error
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(small)


def _load(data: bytes, name: str) -> Image.Image:
    _quieten()
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _upright_rgb(image)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise nearly anything on damaged bytes.
        raise DataError(f"{name}: {_reason(data, error)}") from error


def _quieten() -> None:
    """Turns off Pillow's remarks on odd metadata and on very large (but legal) images.

    The pixels are what counts here, and threads would print them once per epoch. A filter that
    stays, not `warnings.catch_warnings`: that one sets the filters of the whole process back and
    forth, and two threads in it at once can leave every warning off.
    """
    if _PILLOW not in warnings.filters:
        warnings.filterwarnings("ignore", module=_PILLOW[3].pattern)


def preview(data: bytes) -> tuple[np.ndarray | None, str | None]:
    """Returns a small version of an image, or why `decode` would fail on these bytes.

    Reads the whole bit stream. JPEGs are decoded at 1/8 of their size, which parses every byte
    but skips most of the arithmetic: 0.28 against 0.52 ms per image for `decode` (150 food101
    photos, one core). Other formats come at full size.

    Returns:
        uint8 RGB [H, W, 3] and None, or None and the reason. Files of one format whose decoded
        pixels are equal have equal previews.
    """
    _quieten()
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format == "JPEG":
                image.draft(image.mode, (1, 1))
            return np.asarray(_upright_rgb(image)), None
    except MemoryError:
        raise
    except Exception as error:
        return None, _reason(data, error)


def fault(data: bytes) -> str | None:
    """Returns why `decode` would fail on these bytes, or None."""
    return preview(data)[1]


def resize(image: np.ndarray, size: int, rule: Resize) -> np.ndarray:
    """Resizes uint8 [H, W, 3] to uint8 [size, size, 3] by `rule`."""
    height, width = image.shape[:2]
    height, width = _scaled(height, width, size, rule)
    return _centre(_resample(image, height, width, rule), size)


def _scaled(height: int, width: int, size: int, rule: Resize) -> tuple[int, int]:
    """Height and width before the centre is cut out."""
    if rule.fit == "squash":
        return size, size
    # Floor for the scaled sides, round for the offsets: what timm and torchvision do.
    short = max(size, math.floor(size / rule.crop_fraction + 1e-6))
    if height <= width:
        return short, max(short, int(short * width / height))
    return max(short, int(short * height / width)), short


def _centre(image: np.ndarray, size: int) -> np.ndarray:
    top, left = (round((side - size) / 2) for side in image.shape[:2])
    return np.ascontiguousarray(image[top : top + size, left : left + size])


def _resample(image: np.ndarray, height: int, width: int, rule: Resize) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    pil_filter, cv2_flag = _METHODS[rule.method]
    if rule.antialias or cv2_flag is None:
        return np.asarray(Image.fromarray(image).resize((width, height), pil_filter))
    return cv2.resize(image, (width, height), interpolation=cv2_flag)


def _upright_rgb(image: Image.Image) -> Image.Image:
    # Not ImageOps.exif_transpose: it also rewrites the EXIF block and fails where that is odd.
    turn = _TURNS.get(image.getexif().get(ORIENTATION, 1))
    rgb = _to_rgb(image)
    return rgb if turn is None else rgb.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _WIDE or (image.mode == "I" and image.format == "PNG"):
        # convert("RGB") would clip at 255; 65535 / 257 = 255 exactly.
        wide = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError("32-bit pixels have no fixed white level: save it with 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _reason(data: bytes, error: Exception) -> str:
    if not data:
        return "empty file"
    if isinstance(error, UnidentifiedImageError):
        return "not an image in a format that can be read"
    return f"truncated or damaged image ({str(error).strip() or type(error).__name__})"
