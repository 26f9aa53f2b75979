import io

import numpy as np
import pytest
import tiny
from PIL import Image

import tlflax as tl
from tlflax.data.augment import held_size, make_augment
from tlflax.data.decode import Resize, decode_resized
from tlflax.data.plan import AUGMENT, TrainPlan, generator
from tlflax.errors import ConfigError, DataError
from tlflax.report.grid import choose, grid, preview, samples


def opened(png):
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def flat(*levels, shape=(20, 20)):
    return [np.full((*shape, 3), level, np.uint8) for level in levels]


def has(picture, level):
    return bool((picture == level).all(-1).sum() > 500)


def test_every_image_is_in_the_picture_once_and_unchanged():
    levels = (10, 60, 110, 160, 210)
    picture = opened(grid(flat(*levels), columns=3))
    areas = [(picture == level).all(-1).sum() for level in levels]
    assert len(set(areas)) == 1 and areas[0] == 400 * 400
    corners = [tuple(np.argwhere((picture == v).all(-1)).min(0).tolist()) for v in levels]
    assert corners[0][0] == corners[1][0] == corners[2][0] < corners[3][0] == corners[4][0]
    assert corners[0][1] == corners[3][1] < corners[1][1] == corners[4][1] < corners[2][1]


@pytest.mark.parametrize(("count", "columns"), [(1, 6), (7, 3), (24, 6), (30, 10)])
def test_sizes(count, columns):
    height, width = opened(grid(flat(*range(count)), ["a"] * count, columns)).shape[:2]
    assert 200 <= width <= 1400 and height > 100


def test_aspect_is_kept_and_pixels_are_squares():
    wide = np.zeros((2, 4, 3), np.uint8)
    wide[0, 0] = 200
    picture = opened(grid([wide], columns=1))
    lit = np.argwhere((picture == 200).all(-1))
    assert tuple(np.ptp(lit, axis=0) + 1) == (100, 100)
    assert (picture == 0).all(-1).sum() == 400 * 200 - 100 * 100


def test_text_is_drawn_and_shortened():
    images = flat(80, 160)
    bare = opened(grid(images, columns=2))
    named = opened(grid(images, ["cat", "x" * 500], 2, title="t" * 300, headings=["a", "b"]))
    assert named.shape[0] > bare.shape[0] + 100 and named.shape[1] == 1400
    assert has(named, 80) and has(named, 160)
    margin = named[:, -10:]
    assert (margin == 255).all()  # no text runs out of the picture


def test_dark_and_the_same_bytes_again():
    png = grid(flat(80), ["$a$ 猫"], dark=True)
    assert png == grid(flat(80), ["$a$ 猫"], dark=True)
    assert opened(png)[0, 0].tolist() == [0x1C, 0x1F, 0x24]


def test_choose_spreads_over_the_classes():
    labels = np.array([0] * 50 + [1] * 3 + [2] * 50)
    chosen = choose(labels, 12)
    assert np.bincount(labels[chosen]).tolist() == [5, 3, 4] and len(set(chosen)) == 12
    assert labels[chosen].tolist() == sorted(labels[chosen])
    assert choose(labels, 12) == chosen != choose(labels, 12, seed=1)
    assert len(choose(labels, 500)) == 103 and choose(labels[:0], 3) == []
    many = np.repeat(np.arange(100), 2)
    assert many[choose(many, 5)].tolist() == [0, 25, 50, 74, 99]


def test_samples_are_images_of_the_split():
    data = tiny.data()
    picture = opened(samples(data.train, data.class_names, size=20, rows=1, columns=3))
    held = [
        decode_resized(data.train.read(i), "", 20, Resize()) for i in choose(data.train.labels, 3)
    ]
    for k, image in enumerate(held):
        x = 20 + k * (400 + 12)
        # 20 pixels on 400: squares of 20; the middle of each.
        found = picture[20 + 32 + 10 :: 20, x + 10 : x + 400 : 20][:20]
        assert np.array_equal(found, image)
    whole = opened(samples(data.train, data.class_names, rows=2, columns=2))
    assert whole.shape[1] == 20 * 2 + 400 * 2 + 12


@pytest.mark.parametrize("name", ["flip_crop", "keras_layers", "none"])
def test_preview_shows_what_the_first_epochs_train_on(name):
    split, seed = tiny.data().train, (3, 1)
    picture = opened(preview(split, name, 16, rows=2, columns=3, seed=seed))
    augment = make_augment(name, 16)
    plan = TrainPlan(len(split), 4, seed)
    (first, second) = choose(split.labels, 2, 3)
    tiles = []
    for i in (first, second):
        pixels = decode_resized(split.read(i), "", held_size(augment, 16), Resize())
        tiles.append(decode_resized(split.read(i), "", 16, Resize()))
        for epoch in range(2):
            rng = generator(plan.seed, AUGMENT, epoch, i)
            tiles.append(pixels if augment is None else augment.apply(pixels, rng))
    found = opened(
        grid(tiles, columns=3, title=name, headings=["original", "version 1", "version 2"])
    )
    assert np.array_equal(picture, found)


def test_mistakes():
    data = tiny.data()
    with pytest.raises(ConfigError, match="columns must be a whole number from 1, not 0"):
        grid(flat(1), columns=0)
    with pytest.raises(ConfigError, match="do not fit"):
        grid(flat(*range(200)), columns=200)
    with pytest.raises(ConfigError, match="rows must be"):
        samples(data.train, data.class_names, rows=0)
    with pytest.raises(ConfigError, match="did you mean flip_crop"):
        preview(data.train, "flipcrop", 16)
    with pytest.raises(DataError, match="no image"):
        samples(data.train.subset([]), data.class_names)


def test_show_in_a_notebook(tmp_path):
    photos = tl.dataset(f"folder:{tiny.stripes()}", image_size=16)
    plain = photos.show(images=5, columns=3)
    assert plain.png == samples(photos.train, photos.class_names, size=16, rows=2, columns=3)
    assert plain.png != photos.show(images=5, columns=3, split="val").png
    changed = photos.show(augment="flip", images=2, columns=4, seed=1)
    assert changed.png == preview(
        photos.train, "flip", 16, rows=2, columns=4, seed=1, class_names=photos.class_names
    )
    changed.save(tmp_path / "a.png")
    assert opened((tmp_path / "a.png").read_bytes()).shape[1] > 1000
    with pytest.raises(ConfigError, match="split 'test' is never augmented"):
        photos.show(augment="flip", split="test")
    with pytest.raises(ConfigError, match="split 'vali' is not one of train, val, test"):
        photos.show(split="vali")
    with pytest.raises(ConfigError, match="columns must be a whole number"):
        photos.show(columns=0)
    with pytest.raises(ConfigError, match="images must be a whole number"):
        photos.show(images=-1)
