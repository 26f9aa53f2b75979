import collections

import numpy as np
import pytest
from image_files import pixels
from PIL import Image, ImageEnhance, ImageOps

from tlflax.data.augment import RandAugment, make_augment
from tlflax.data.augment_rand import OPERATIONS
from tlflax.errors import ConfigError

PAPER = (
    "identity autocontrast equalize rotate solarize color posterize contrast brightness sharpness "
    "shear_x shear_y translate_x translate_y"
).split()
# Without a magnitude: what they do does not depend on it.
FREE = {"autocontrast", "equalize"}


def rng(seed=0):
    return np.random.default_rng(seed)


def photo(side=50):
    return pixels(3, side, side)


def test_the_papers_operations():
    assert set(OPERATIONS) == set(PAPER) and len(PAPER) == 14


@pytest.mark.parametrize("name", PAPER)
def test_each_operation(name):
    image = photo().copy()
    image.flags.writeable = False
    none, some, most = (OPERATIONS[name](image, level) for level in (0.0, 0.5, 1.0))
    for result in (none, some, most):
        assert result.shape == image.shape and result.dtype == np.uint8
    if name not in FREE:
        assert np.array_equal(none, image)
    if name != "identity":
        assert not np.array_equal(most, image)
    if name not in FREE | {"identity"}:
        change = [np.abs(r.astype(int) - image).mean() for r in (some, most)]
        assert 0 < change[0] < change[1]


@pytest.mark.parametrize(
    ("name", "level", "expected"),
    [
        ("autocontrast", 0.3, ImageOps.autocontrast),
        ("equalize", 0.3, ImageOps.equalize),
        ("posterize", 1.0, lambda image: ImageOps.posterize(image, 4)),
        ("posterize", -0.5, lambda image: ImageOps.posterize(image, 6)),
        ("solarize", -0.75, lambda image: ImageOps.solarize(image, 64)),
        ("color", -1.0, lambda image: ImageEnhance.Color(image).enhance(0.1)),
        ("contrast", 1.0, lambda image: ImageEnhance.Contrast(image).enhance(1.9)),
        ("brightness", 0.5, lambda image: ImageEnhance.Brightness(image).enhance(1.45)),
        ("sharpness", -1.0, lambda image: ImageEnhance.Sharpness(image).enhance(0.1)),
    ],
)
def test_ends_of_the_scales(name, level, expected):
    image = photo()
    expected = np.asarray(expected(Image.fromarray(image)))
    assert np.array_equal(OPERATIONS[name](image, level), expected)


# PIL's own affine transform: (a, b, c, d, e, f) takes (x + 1/2, y + 1/2) of the result to the
# source.
@pytest.mark.parametrize(
    ("name", "level", "inverse"),
    [
        ("translate_x", 1.0, (1, 0, 0.45 * 50, 0, 1, 0)),
        ("translate_y", -1.0, (1, 0, 0, 0, 1, -0.45 * 50)),
        ("shear_x", 1.0, (1, 0.3, -0.3 * 25, 0, 1, 0)),
        ("shear_y", -1.0, (1, 0, 0, -0.3, 1, 0.3 * 25)),
    ],
)
def test_geometry_is_pils(name, level, inverse):
    image = photo()
    expected = Image.fromarray(image).transform(
        (50, 50), Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR,
        fillcolor=(128, 128, 128),
    )  # fmt: skip
    differs = np.abs(OPERATIONS[name](image, level).astype(int) - np.asarray(expected)).max(-1)
    # Where the image ends one blends with grey and the other does not.
    assert np.quantile(differs, 0.9) <= 2


def test_rotation_is_pils_to_30_degrees():
    image = photo()
    for level, angle in ((1.0, 30), (-0.5, -15)):
        turned = Image.fromarray(image).rotate(
            angle, Image.Resampling.BILINEAR, fillcolor=(128, 128, 128)
        )
        differs = np.abs(OPERATIONS["rotate"](image, level).astype(int) - np.asarray(turned))
        assert np.quantile(differs.max(-1), 0.9) <= 2


def test_draws_are_uniform():
    augment, generator = RandAugment(8, n=3, magnitude=4), rng()
    draws = [augment.draw(generator) for _ in range(1400)]
    assert {len(d) for d in draws} == {3}
    for position in range(3):
        counts = collections.Counter(d[position][0] for d in draws)
        # 100 expected of each, standard deviation 9.6.
        assert set(counts) == set(PAPER) and 55 < min(counts.values()) <= max(counts.values()) < 145
    levels = np.array([level for d in draws for _, level in d])
    assert set(levels) == {-0.4, 0.4} and abs(levels.mean()) < 0.03
    assert any(d[0][0] == d[1][0] for d in draws)  # with repetition


def test_apply_is_the_drawn_operations_in_order():
    image, augment = photo(), RandAugment(50, n=3, magnitude=7)
    for seed in range(10):
        expected = image
        for name, level in augment.draw(rng(seed)):
            expected = OPERATIONS[name](expected, level)
        assert np.array_equal(augment.apply(image, rng(seed)), expected)


def test_flip():
    image = photo()
    plain, flips = RandAugment(50, magnitude=0), RandAugment(50, magnitude=0, flip=True)

    def mirrored(augment):
        results = [augment.apply(image, rng(s)) for s in range(200)]
        return sum(np.array_equal(r, image[:, ::-1]) for r in results)

    assert mirrored(plain) == 0 and 40 < mirrored(flips) < 100  # and autocontrast, equalize


def test_from_a_config_string():
    assert make_augment("randaugment", 8) == RandAugment(8, 2, 9.0, False)
    assert make_augment("randaugment(n=3, magnitude=5.5, flip=True)", 8) == RandAugment(
        8, 3, 5.5, True
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("randaugment(n=0)", "n must be in 1..10"),
        ("randaugment(n=2.0)", "n must be a whole number"),
        ("randaugment(magnitude=15)", "magnitude must be in 0..10"),
        ("randaugment(m=9)", "no argument 'm'"),
        ("randaug", "did you mean randaugment"),
        ("rand_augment", "did you mean randaugment"),
    ],
)
def test_mistakes(name, message):
    with pytest.raises(ConfigError, match=message):
        make_augment(name, 8)
