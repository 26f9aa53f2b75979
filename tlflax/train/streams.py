"""What a stage reads: images, or the stored output of its frozen prefix."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tlflax import tree
from tlflax.data.augment import Augment, held_size, make_augment
from tlflax.data.decode import Resize
from tlflax.data.listing import Split
from tlflax.data.pipeline import Images, eval_batches
from tlflax.errors import ConfigError, suggest
from tlflax.evaluate.predict import log_probabilities
from tlflax.features.boundary import Features, compute, fits
from tlflax.model import Model
from tlflax.policy.policy import Policy
from tlflax.policy.stage import Stage
from tlflax.train.devices import Placement
from tlflax.train.state import above
from tlflax.train.step import make_eval_step, make_prefix

CACHE_MODES = ("auto", "off")


@dataclasses.dataclass
class TrainData:
    """Source of one stage's batches.

    Attributes:
      images: pixels, or features.
      augment: change of each image, ``None`` for features.
      start: block whose output the batches hold, ``None`` for images.
      cached: whether they are features.
    """

    images: Any
    augment: Augment | None
    start: str | None
    cached: bool


class Streams:
    """Training and validation data of one model; features are kept between stages.

    Args:
      model: structure.
      train: training split.
      val: validation split.
      placement: devices.
      batch_size: images per evaluation step.
      cache: ``auto`` keeps features wherever the result is identical, ``off`` never.

    Raises:
      ConfigError: unknown ``cache``.
    """

    def __init__(
        self,
        model: Model,
        train: Split,
        val: Split,
        placement: Placement,
        batch_size: int,
        cache: str = "auto",
    ):
        if cache not in CACHE_MODES:
            hint = suggest(cache, CACHE_MODES)
            raise ConfigError(f"cache must be one of {', '.join(CACHE_MODES)}, got {cache!r}{hint}")
        self._model, self._placement, self._cache = model, placement, cache
        self._splits = {"train": train, "val": val}
        self._batch_size = batch_size
        self._images: dict[tuple[str, int], Images] = {}
        self._features: dict[tuple[str, str], tuple[str, Features]] = {}
        self.train_labels, self.val_labels = train.labels, val.labels

    def images(self, split: str, size: int | None = None) -> Images:
        """Pixels of a split, decoded once."""
        size = size or self._model.architecture.image_size
        if (split, size) not in self._images:
            self._images[split, size] = Images(
                self._splits[split], size, resize_rule(self._model), 512 * 2**20
            )
        return self._images[split, size]

    def training(self, variables: dict[str, Any], policy: Policy, stage: Stage) -> TrainData:
        """Chooses between images and features for a stage."""
        size = self._model.architecture.image_size
        augment = make_augment(stage.augment, size)
        if augment is None and self._cacheable(policy, "train"):
            features = self._get(variables, policy, "train")
            return TrainData(features, None, policy.boundary, True)
        return TrainData(self.images("train", held_size(augment, size)), augment, None, False)

    def validation(
        self, variables: dict[str, Any], policy: Policy
    ) -> tuple[Callable[[dict[str, Any]], np.ndarray], str | None]:
        """How to evaluate on the validation split during a stage.

        Returns:
          A function: variables -> log-probabilities ``[N, classes]``; and the block that its
          pass starts after (``None``: at the images), so that the variables below may be left
          out.
        """
        start, source = None, None
        if self._cacheable(policy, "val"):
            start, source = policy.boundary, self._get(variables, policy, "val")
        pixels: Any = source or self.images("val")
        evaluate = make_eval_step(self._model.module(), start)
        names = tuple(self._model.anatomy.blocks)

        def validate(current: dict[str, Any]) -> np.ndarray:
            # Leaves below the boundary are not part of this pass.
            needed = {
                c: tree.unflatten(above(tree.flatten(v), start, names)) for c, v in current.items()
            }
            batches = eval_batches(
                pixels, self.val_labels, self._batch_size, self._placement.multiple
            )
            return log_probabilities(
                evaluate, needed, batches, self._placement.batch,
                len(self.val_labels), len(self._model.classes),
            )  # fmt: skip

        return validate, start

    def _cacheable(self, policy: Policy, split: str) -> bool:
        if self._cache == "off" or policy.boundary is None:
            return False
        return fits(self._shape(policy.boundary), len(self._splits[split]))

    def _pooled(self, boundary: str) -> bool:
        return boundary == self._model.endpoint and self._model.architecture.head == "gap"

    def _shape(self, boundary: str) -> tuple[int, ...]:
        shapes = {b.name: b.shape for b in self._model.blocks}
        # A cut inside a block is the last entry under the block's name.
        shape = shapes.get(boundary, self._model.blocks[-1].shape)
        return shape[-1:] if self._pooled(boundary) else shape

    def _get(self, variables: dict[str, Any], policy: Policy, split: str) -> Features:
        """Features at the boundary; recomputed only if the weights below it changed."""
        boundary = policy.boundary
        assert boundary is not None
        names = tuple(self._model.anatomy.blocks)
        below = {}
        for collection, leaves in variables.items():
            flat = tree.flatten(leaves)
            kept = above(flat, boundary, names)
            below |= {f"{collection}/{p}": v for p, v in flat.items() if p not in kept}
        key = tree.digest(below)
        known = self._features.get((split, boundary))
        if known is None or known[0] != key:
            prefix = make_prefix(self._model.module(), boundary, self._pooled(boundary))
            placed = self._placement.replicate(variables)
            images = self.images(split)
            batches = eval_batches(
                images, self._splits[split].labels, self._batch_size, self._placement.multiple
            )
            found = compute(
                lambda x: prefix(placed, x), batches, self._placement.batch, len(images)
            )
            # One boundary at a time: an earlier stage's features are not needed again.
            self._features = {k: v for k, v in self._features.items() if k[1] == boundary}
            self._features[split, boundary] = (key, found)
        return self._features[split, boundary][1]


def resize_rule(model: Model) -> Resize:
    """The resize part of a model's input contract."""
    c = model.spec.contract
    return Resize(c.method, c.antialias, c.fit, c.crop_fraction)


def probabilities(
    model: Model,
    finals: Mapping[str, dict[str, Any]],
    split: Split,
    placement: Placement,
    batch_size: int,
) -> dict[str, np.ndarray]:
    """Log-probabilities ``[N, classes]`` of a split under each set of variables.

    The images are read once, whatever the number of models.
    """
    images = Images(split, model.architecture.image_size, resize_rule(model), 0)
    evaluate = make_eval_step(model.module())
    batches = eval_batches(images, split.labels, batch_size, placement.multiple)
    placed = placement.replicate(dict(finals))
    results = {name: np.zeros((len(split), len(model.classes)), np.float32) for name in finals}
    for batch in batches:
        real = batch["weight"] > 0
        ready = placement.batch(batch)
        for name, variables in placed.items():
            rows = np.asarray(evaluate(variables, ready))
            results[name][batch["index"][real]] = rows[real]
    return results
