"""Collects the pictures of a report: a few images each, so that it costs seconds.

Only here do the network, the data and the report meet; `tlflax.report.exhibits` says what comes
out.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tlflax.data.decode import decode_resized, thumbnail
from tlflax.data.listing import Split
from tlflax.data.source import Dataset
from tlflax.evaluate.interpretation import Lens
from tlflax.evaluate.metrics import UNKNOWN, Predictions
from tlflax.evaluate.reliability import calibration
from tlflax.look_at import Places
from tlflax.model import Model
from tlflax.policy.stage import Stage
from tlflax.report.exhibits import Activations, Exhibits, Look, Preview, Sample
from tlflax.train.streams import resize_rule

THUMBNAIL = 192
"""Longest side of a picture in pixels: twice its size on the page."""

# Pictures in all, and of one class.
_SAMPLES, _OF_A_CLASS = 36, 6
# Images of an augmentation's preview, and the image with its versions.
_ROWS, _COLUMNS = 3, 6
# Grad-CAM: of the surest mistakes, and of the surest right answers.
_WRONG, _RIGHT = 6, 6


def exhibit(
    model: Model,
    variables: dict[str, Any],
    data: Dataset,
    stages: Sequence[tuple[Stage, tuple[int, ...]]],
    shown: Predictions,
    validation: Predictions | None,
    split: Split,
    places: Places,
) -> tuple[dict[str, Any], Callable[[], Exhibits]]:
    """What the report says of probabilities and of its pictures, and how these are made.

    Args:
      model: structure.
      variables: of the classifier that is reported.
      data: all images.
      stages: each with the seed of its batches.
      shown: predictions that are reported.
      validation: those of the validation images.
      split: the images that were predicted for ``shown``.
      places: layers to look at.

    Returns:
      The entries ``calibration``, ``grad_cam`` and ``activations`` of ``report.json``, and a
      function that decodes and computes the pictures.
    """
    unseen = split is not data.val and not data.chosen_on_test
    one = _surest(shown) if places["activations"]["layers"] else None
    entries = {
        "calibration": calibration(shown, validation, "validation" if split is data.val else "test",
                                   unseen=unseen),
        "grad_cam": places["grad_cam"],
        "activations": places["activations"] | {"file": None if one is None else shown.files[one]},
    }  # fmt: skip
    return entries, functools.partial(
        gather, model, variables, data.train, stages, shown, split, places
    )


def gather(
    model: Model,
    variables: dict[str, Any],
    train: Split,
    stages: Sequence[tuple[Stage, tuple[int, ...]]],
    predictions: Predictions,
    split: Split,
    places: Places,
) -> Exhibits:
    """Decodes and computes what the report shows.

    Args:
      model: structure.
      variables: of the classifier that is reported.
      train: training images.
      stages: each with the seed of its batches.
      predictions: of the reported split.
      split: its images.
      places: layers to look at.
    """
    return Exhibits(
        samples(train, model.classes),
        previews(train, model, stages),
        *look_inside(model, variables, predictions, split, places),
    )


def samples(train: Split, classes: Sequence[str]) -> list[Sample]:
    """Some images of each class; of the first to the last at equal distances if there are many."""
    from tlflax.report import grid  # and with it matplotlib, which no first step needs

    each = max(1, min(_OF_A_CLASS, _SAMPLES // len(classes)))
    chosen = grid.choose(train.labels, min(_SAMPLES, each * len(classes)))
    found: dict[int, list[np.ndarray]] = {}
    for i in chosen:
        small = thumbnail(train.read(i), train.files[i], THUMBNAIL)
        found.setdefault(int(train.labels[i]), []).append(small)
    return [Sample(classes[label], pictures) for label, pictures in found.items()]


def previews(
    train: Split, model: Model, stages: Sequence[tuple[Stage, tuple[int, ...]]]
) -> list[Preview]:
    """What each distinct augmentation makes of a few training images, in its first epochs."""
    from tlflax.report import grid

    used: dict[str, list[tuple[Stage, tuple[int, ...]]]] = {}
    for stage, seed in stages:
        if stage.augment != "none":
            used.setdefault(stage.augment, []).append((stage, seed))
    found = []
    for augment, users in used.items():
        size, rule = model.architecture.image_size, resize_rule(model)
        rows = grid.versions(train, augment, size, rule, _ROWS, _COLUMNS, users[0][1])
        named = [(model.classes[int(train.labels[i])], pictures) for i, pictures in rows]
        found.append(Preview(augment, [stage.name for stage, _ in users], named))
    return found


def look_inside(
    model: Model, variables: dict[str, Any], p: Predictions, split: Split, places: Places
) -> tuple[list[Look], Activations | None]:
    """Grad-CAM of the surest mistakes and right answers, and outputs of layers for one image.

    Both come from one pass: compiling it takes longer than the rest.
    """
    endpoint, layers = places["grad_cam"]["endpoint"], places["activations"]["layers"]
    one = _surest(p) if layers else None
    chosen = [*p.surest_mistakes(_WRONG), *_surest_right(p, _RIGHT)] if endpoint else []
    order = chosen if one is None else [one, *(i for i in chosen if i != one)]
    if not order:
        return [], None
    size, rule = model.architecture.image_size, resize_rule(model)
    pixels = np.stack([decode_resized(split.read(i), split.files[i], size, rule) for i in order])
    lens, found = Lens(model, variables), []
    if chosen:
        # Asked for by its label: rounding could tip an image that stands between two classes.
        cam = lens.grad_cam(pixels, endpoint, p.predicted[order], layers)
        row = {i: at for at, i in enumerate(order)}
        found = [Look(i, pixels[row[i]], cam.heat[row[i]]) for i in chosen]
        outputs = cam.outputs
    else:
        outputs = {k: v[0] for k, v in lens.activations(pixels, layers).items()}
    return found, None if one is None else Activations(one, pixels[0], outputs)


def _surest(p: Predictions) -> int | None:
    """Position of the surest right answer; of the surest at all where none is right."""
    rows = np.flatnonzero(p.correct)
    rows = rows if rows.size else np.flatnonzero(p.labels != UNKNOWN)
    return int(rows[p.confidence[rows].argmax()]) if rows.size else None


def _surest_right(p: Predictions, count: int) -> list[int]:
    """Positions of right answers, the surest of each class in turn."""
    order = np.flatnonzero(p.correct)
    order = order[np.argsort(-p.confidence[order], kind="stable")]
    queues = [order[p.labels[order] == label].tolist() for label in np.unique(p.labels[order])]
    turns = [q[k] for k in range(count) for q in queues if k < len(q)][:count]
    return sorted(turns, key=lambda i: int(p.labels[i]))
