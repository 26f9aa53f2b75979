"""Photos side by side: samples of a split, and what an augmentation makes of them."""

import io
import textwrap
from collections.abc import Sequence

import cv2
import numpy as np

from tlflax.data.augment import held_size, make_augment
from tlflax.data.decode import Resize, decode, decode_resized
from tlflax.data.listing import Split
from tlflax.data.plan import AUGMENT, generator
from tlflax.errors import ConfigError, DataError
from tlflax.report.canvas import DPI, WIDTH, drawing, new_figure, save
from tlflax.report.style import DARK, LIGHT, shorten

# In pixels of the picture, two for each dot of the page.
_MARGIN, _GAP = 20, 12
_LINE = 32  # height of a line of text, 8 points high
_LARGEST = 400  # side of a photo when there are few columns
_LETTER = 13  # mean width of a letter
# A photo enlarged by this much shows its pixels as squares: smoothing would hide how little a
# network is given.
_SQUARES = 3.0


def grid(
    images: Sequence[np.ndarray],
    captions: Sequence[str] = (),
    columns: int = 6,
    *,
    title: str = "",
    headings: Sequence[str] = (),
    dark: bool = False,
) -> bytes:
    """Draws images in rows, each fitted into a square cell with its aspect kept.

    Args:
        images: uint8 RGB arrays [H, W, 3] of any sizes, row by row.
        captions: a line above each image; shortened to the width of a cell.
        columns: images in a row.
        title: above everything, wrapped.
        headings: a line above each column.
        dark: draw for a dark page.

    Returns:
        A PNG, twice as dense as the page (200 dots per inch), up to 1400 pixels wide.

    Raises:
        ConfigError: `columns` is not positive.
        DataError: there is no image.
    """
    _require("columns", columns)
    if not len(images):
        raise DataError("there is no image to show")
    colours = DARK if dark else LIGHT
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    width = round(WIDTH * DPI)
    cell = min(_LARGEST, (width - 2 * _MARGIN - (columns - 1) * _GAP) // columns)
    if cell < 8:
        raise ConfigError(f"{columns} columns do not fit into a picture {width} pixels wide")
    lines = textwrap.wrap(title, (width - 2 * _MARGIN) // _LETTER)
    if not lines:  # nothing needs the full width
        width = max(2 * _MARGIN + columns * (cell + _GAP) - _GAP, 200)
    caption = _LINE if any(captions) else 0
    top = _MARGIN + len(lines) * _LINE + (10 if lines else 0) + (_LINE + 4 if headings else 0)
    step = cell + caption + (20 if caption else _GAP)
    height = top + rows * step - (step - cell - caption) + _MARGIN
    background = np.array([int(colours["background"][i : i + 2], 16) for i in (1, 3, 5)], np.uint8)
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = background
    texts: list[tuple[int, int, str, str]] = []
    for k, line in enumerate(lines):
        texts.append((_MARGIN, _MARGIN + k * _LINE, line, "ink"))
    for k, heading in enumerate(headings[:columns]):
        texts.append((_MARGIN + k * (cell + _GAP), top - _LINE - 4, heading, "muted"))
    for k, image in enumerate(images):
        row, column = divmod(k, columns)
        x, y = _MARGIN + column * (cell + _GAP), top + row * step
        if k < len(captions) and captions[k]:
            texts.append((x, y, shorten(captions[k], max(3, cell // _LETTER)), "ink"))
        tile = _fit(image, cell)
        # Wide photos hang below their caption; tall ones stand at the left.
        canvas[y + caption :, x:][: tile.shape[0], : tile.shape[1]] = tile
    return _write(canvas, texts, colours)


def samples(
    split: Split,
    class_names: Sequence[str],
    *,
    size: int = 0,
    resize: Resize | None = None,
    rows: int = 4,
    columns: int = 6,
    seed: int = 0,
    dark: bool = False,
) -> bytes:
    """Draws some images of a split under the names of their classes, class by class.

    Args:
        split: the images.
        class_names: names in label order.
        size: side in pixels at which a network sees them; 0 shows whole photos.
        resize: how they are resized to it.
        rows: at most that many rows.
        columns: images in a row.
        seed: decides which images are shown.
        dark: draw for a dark page.

    Returns:
        A PNG as `grid` makes it.

    Raises:
        ConfigError: a count is not positive.
        DataError: the split is empty, or an image of it cannot be decoded.
    """
    _require("rows", rows)
    _require("columns", columns)
    chosen = choose(split.labels, rows * columns, seed)
    images = [_original(split, i, size, resize) for i in chosen]
    captions = [class_names[int(split.labels[i])] for i in chosen]
    return grid(images, captions, columns, dark=dark)


def preview(
    split: Split,
    augment: str,
    size: int,
    resize: Resize | None = None,
    rows: int = 4,
    columns: int = 6,
    seed: int | Sequence[int] = 0,
    *,
    class_names: Sequence[str] = (),
    dark: bool = False,
) -> bytes:
    """Draws what an augmentation makes of some images: each row is one image and its versions.

    Args:
        split: the images.
        augment: as in a stage, e.g. 'flip_crop'.
        size: side in pixels at which a network sees them.
        resize: how they are resized.
        rows: images.
        columns: the image itself and ``columns - 1`` versions of it.
        seed: decides which images are shown and how they are changed. With the seed of a
            stage's `TrainPlan` the versions are those of its first epochs.
        class_names: names in label order, shown above the images.
        dark: draw for a dark page.

    Returns:
        A PNG as `grid` makes it.

    Raises:
        ConfigError: the augmentation is wrong, or a count is not positive.
        DataError: the split is empty, or an image of it cannot be decoded.
    """
    _require("rows", rows)
    _require("columns", columns)
    images: list[np.ndarray] = []
    captions: list[str] = []
    for i, found in versions(split, augment, size, resize, rows, columns, seed):
        images += found
        name = class_names[int(split.labels[i])] if len(class_names) else ""
        captions += [name] + [""] * (columns - 1)
    headings = ["original", *(f"version {k}" for k in range(1, columns))]
    return grid(images, captions, columns, title=str(augment), headings=headings, dark=dark)


def versions(
    split: Split,
    augment: str,
    size: int,
    resize: Resize | None = None,
    rows: int = 4,
    columns: int = 6,
    seed: int | Sequence[int] = 0,
) -> list[tuple[int, list[np.ndarray]]]:
    """What `preview` draws.

    Returns:
        For each row the position of its image in the split, and ``columns`` uint8 [size, size, 3]:
        the image itself, then versions of it.
    """
    change = make_augment(augment, size)
    rule = resize or Resize()
    key = (seed,) if isinstance(seed, int) else tuple(seed)
    found = []
    for i in choose(split.labels, rows, key[0]):
        held = decode_resized(split.read(i), split.files[i], held_size(change, size), rule)
        images = [_original(split, i, size, rule)]
        for epoch in range(columns - 1):
            # The key of tlflax.data.pipeline.
            rng = generator(key, AUGMENT, epoch, i)
            images.append(held if change is None else change.apply(held, rng))
        found.append((i, images))
    return found


def choose(labels: np.ndarray, count: int, seed: int = 0) -> list[int]:
    """Returns positions of up to `count` images, spread over the classes, class by class.

    With more classes than images, classes at equal distances; else as equal a number of each
    class as there is.
    """
    rng = np.random.default_rng(seed)
    present = np.unique(labels)
    if len(present) > count:
        present = present[np.linspace(0, len(present) - 1, count).round().astype(int)]
    queues = [rng.permutation(np.flatnonzero(labels == label)).tolist() for label in present]
    taken: list[list[int]] = [[] for _ in queues]
    while sum(map(len, taken)) < count and any(queues):
        for queue, mine in zip(queues, taken, strict=True):
            if queue and sum(map(len, taken)) < count:
                mine.append(queue.pop(0))
    return [i for mine in taken for i in mine]


def _original(split: Split, i: int, size: int, resize: Resize | None) -> np.ndarray:
    if size:
        return decode_resized(split.read(i), split.files[i], size, resize or Resize())
    return decode(split.read(i), split.files[i])


def _fit(image: np.ndarray, cell: int) -> np.ndarray:
    """Scales the longer side to `cell` pixels."""
    scale = cell / max(image.shape[:2])
    width, height = (max(1, round(side * scale)) for side in image.shape[1::-1])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    if scale >= _SQUARES:
        how = cv2.INTER_NEAREST
    return cv2.resize(image, (width, height), interpolation=how)


def _write(canvas: np.ndarray, texts: list, colours: dict) -> bytes:
    """Puts text (x, y of the top left corner in pixels, line, colour) over pixels."""
    height, width = canvas.shape[:2]
    buffer = io.BytesIO()
    with drawing():
        figure = new_figure(width / DPI, height / DPI, colours)
        # Pixel by pixel: an Axes would resample the photos.
        figure.figimage(canvas)
        for x, y, line, colour in texts:
            figure.text(
                x / width, 1 - (y + _LINE * 0.72) / height, line, color=colours[colour],
                fontsize=8, va="baseline", ha="left",
            )  # fmt: skip
        save(figure, buffer)
    return buffer.getvalue()


def _require(name: str, count: int) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ConfigError(f"{name} must be a whole number from 1, not {count!r}")
