"""Keras 3.15 itself as the oracle: the same draws give the same pixels."""

import warnings

import cv2
import numpy as np
import pytest
from tiny import quick_compilation  # noqa: F401

from tlflax.data.augment import KerasIDG, KerasLayers

SIZE = 60
# The horses-or-humans tutorial, with a shear that can be seen.
RECIPE = {
    "rotation_range": 40.0,
    "width_shift_range": 0.2,
    "height_shift_range": 0.2,
    "shear_range": 20.0,
    "zoom_range": 0.2,
    "horizontal_flip": True,
}
# Positions in float32, on one side or both: seen 0.002 on noise of this size, 0.014 at 300 pixels.
FLOAT = 0.01


def rng(seed=0):
    return np.random.default_rng(seed)


def noise(count=None):
    shape = (SIZE, SIZE, 3) if count is None else (count, SIZE, SIZE, 3)
    return rng().integers(0, 256, shape, np.uint8)


@pytest.fixture(scope="module")
def keras():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "jax")
        return pytest.importorskip("keras", reason="the live Keras is not installed")


@pytest.fixture(scope="module")
def keras_generator(keras):
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    return ImageDataGenerator


def keras_pixels(generator, image, parameters):
    with warnings.catch_warnings():
        # It still asks for scipy.ndimage.interpolation.
        warnings.simplefilter("ignore", DeprecationWarning)
        return generator.apply_transform(image.astype(np.float32), dict(parameters))


CASES = [
    *({"fill_mode": mode, "cval": 77.0} for mode in ("nearest", "reflect", "constant", "wrap")),
    {"vertical_flip": True, "channel_shift_range": 60.0},
    {"zoom_range": (0.5, 0.8), "width_shift_range": 5, "height_shift_range": (0.1, 0.3)},
]


@pytest.mark.parametrize("changes", CASES, ids=str)
def test_pixels_are_keras(changes, keras_generator):
    arguments = RECIPE | changes
    ours, theirs, image = KerasIDG(SIZE, **arguments), keras_generator(**arguments), noise()
    for seed in range(12):
        parameters = ours.draw(rng(seed), image.shape)
        expected = keras_pixels(theirs, image, parameters)
        np.testing.assert_allclose(ours.transform(image, parameters), expected, atol=FLOAT, rtol=0)
        # Rounded once.
        result = ours.apply(image, rng(seed)).astype(float)
        np.testing.assert_allclose(result, expected, atol=0.5 + FLOAT, rtol=0)


@pytest.mark.parametrize(
    "draw",
    [
        {"theta": 30.0},
        {"tx": 7.3},
        {"ty": -4.6},
        {"shear": 25.0},
        {"zx": 0.7},
        {"zy": 1.4},
        {"flip_horizontal": True},
        {"flip_vertical": True},
        {"channel_shift_intensity": -40.0},
        {"brightness": 0.6},
        {"brightness": 1.7},
        {"theta": 90.0, "brightness": 1.2, "flip_horizontal": True},
        {},
    ],
    ids=str,
)
def test_each_parameter_is_keras(draw, keras_generator):
    image = noise()
    expected = keras_pixels(keras_generator(), image, draw)
    result = KerasIDG(SIZE, rotation_range=1.0).transform(image, draw)
    np.testing.assert_allclose(result, expected, atol=FLOAT, rtol=0)


def test_brightness_after_a_turn_is_keras_but_for_cut_off_levels(keras_generator):
    # Smooth, else a level lost by cutting off would be everywhere.
    image = cv2.resize(rng().integers(0, 256, (6, 6, 3), np.uint8), (SIZE, SIZE))
    draw = {"theta": 33.0, "zx": 0.9, "brightness": 1.3}
    expected = keras_pixels(keras_generator(), image, draw)
    result = KerasIDG(SIZE, rotation_range=1.0).transform(image, draw)
    differs = np.abs(result - expected)
    # 12.999 and 13.001 are cut off to 12 and 13: a level, times 1.3.
    assert differs.max() <= 2 and (differs > 0).mean() < 0.01


SHIFTS = [0.2, 0.9, 1.0, 3, 3.5, (0.1, 0.3), (2, 5, 7), [4]]


