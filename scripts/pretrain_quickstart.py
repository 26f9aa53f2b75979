"""Makes tlflax/weights/glyph_cnn.safetensors, the weights of the quickstart.

    python scripts/pretrain_quickstart.py [--out FILE] [--seed 0] [--images 16000] [--epochs 6]

Renders letters and digits in the fonts that come with matplotlib (DejaVu and STIX, never a font
of the system) and trains `glyph_cnn` to tell the 62 characters apart, with the functions that
`tlflax.train.loop` uses. An image is a pure function of (seed, index), a step of (seed, step): the
same machine and versions give the same file, bit for bit. Handwritten digits are neither used
nor looked at here; they are what the quickstart transfers to.
"""

import argparse
import datetime
import string
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import cv2
import numpy as np

CHARACTERS = string.ascii_uppercase + string.ascii_lowercase + string.digits
FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique",
    "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique",
    "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic",
    "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta",
)  # fmt: skip
SIZE = 32  # pixels a side, as in the zoo's table
_PLATE = 96  # height in pixels at which a character is drawn once, before it is warped
HELD_OUT = 2000
BATCH = 32


@cache
def plate(font: str, character: str) -> np.ndarray:
    """One character, white on black, cut to its ink: float32 [h, w] in 0..1."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    image = Image.new("L", (3 * _PLATE, 3 * _PLATE))
    face = ImageFont.truetype(str(file), _PLATE)
    ImageDraw.Draw(image).text((_PLATE, _PLATE // 2), character, fill=255, font=face)
    return np.asarray(image.crop(image.getbbox()), np.float32) / 255


def render(seed: int, index: int) -> tuple[np.ndarray, int]:
    """Draws image ``index``.

    Args:
      seed: of the whole set.
      index: position; the same (seed, index) is the same image.

    Returns:
      Grey levels uint8 [32, 32], light strokes on dark ground, and the place of its character in
      `CHARACTERS`.
    """
    rng = np.random.default_rng([seed, index])
    label = int(rng.integers(len(CHARACTERS)))
    ink = plate(FONTS[int(rng.integers(len(FONTS)))], CHARACTERS[label])
    image = _coarse(_warped(_stroked(ink, rng), rng), rng)
    contrast, ground = rng.uniform(0.6, 1.0), rng.uniform(0, 0.15)
    image = ground + (contrast - ground) * image
    image = image + rng.normal(0, rng.uniform(0, 0.06), image.shape)
    return np.round(255 * np.clip(image, 0, 1)).astype(np.uint8), label


def _stroked(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Strokes a little thicker or thinner."""
    width = int(rng.integers(0, 6))
    ink = np.pad(ink, 8)
    if width < 2:
        return ink
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    thin = rng.random() < 0.3
    return cv2.erode(ink, kernel) if thin else cv2.dilate(ink, kernel)


def _warped(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rotation, shear, stretch, shift, and a smooth wobble of the strokes; float32 [32, 32]."""
    turn, shear = np.radians(rng.uniform(-15, 15)), rng.uniform(-0.35, 0.35)
    height = SIZE * rng.uniform(0.6, 1.0)
    # Between the shape of the font and a shape that fills the square.
    scale_y = height / ink.shape[0]
    scale_x = scale_y * (ink.shape[0] / ink.shape[1]) ** rng.uniform(0, 0.6)
    scale_x = min(scale_x, SIZE / ink.shape[1])
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = rotation @ np.array([[1, shear], [0, 1]]) @ np.diag([scale_x, scale_y])
    inverse = np.linalg.inv(matrix)
    centre = (np.array(ink.shape[::-1]) - 1) / 2
    shift = rng.uniform(-0.08, 0.08, 2) * SIZE + (SIZE - 1) / 2
    # Rendered large enough that every result pixel averages over the plate's pixels.
    ink = cv2.GaussianBlur(ink, (0, 0), max(0.45 / max(scale_x, scale_y), 0.5))
    x, y = np.meshgrid(np.arange(SIZE) - shift[0], np.arange(SIZE) - shift[1])
    bend = rng.normal(0, rng.uniform(0, 1.8), (2, 4, 4)).astype(np.float32)
    dx, dy = (cv2.resize(b, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC) for b in bend)
    source = np.einsum("ij,jhw->ihw", inverse, np.stack([x + dx, y + dy]))
    grid = (source + centre[:, None, None]).astype(np.float32)
    return cv2.remap(ink, grid[0], grid[1], cv2.INTER_LINEAR, borderValue=0)


def _coarse(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every other image as if scanned with 8 to 16 pixels a side; or a slight blur."""
    if rng.random() < 0.5:
        side = int(rng.integers(8, 17))
        small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
        return cv2.resize(small, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.2))


