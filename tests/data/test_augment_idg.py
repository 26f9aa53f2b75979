import numpy as np
import pytest

from tlflax.data.augment import KerasIDG, make_augment
from tlflax.errors import ConfigError

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


def rng(seed=0):
    return np.random.default_rng(seed)


def test_draws_are_spread_over_the_ranges():
    ours, generator = KerasIDG(100, **RECIPE, brightness_range=(0.5, 1.5)), rng()
    draws = [ours.draw(generator, (100, 100)) for _ in range(2000)]
    ends = {
        "theta": (-40, 40), "tx": (-20, 20), "ty": (-20, 20), "shear": (-20, 20),
        "zx": (0.8, 1.2), "zy": (0.8, 1.2), "brightness": (0.5, 1.5),
    }  # fmt: skip
    for key, (low, high) in ends.items():
        values = np.array([d[key] for d in draws])
        assert low <= values.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values.max() <= high
        # A uniform distribution's deciles hold a tenth each: 200 +- 5 standard deviations.
        counts = np.histogram(values, 10, (low, high))[0]
        assert 130 < counts.min() and counts.max() < 270
    assert not any(d["zx"] == d["zy"] for d in draws)
    assert 0.45 < np.mean([d["flip_horizontal"] for d in draws]) < 0.55
    assert not any(d["flip_vertical"] for d in draws)
    assert {d["channel_shift_intensity"] for d in draws} == {None}


def test_height_shift_moves_along_the_rows_as_in_keras():
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[30, 30] = 255
    ours = KerasIDG(SIZE, height_shift_range=(4,), fill_mode="constant")
    found = {tuple(np.argwhere(ours.apply(image, rng(s))[..., 0])[0]) for s in range(20)}
    assert found == {(30, 26), (30, 34)}


def test_from_a_config_string():
    text = (
        "keras_idg(rotation_range=40, width_shift_range=0.2, height_shift_range=0.2, "
        "shear_range=0.2, zoom_range=(0.8, 1.2), horizontal_flip=True, fill_mode=nearest, "
        "brightness_range=None)"
    )
    augment = make_augment(text, 8)
    assert augment == KerasIDG(8, 40, 0.2, 0.2, 0.2, (0.8, 1.2), True)
    assert augment.margin == 1.0
    assert make_augment("keras_idg(zoom_range=[0.8, 1.2])", 8).zoom_range == (0.8, 1.2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "nothing is changed"),
        ("zoom_range=(1, 1)", "nothing is changed"),
        ("rotation_range=-10", "rotation_range must be degrees"),
        ("rotation_range=1e999", "must be a number"),
        ("zoom_range=1.5", r"zoom_range must be in \[0, 1\) or"),
        ("zoom_range=(1.2, 0.8)", "low <= high"),
        ("zoom_range=(1, 2, 3)", r"must be a number or two numbers \(low, high\)"),
        ("width_shift_range='far'", r"must be a number or numbers \(a, b"),
        ("width_shift_range=1", "whole pixels below 1"),
        ("height_shift_range=-0.1", "at least 0"),
        ("brightness_range=0.5", r"must be two numbers \(low, high\) or None"),
        ("horizontal_flip=1", "must be True or False"),
        ("horizontal_flip=true", "must be True or False"),
        ("fill_mode=reflec, rotation_range=3", "did you mean reflect"),
        ("fill_mode=3, rotation_range=3", "must be a name"),
        ("cval=300, rotation_range=3", "cval must be"),
        ("rescale=1/255", "scaled inside the network"),
        ("validation_split=0.2", "data_splits"),
        ("rotation=40", "did you mean rotation_range"),
        ("rotation_range=4*10", r"rotation_range=4 \* 10\): write rotation_range as a number"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make_augment(f"keras_idg({arguments})", 8)
    assert "\n" not in str(caught.value)
