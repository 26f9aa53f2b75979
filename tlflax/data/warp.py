"""Bilinear sampling at exact positions: what scipy computes, at OpenCV's speed where it can."""

import functools

import cv2
import numpy as np

# Names of scipy.ndimage -> what OpenCV calls the same. Its 'constant' and 'wrap' are not there:
# scipy's 'constant' cuts off at the centres of the outer pixels, and its 'wrap' repeats after
# n - 1 pixels.
_BORDERS = {
    "nearest": cv2.BORDER_REPLICATE,
    "reflect": cv2.BORDER_REFLECT,
    "grid-constant": cv2.BORDER_CONSTANT,
    "grid-wrap": cv2.BORDER_WRAP,
}


def warp(image: np.ndarray, matrix: np.ndarray, fill: str, value: float = 0.0) -> np.ndarray:
    """Samples an image at ``matrix @ (x, y, 1)`` for each pixel (x, y) of the result.

    Pixels are points at whole coordinates, (0, 0) the middle of the upper left one.

    Args:
        image: uint8 or float32 [H, W, 3].
        matrix: float64 [2, 3].
        fill: what is outside, by scipy's names: 'nearest', 'reflect', 'constant', 'wrap',
            'grid-constant' or 'grid-wrap'.
        value: of 'constant' and 'grid-constant'.

    Returns:
        float32 [H, W, 3], within 0.02 of 255 of ``scipy.ndimage.affine_transform(order=1)`` up to
        300 pixels. OpenCV 5 takes a tenth of scipy's time; it is used where it has the same
        border and samples at exact positions.
    """
    pixels = np.asarray(image, np.float32)
    if fill in _BORDERS and _opencv_is_exact():
        return cv2.warpAffine(
            pixels, matrix, pixels.shape[1::-1],
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=_BORDERS[fill], borderValue=(value,) * 3,
        )  # fmt: skip
    from scipy import ndimage  # late: most runs never need it

    turned = np.asarray(matrix)[::-1, [1, 0, 2]]  # scipy counts rows first
    result = np.empty_like(pixels)
    for channel in range(pixels.shape[2]):
        ndimage.affine_transform(
            pixels[..., channel],
            turned[:, :2],
            turned[:, 2],  # pyright: ignore[reportArgumentType]
            order=1,
            mode=fill,
            cval=value,
            output=result[..., channel],
        )
    return result


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Rounds float32 [H, W, 3] to the nearest level (to even between two), within 0..255."""
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


@functools.cache
def _opencv_is_exact() -> bool:
    """Whether this OpenCV interpolates at exact positions.

    Releases 4.10 to 4.13 round them to 1/32 of a pixel (seen: up to 6 levels off on noise),
    5.0 does not. Asked of the function itself, because it also depends on the machine.
    """
    y, x = np.mgrid[:64, :64].astype(np.float32)
    ramp = np.stack([100 * x, 100 * y, 50 * (x + y)], axis=-1)
    matrix = np.array([[0.99, 0.1, -1.7], [-0.1, 0.99, 2.3]])
    at_x, at_y = np.tensordot(matrix, np.stack([x, y, np.ones_like(x)]), axes=1)
    result = cv2.warpAffine(ramp, matrix, (64, 64), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    # Away from the border a ramp is sampled at the very value of the position.
    expected = np.stack([100 * at_x, 100 * at_y, 50 * (at_x + at_y)], axis=-1)
    return bool(np.abs(result - expected)[12:-12, 12:-12].max() < 0.1)
