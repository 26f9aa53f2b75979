import numpy as np
import pytest
from image_files import pixels

from tlflax.data.augment import FlipCrop, ShiftRotate, held_size, make_augment
from tlflax.errors import ConfigError

KINDS = [
    "flip",
    "flip_crop",
    "flip_crop(scale=0.3, flip=False)",
    "shift_rotate",
    "keras_idg(rotation_range=40, zoom_range=0.2, brightness_range=(0.8, 1.2))",
    "keras_idg(width_shift_range=0.2, channel_shift_range=20.0, fill_mode=wrap)",
    "keras_layers",
    "keras_layers(translation=0.1, contrast=0.2, fill_mode=constant)",
    "randaugment",
    "randaugment(n=4, flip=True)",
]


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("size", [8, 33])
def test_shape_purity_and_untouched_input(name, size):
    augment = make_augment(name, size)
    side = held_size(augment, size)
    image = pixels(0, side, side).copy()
    image.flags.writeable = False
    a, b = augment.apply(image, rng(1)), augment.apply(image, rng(1))
    assert a.shape == (size, size, 3) and a.dtype == np.uint8
    assert np.array_equal(a, b)
    assert len({augment.apply(image, rng(s)).tobytes() for s in range(20)}) > 1
    assert np.array_equal(image, pixels(0, side, side))


def test_none():
    assert make_augment("none", 8) is None and held_size(None, 8) == 8


def test_margin():
    assert held_size(make_augment("flip_crop", 224), 224) == 280
    assert held_size(make_augment("flip_crop(scale=1.0)", 224), 224) == 224
    assert held_size(make_augment("flip", 224), 224) == 224


def test_flip_crop_of_the_whole_is_the_identity_or_the_mirror():
    augment = FlipCrop(16, scale=1.0, aspect=1.0)
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    results = [augment.apply(image, rng(s)) for s in range(40)]
    same = sum(np.array_equal(r, image) for r in results)
    mirrored = sum(np.array_equal(r, image[:, ::-1]) for r in results)
    # Binomial(40, 1/2): outside 8..32 once in 10^4 seeds, and the seeds are fixed.
    assert same + mirrored == 40 and 8 <= same <= 32


def test_flip_crop_keeps_within_the_image_and_the_area():
    ramp = np.zeros((100, 100, 3), np.uint8)
    ramp[..., 0] = np.arange(100)[None, :] * 2
    ramp[..., 1] = np.arange(100)[:, None] * 2
    augment = FlipCrop(80, flip=False)
    areas = []
    for seed in range(200):
        out = augment.apply(ramp, rng(seed)).astype(float)
        width = (out[40, -1, 0] - out[40, 0, 0]) / 2 * 80 / 79
        height = (out[-1, 40, 1] - out[0, 40, 1]) / 2 * 80 / 79
        areas.append(width * height / 1e4)
    assert 0.6 < min(areas) < 0.7 and 0.9 < max(areas) <= 1.03


def test_no_flip_means_no_flip():
    ramp = np.repeat(np.arange(20, dtype=np.uint8)[None, :, None] * 10, 20, 0).repeat(3, 2)
    plain = [FlipCrop(16, flip=False).apply(ramp, rng(s)) for s in range(30)]
    assert all(int(r[8, -1, 0]) > int(r[8, 0, 0]) for r in plain)
    turned = [FlipCrop(16).apply(ramp, rng(s)) for s in range(30)]
    assert any(int(r[8, -1, 0]) < int(r[8, 0, 0]) for r in turned)


def test_shift_rotate_of_nothing_is_the_identity_and_never_mirrors():
    image = np.random.default_rng(0).integers(0, 256, (15, 15, 3), np.uint8)
    assert np.array_equal(ShiftRotate(15, 0, 0, 0).apply(image, rng()), image)
    ramp = np.repeat(np.arange(20, dtype=np.uint8)[None, :, None] * 10, 20, 0).repeat(3, 2)
    for seed in range(30):
        out = ShiftRotate(20).apply(ramp, rng(seed))
        assert int(out[10, -1, 0]) > int(out[10, 0, 0])
        assert out.min() >= 0 and int(out[10, 0, 0]) < 60  # edges repeat: no black border


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("flipcrop", "did you mean flip_crop"),
        ("flip_crop(scal=0.5)", "did you mean scale"),
        ("flip_crop(scale=0)", "scale must be"),
        ("flip_crop(scale='big')", "must be a number"),
        ("flip_crop(scale=True)", "must be a number"),
        ("flip_crop(flip=1)", "True or False"),
        ("flip_crop(0.5)", "keyword"),
        ("flip_crop(**{})", "keyword"),
        ("flip_crop(scale=__import__('os'))", "nothing is computed"),
        ("flip_crop(scale=", "keyword"),
        ("a.b(c=1)", "keyword"),
        ("none(x=1)", "not one of"),
        ("flip(size=3)", "no argument"),
        ("shift_rotate(shift=2)", "shift must be"),
    ],
)
def test_bad_names(name, message):
    with pytest.raises(ConfigError, match=message):
        make_augment(name, 8)