@pytest.mark.parametrize("shift", SHIFTS, ids=str)
def test_shifts_are_drawn_as_keras_draws_them(shift, keras_generator):
    theirs = keras_generator(width_shift_range=shift)
    given = tuple(shift) if isinstance(shift, list) else shift
    ours, generator = KerasIDG(SIZE, width_shift_range=given), rng()
    np.random.seed(0)
    a = np.array([theirs.get_random_transform((50, SIZE, 3))["ty"] for _ in range(600)])
    b = np.array([ours.draw(generator, (50, SIZE))["ty"] for _ in range(600)])
    if not isinstance(shift, float):
        assert set(a) == set(b)
    # 600 draws each: means and spreads agree within five standard errors.
    assert abs(a.mean() - b.mean()) < 5 * a.std() * np.sqrt(2 / 600) + 1e-9
    assert b.std() == pytest.approx(a.std(), rel=0.12)
    assert np.abs(b).max() <= np.abs(a).max() * 1.02


LAYER_CASES = [
    {"flip": "horizontal", "rotation": 0.1, "zoom": 0.1},
    *({"rotation": 0.2, "zoom": 0.3, "fill_mode": f} for f in ("nearest", "constant", "wrap")),
    {"flip": "horizontal_and_vertical", "translation": (-0.3, 0.1), "fill_value": 90.0},
    {"flip": "vertical", "contrast": (0.3, 0.5), "brightness": 0.2, "zoom": (-0.4, -0.2)},
]


def layers_of(keras, flip, rotation=0.0, zoom=0.0, translation=0.0, contrast=0.0, brightness=0.0,
              fill_mode="reflect", fill_value=0.0):  # fmt: skip
    """The layers of a tutorial, in order, with what reads their draws in our names."""
    layers, fill = keras.layers, {"fill_mode": fill_mode, "fill_value": fill_value}
    if flip != "none":
        layer = layers.RandomFlip(flip)
        yield layer, lambda t, i: {"flip": bool(t["flips"][i])}
    if rotation:
        yield layers.RandomRotation(rotation, **fill), lambda t, i: {"angle": float(t["angle"][i])}
    if zoom:
        layer = layers.RandomZoom(zoom, **fill)
        yield layer, lambda t, i: {"zoom": float(t["height_zoom"][i, 0])}
    if translation:
        layer = layers.RandomTranslation(translation, translation, **fill)
        yield layer, lambda t, i: {"translation": tuple(map(float, t["translations"][i]))}
    if contrast:
        layer = layers.RandomContrast(contrast)
        yield layer, lambda t, i: {"contrast": float(t["contrast_factor"][i].item())}
    if brightness:
        layer = layers.RandomBrightness(brightness)
        yield layer, lambda t, i: {"brightness": float(t["rgb_delta"][i].item())}


@pytest.mark.parametrize("arguments", LAYER_CASES, ids=str)
def test_pixels_are_those_of_keras_layers(arguments, keras):
    images = noise(6)
    pixels = images.astype(np.float32)
    draws: list[dict] = [{} for _ in images]
    for layer, read in layers_of(keras, **({"flip": "none"} | arguments)):
        drawn = layer.get_random_transformation(pixels)
        pixels = np.asarray(layer.transform_images(pixels, drawn))
        for i, draw in enumerate(draws):
            draw |= read(drawn, i)
    ours = KerasLayers(SIZE, **({"flip": "none", "rotation": 0, "zoom": 0} | arguments))
    for image, draw, expected in zip(images, draws, pixels, strict=True):
        result = ours.transform(image, draw)
        np.testing.assert_allclose(result, expected, atol=FLOAT, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", LAYER_CASES, ids=str)
def test_draws_have_the_ranges_of_keras_layers(arguments, keras):
    images = np.zeros((1000, 40, 50, 3), np.uint8)
    ours = KerasLayers(SIZE, **({"flip": "none", "rotation": 0, "zoom": 0} | arguments))
    generator = rng()
    mine = [ours.draw(generator, (40, 50)) for _ in images]
    for layer, read in layers_of(keras, **({"flip": "none"} | arguments)):
        drawn = {k: np.asarray(v) for k, v in layer.get_random_transformation(images).items()}
        theirs = [read(drawn, i) for i in range(len(images))]
        (key,) = theirs[0]
        a, b = (np.array([d[key] for d in draws], float) for draws in (theirs, mine))
        spread = np.ptp(a, axis=0)
        # Ends of 1000 uniform draws: within 1.5% of the range of the true ones.
        np.testing.assert_allclose(b.min(0), a.min(0), atol=0.015 * spread.max())
        np.testing.assert_allclose(b.max(0), a.max(0), atol=0.015 * spread.max())
        assert (np.abs(b.mean(0) - a.mean(0)) < 0.08 * spread).all()
