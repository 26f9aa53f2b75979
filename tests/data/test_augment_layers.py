import numpy as np
import pytest

from tlflax.data.augment import KerasLayers, make_augment
from tlflax.errors import ConfigError


def rng(seed=0):
    return np.random.default_rng(seed)


def spot(row, column, side=41):
    image = np.zeros((side, side, 3), np.uint8)
    image[row, column] = 255
    return image


def place(pixels):
    return tuple(int(v) for v in np.unravel_index(pixels[..., 0].argmax(), pixels.shape[:2]))


def test_directions():
    layers = KerasLayers(41)
    # A quarter turn counter-clockwise takes what is on the right to the top.
    assert place(layers.transform(spot(20, 30), {"angle": 90.0})) == (10, 20)
    assert place(layers.transform(spot(20, 30), {"translation": (5.0, -3.0)})) == (17, 35)
    # Twice as much is shown: everything is nearer to the centre.
    assert place(layers.transform(spot(20, 30), {"zoom": 2.0})) == (20, 25)
    assert place(layers.transform(spot(20, 30), {"flip": True})) == (20, 10)
    both = KerasLayers(41, flip="horizontal_and_vertical")
    assert place(both.transform(spot(15, 30), {"flip": True})) == (25, 10)


def test_contrast_keeps_the_mean_of_each_channel():
    image = rng().integers(100, 150, (20, 20, 3), np.uint8)
    result = KerasLayers(20).transform(image, {"contrast": 1.5})
    np.testing.assert_allclose(result.mean((0, 1)), image.mean((0, 1)), atol=1e-3)
    np.testing.assert_allclose(result.std((0, 1)), 1.5 * image.std((0, 1)), rtol=1e-5)


def test_draws_of_what_is_off_are_none():
    draw = KerasLayers(20, flip="none", rotation=0.0).draw(rng(), (20, 20))
    assert draw["zoom"] is not None and not draw["flip"]
    assert {k for k, v in draw.items() if v is None} == {
        "angle", "translation", "contrast", "brightness"
    }  # fmt: skip


def test_from_a_config_string():
    text = "keras_layers(flip='vertical', rotation=(-0.1, 0.2), zoom=0, fill_mode=constant)"
    assert make_augment(text, 8) == KerasLayers(8, "vertical", (-0.1, 0.2), 0, fill_mode="constant")
    assert make_augment("keras_layers", 8) == KerasLayers(8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("flip=none, rotation=0, zoom=0", "nothing is changed"),
        ("flip=horizontally", "did you mean horizontal"),
        ("rotation=40", "a full turn"),
        ("rotation=-0.1", "rotation must be in 0..1"),
        ("zoom=1.0", "zoom must be in 0..0.99"),
        ("zoom=(-1.0, 0.2)", "zoom must be"),
        ("contrast=(-0.1, 0.2)", "contrast must be in 0..1"),
        ("translation=1.5", "translation must be"),
        ("brightness=(0.1, 0.2, 0.3)", r"two numbers \(low, high\)"),
        ("fill_mode=edge", "fill_mode is one of reflect, nearest, constant, wrap"),
        ("fill_value=-1", "a level in 0..255"),
        ("factor=0.1", "no argument 'factor'"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make_augment(f"keras_layers({arguments})", 8)
    assert "\n" not in str(caught.value)


def test_draws_are_spread_over_the_ranges():
    layers = KerasLayers(
        20, rotation=(-0.1, 0.2), zoom=0.3, translation=(-0.2, 0.1), contrast=0.4, brightness=0.2
    )
    generator = rng()
    draws = [layers.draw(generator, (100, 200)) for _ in range(2000)]
    values = {key: np.array([d[key] for d in draws], float) for key in draws[0]}
    values["right"], values["down"] = values.pop("translation").T
    ends = {
        "angle": (-36, 72), "zoom": (0.7, 1.3), "right": (-40, 20), "down": (-20, 10),
        "contrast": (1, 1.4), "brightness": (-51, 51),
    }  # fmt: skip
    for key, (low, high) in ends.items():
        assert low <= values[key].min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values[key].max() <= high
        # A uniform distribution's deciles hold a tenth each: 200 +- 5 standard deviations.
        counts = np.histogram(values[key], 10, (low, high))[0]
        assert 130 < counts.min() and counts.max() < 270
    assert abs(np.corrcoef(values["right"], values["down"])[0, 1]) < 0.1
    assert 0.45 < values["flip"].mean() < 0.55
