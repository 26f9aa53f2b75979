import cv2
import numpy as np
import pytest
from scipy import ndimage

from tlflax.data import warp as module
from tlflax.data.warp import to_uint8, warp

FILLS = ("nearest", "reflect", "constant", "wrap", "grid-constant", "grid-wrap")
# Bilinear weights in float32 at positions up to 60, times 255: seen 0.002.
TOLERANCE = 0.01


def noise(height=40, width=56):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def matrices(count=12):
    rng = np.random.default_rng(1)
    for _ in range(count):
        a, scale, x, y = *rng.uniform([-3, 0.6], [3, 1.5]), *rng.uniform(-50, 50, 2)
        turn = scale * np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
        yield np.column_stack([turn, [x, y]])


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("fill", FILLS)
def test_is_scipys_at_every_position(fill, exact, monkeypatch):
    if not exact:
        monkeypatch.setattr(module, "_opencv_is_exact", lambda: False)
    image = noise()
    rows, columns = np.mgrid[:40, :56]
    for matrix in matrices():
        at = np.einsum("ij,jhw->ihw", matrix[:, :2], np.stack([columns, rows]))
        at = (at + matrix[:, 2, None, None])[::-1]
        expected = [
            ndimage.map_coordinates(image[..., c].astype(float), at, order=1, mode=fill, cval=70)
            for c in range(3)
        ]
        result = warp(image, matrix, fill, 70)
        assert result.dtype == np.float32 and result.shape == image.shape
        np.testing.assert_allclose(result, np.stack(expected, -1), atol=TOLERANCE, rtol=0)


def test_an_opencv_that_rounds_positions_is_noticed(monkeypatch):
    module._opencv_is_exact.cache_clear()
    real = cv2.warpAffine

    def coarse(image, matrix, size, **options):
        y, x = np.mgrid[: size[1], : size[0]].astype(np.float64)
        at = np.tensordot(matrix, np.stack([x, y, np.ones_like(x)]), axes=1)
        at = (np.round(at * 32) / 32).astype(np.float32)
        return cv2.remap(image, at[0], at[1], cv2.INTER_LINEAR)

    monkeypatch.setattr(cv2, "warpAffine", coarse)
    try:
        assert not module._opencv_is_exact()
    finally:
        module._opencv_is_exact.cache_clear()
        monkeypatch.setattr(cv2, "warpAffine", real)


def test_rounding():
    levels = np.array([-3, 0.49, 0.51, 1.5, 254.6, 300], np.float32).reshape(1, 2, 3)
    assert to_uint8(levels).ravel().tolist() == [0, 0, 1, 2, 255, 255]