def draw(seed: int, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Draws many: RGB uint8 [N, 32, 32, 3] (three equal channels) and labels int32 [N]."""
    images = np.empty((len(indices), SIZE, SIZE, 3), np.uint8)
    labels = np.empty(len(indices), np.int32)
    for row, index in enumerate(indices):
        grey, labels[row] = render(seed, int(index))
        images[row] = grey[..., None]
    return images, labels


def pretrain(seed: int, images: int, epochs: int) -> tuple[dict, float]:
    """Trains.

    Args:
      seed: of images, initial values and order.
      images: training images in an epoch.
      epochs: how many; each has new images.

    Returns:
      Variables of the chain (without the ``backbone`` level), and the accuracy on `HELD_OUT`
      other images.
    """
    import jax

    from tlflax.data.plan import TrainPlan
    from tlflax.model import Architecture, Model
    from tlflax.policy.optimizer import make_optimizer, make_schedule
    from tlflax.policy.stage import make_stage
    from tlflax.train.state import merge, split_variables
    from tlflax.train.step import make_eval_step, make_train_step

    began = time.monotonic()
    held_x, held_y = draw(seed, range(HELD_OUT))
    model = Model(Architecture("glyph_cnn", "auto", tuple(CHARACTERS), SIZE))
    stage = make_stage(
        {"name": "glyphs", "epochs": epochs, "train": "all", "lr": 3e-3, "schedule": "one_cycle",
         "bn": "train"}
    )  # fmt: skip
    policy = model.policy(stage)
    plan = TrainPlan(images, BATCH, (seed, 0))
    steps = epochs * plan.steps_per_epoch
    schedule = make_schedule(stage.schedule, stage.lr, steps, stage.warmup)
    optimizer = make_optimizer(stage.optimizer, schedule, policy.multipliers)
    state, frozen = split_variables(model.init(seed), policy, optimizer)
    # No label smoothing: it makes features that transfer less well (Kornblith et al.,
    # arXiv:2010.16402).
    step = make_train_step(model.module(policy.live), optimizer, seed=(seed, 0))
    evaluate = make_eval_step(model.module())

    def accuracy() -> float:
        variables = merge(state, frozen)
        hits = 0
        for at in range(0, HELD_OUT, 200):
            log_p = evaluate(variables, {"image": held_x[at : at + 200]})
            hits += int((np.asarray(log_p).argmax(-1) == held_y[at : at + 200]).sum())
        return hits / HELD_OUT

    def drawn(epoch: int) -> tuple[np.ndarray, np.ndarray]:
        first = HELD_OUT + epoch * images
        return draw(seed, range(first, first + images))

    # Every epoch has new images; they are drawn while the one before is trained on.
    with ThreadPoolExecutor(1) as drawer:
        ahead = drawer.submit(drawn, 0)
        for epoch in range(epochs):
            x, y = ahead.result()
            ahead = drawer.submit(drawn, epoch + 1) if epoch + 1 < epochs else ahead
            losses = []
            for k in range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch):
                indices, weight, _ = plan.batch(k)
                batch = {"image": x[indices], "label": y[indices], "weight": weight}
                state, loss = step(state, frozen, batch)
                losses.append(loss)
            print(
                f"epoch {epoch + 1}/{epochs}: loss {np.mean(losses):.3f}, held-out accuracy "
                f"{accuracy():.4f}, {time.monotonic() - began:.0f} s",
                flush=True,
            )
    final = jax.device_get(merge(state, frozen))
    return {c: v["backbone"] for c, v in final.items()}, accuracy()


def main() -> None:
    """The command."""
    from tlflax import tree
    from tlflax.backbones import table
    from tlflax.convert.store import Weights, save_weights, sha256
    from tlflax.versions import versions_of

    spec = table.get("glyph_cnn")
    packaged = Path(table.__file__).parent.parent / "weights" / str(spec.packaged)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=packaged)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=16_000, help="in an epoch")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--date", default=datetime.date.today().isoformat(), help="recorded")
    chosen = parser.parse_args()
    cv2.setNumThreads(1)  # images of 32 pixels: threads would cost more than they save.
    variables, accuracy = pretrain(chosen.seed, chosen.images, chosen.epochs)
    statement = (
        f"trained from random values on {chosen.epochs} times {chosen.images} rendered glyphs "
        f"(seed {chosen.seed}); accuracy over {len(CHARACTERS)} characters on {HELD_OUT} "
        f"held-out glyphs {accuracy:.4f}"
    )
    certificate = {
        "method": "trained",
        "statement": statement,
        "parameters": tree.count(tree.flatten(variables)),
        "left_out": ["head/logits/bias", "head/logits/kernel"],
        "endpoints": {},
        "held_out_accuracy": accuracy,
        "held_out_images": HELD_OUT,
        "date": chosen.date,
        "versions": versions_of("tlflax", "jax", "flax", "matplotlib", "pillow", "numpy"),
    }
    # The script is the source of these weights as a downloaded file is of others'.
    script = Path(__file__)
    source = f"packaged with tlflax (scripts/{script.name})"
    save_weights(chosen.out, spec, Weights(variables, source, sha256(script), certificate))
    print(f"{statement}\n{chosen.out}: {chosen.out.stat().st_size:,} bytes, {sha256(chosen.out)}")


if __name__ == "__main__":
    main()
