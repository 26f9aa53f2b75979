import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from image_files import encoded, pixels
from PIL import Image

from tlflax.data.decode import Resize, decode, decode_resized, fault, resize
from tlflax.errors import ConfigError, DataError

RGB = pixels(0)


def rgb_image():
    return Image.fromarray(RGB)


def test_rgb_is_exact():
    out = decode(encoded(RGB), "a.png")
    assert out.dtype == np.uint8 and np.array_equal(out, RGB)


def test_rgba_and_la_drop_alpha():
    rgba = np.dstack([RGB, np.full(RGB.shape[:2], 7, np.uint8)])
    assert np.array_equal(decode(encoded(rgba), "a"), RGB)
    la = Image.fromarray(RGB[..., 0]).convert("LA")
    assert np.array_equal(decode(encoded(la), "a"), np.dstack([RGB[..., 0]] * 3))


def test_palette_uses_the_palette_not_the_indices():
    palette = rgb_image().quantize(8)
    expected = np.asarray(palette.convert("RGB"))
    assert np.array_equal(decode(encoded(palette), "a"), expected)
    assert np.array_equal(decode(encoded(palette, "GIF"), "a"), expected)
    assert np.array_equal(decode(encoded(palette, transparency=bytes([0, 255])), "a"), expected)


def test_cmyk_jpeg_has_the_colours_of_the_rgb_one():
    out = decode(encoded(rgb_image().convert("CMYK"), "JPEG", quality=95), "a")
    assert out.shape == RGB.shape
    # JPEG at quality 95 on smooth pixels; inverted or unconverted CMYK is off by ~100.
    assert np.abs(out.astype(int) - RGB).mean() < 4


@pytest.mark.parametrize(("fmt", "options"), [("PNG", {}), ("TIFF", {})])
def test_16_bit_grey_is_scaled_not_clipped(fmt, options):
    wide = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    out = decode(encoded(Image.fromarray(wide), fmt, **options), "a")
    assert np.array_equal(out[..., 0].ravel(), np.arange(256))
    assert np.array_equal(out[..., 0], out[..., 2])


def test_1_bit_becomes_black_and_white():
    bits = Image.fromarray(np.eye(8, dtype=np.uint8) * 255).convert("1")
    assert np.array_equal(decode(encoded(bits), "a")[..., 1], np.eye(8, dtype=np.uint8) * 255)


def test_32_bit_is_refused_with_the_reason():
    data = encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")
    with pytest.raises(DataError, match="32-bit"):
        decode(data, "deep.tif")
    assert "32-bit" in fault(data)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_matches_pillow(orientation):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(RGB, "PNG", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.array_equal(decode(data, "a"), expected)
    if orientation == 6:
        assert expected.shape != RGB.shape


JPEG = encoded(pixels(1, 200, 200), "JPEG", quality=90)
BAD = {
    "truncated.jpg": JPEG[: len(JPEG) // 2],
    "truncated.png": encoded(pixels(1, 200, 200))[:300],
    "page.jpg": b"<html>not found</html>",
    "empty.jpg": b"",
    "header.jpg": JPEG[:30],
}


@pytest.mark.parametrize("name", BAD)
def test_bad_bytes_raise_and_name_the_file(name):
    with pytest.raises(DataError, match=name.replace(".", r"\.")) as caught:
        decode(BAD[name], name)
    assert "\n" not in str(caught.value) and "BytesIO" not in str(caught.value)
    assert fault(BAD[name]) and fault(BAD[name]) in str(caught.value)


def test_fault_passes_good_files():
    assert fault(JPEG) is None
    assert fault(encoded(RGB)) is None
    assert fault(encoded(rgb_image().convert("CMYK"), "JPEG")) is None


def test_fault_and_decode_agree_at_every_truncation():
    for cut in range(0, len(JPEG), max(1, len(JPEG) // 60)):
        try:
            decode(JPEG[:cut], "a")
        except DataError:
            assert fault(JPEG[:cut]), cut
        else:
            assert fault(JPEG[:cut]) is None, cut


@pytest.mark.parametrize(
    "fields",
    [{"method": "bilinaer"}, {"fit": "pad"}, {"crop_fraction": 0}, {"crop_fraction": 1.5},
     {"antialias": 1}],
)  # fmt: skip
def test_resize_refuses_unknown_fields(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        Resize(**fields)


def test_resize_suggests():
    with pytest.raises(ConfigError, match="did you mean bilinear"):
        Resize(method="bilinaer")


@pytest.mark.parametrize("method", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_resize_gives_the_size(method, antialias, fit):
    rule = Resize(method, antialias, fit, 0.875)
    for shape in [(12, 31), (31, 12), (7, 7), (300, 21), (16, 16)]:
        out = resize(pixels(2, *shape), 16, rule)
        assert out.shape == (16, 16, 3) and out.dtype == np.uint8


def test_bilinear_without_antialias_is_half_pixel_and_differs_from_antialiased():
    import jax

    image = np.random.default_rng(0).integers(0, 256, (50, 37, 3), np.uint8)
    want = jax.image.resize(image.astype(np.float32), (16, 16, 3), "bilinear", antialias=False)
    plain = resize(image, 16, Resize(antialias=False)).astype(float)
    # cv2 works in 11-bit fixed point on uint8 and rounds: one level.
    assert np.abs(plain - np.asarray(want)).max() <= 1.01
    smooth = resize(image, 16, Resize(antialias=True)).astype(float)
    assert np.abs(plain - smooth).mean() > 5


def test_nearest_samples_at_pixel_centres():
    image = np.arange(4, dtype=np.uint8)[None, :, None] * np.ones((4, 1, 3), np.uint8)
    assert resize(image, 2, Resize("nearest"))[0, :, 0].tolist() == [1, 3]


def test_crop_keeps_the_centre_and_the_aspect():
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, 20:40] = 200
    assert (resize(image, 20, Resize(fit="crop")) == 200).all()
    squashed = resize(image, 20, Resize())
    assert (squashed[:, :5] == 0).all() and (squashed[:, 9:11] == 200).all()
    assert np.array_equal(
        resize(pixels(3, 32, 32), 28, Resize(fit="crop", crop_fraction=0.875)),
        pixels(3, 32, 32)[2:30, 2:30],
    )


@pytest.mark.parametrize("fit", ["squash", "crop"])
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("method", ["nearest", "bilinear", "bicubic"])
def test_decoding_and_resizing_at_once_gives_the_same_bytes(method, antialias, fit):
    rule = Resize(method, antialias, fit, 0.875)
    turned = Image.Exif()
    turned[0x0112] = 6
    for mode, height, width in (("RGB", 37, 52), ("L", 52, 37), ("RGBA", 24, 24), ("P", 90, 31)):
        for kind in ("PNG", "JPEG") if mode in ("RGB", "L") else ("PNG",):
            pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels).convert(mode).save(file, kind, exif=turned)
            data = file.getvalue()
            want = resize(decode(data, "x"), 24, rule)
            got = decode_resized(data, "x", 24, rule)
            assert got.shape == (24, 24, 3) and np.array_equal(got, want), (mode, kind)
    with pytest.raises(DataError, match="x: not an image"):
        decode_resized(b"junk", "x", 24, rule)


def test_pillows_remarks_are_off_and_all_other_warnings_stay():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        file = io.BytesIO()
        picture = Image.new("P", (9, 9))
        picture.save(file, "PNG", transparency=b"\x00\x80")  # Pillow warns when converting it
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i: decode(file.getvalue(), str(i)), range(40)))
        with pytest.raises(UserWarning):
            warnings.warn("mine", UserWarning, stacklevel=1)
