"""What a stage reads: images, or the stored output of its frozen prefix.

Either way a step begins at the boundary. Without stored features the prefix is computed batch by
batch, by the same compiled function that fills the store: cached or not is the same training.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from tlflax import tree
from tlflax.data import pipeline
from tlflax.data.augment import held_size, make_augment
from tlflax.data.decode import Resize
from tlflax.data.listing import Split
from tlflax.data.pipeline import Images
from tlflax.data.plan import TrainPlan
from tlflax.evaluate.predict import log_probabilities
from tlflax.features import boundary as prefix_rows
from tlflax.features.caching import Caching
from tlflax.model import Model
from tlflax.policy.policy import Policy
from tlflax.policy.stage import Stage
from tlflax.train.devices import Placement
from tlflax.train.prefix import Place, Prefix
from tlflax.train.state import above
from tlflax.train.step import make_eval_step

# Pixels of a split up to this size are decoded once and kept.
_HOLD_BYTES = 512 * 2**20


@dataclasses.dataclass
class TrainData:
    """Source of one stage's batches.

    Attributes:
      batches: ``(plan, first step, step after the last) ->`` host batches.
      place: puts a batch on the devices; its ``image`` is then what a step begins with.
      start: block whose output that is, ``None`` for images.
      facts: of the cache: rows, computed, reused, bytes, ...; ``None`` if it is not used.
      below: leaves of the frozen prefix that `place` reads, by collection, on the devices.
    """

    batches: Callable[[TrainPlan, int, int], Iterator[pipeline.Batch]]
    place: Place
    start: str | None
    facts: dict[str, Any] | None
    below: dict[str, tree.Flat]

    @property
    def cached(self) -> bool:
        """Whether the batches are stored features."""
        return self.facts is not None


class Streams:
    """Data of one model for training, validation and the test at the end.

    Args:
      model: structure.
      splits: ``train``, ``val`` and, if it is to be predicted, ``test``.
      placement: devices.
      batch_size: images per evaluation step.
      caching: how features are kept.
      say: prints a line for people.
    """

    def __init__(
        self,
        model: Model,
        splits: Mapping[str, Split],
        placement: Placement,
        batch_size: int,
        caching: Caching | None = None,
        say: Callable[[str], None] = print,
    ):
        self._model, self._placement, self._batch_size = model, placement, batch_size
        self._caching = caching or Caching()
        self._splits = splits
        self._images: dict[tuple[str, int], Images] = {}
        self._prefix = Prefix(model, splits, self.images, placement, batch_size, self._caching, say)

    @property
    def notes(self) -> list[str]:
        """What a user should know about the cache, one line each."""
        return self._prefix.notes

    def summary(self) -> dict[str, Any]:
        """What a report says about the cache; JSON-able."""
        return self._prefix.summary()

    @property
    def train_labels(self) -> np.ndarray:
        """Labels of the training split."""
        return self._splits["train"].labels

    @property
    def train_counts(self) -> dict[str, int]:
        """Training images by class name, in label order."""
        counts = np.bincount(self.train_labels, minlength=len(self._model.classes))
        return dict(zip(self._model.classes, counts.tolist(), strict=True))

    @property
    def val_labels(self) -> np.ndarray:
        """Labels of the validation split."""
        return self._splits["val"].labels

    def images(self, split: str, size: int | None = None) -> Images:
        """Pixels of a split, decoded once if they fit into memory."""
        size = size or self._model.architecture.image_size
        if (split, size) not in self._images:
            rule = resize_rule(self._model)
            self._images[split, size] = Images(self._splits[split], size, rule, _HOLD_BYTES)
        return self._images[split, size]

    def training(self, variables: dict[str, Any], policy: Policy, stage: Stage) -> TrainData:
        """Chooses between images and features for a stage."""
        size, labels = self._model.architecture.image_size, self.train_labels
        augment = make_augment(stage.augment, size)
        place, leaves = self._prefix.place(variables, policy.boundary)
        # More views than epochs would be computed for nothing.
        views = min(self._caching.views, int(stage.epochs)) if augment else 1
        if augment and stage.sampling == "balanced":
            # Images of small classes come several times an epoch.
            views = self._caching.views
        found = None
        if policy.boundary is not None and views:
            found = self._prefix.features(
                variables,
                policy.boundary,
                "train",
                augment,
                views,
                stage.augment if augment else "",
            )
        if found is not None:
            features, facts = found
            if augment is not None:
                self._prefix.note(
                    f"stage {stage.name!r}: cache=views:{views}: each training image is seen in "
                    f"{views} fixed augmented versions, not in a new one each epoch"
                )

            def stored(plan: TrainPlan, first: int, last: int) -> Iterator[pipeline.Batch]:
                return prefix_rows.train_batches(features, labels, plan, first, last)

            return TrainData(stored, self._placement.batch, policy.boundary, facts, leaves)

        pixels = self.images("train", held_size(augment, size))

        def read(plan: TrainPlan, first: int, last: int) -> Iterator[pipeline.Batch]:
            return pipeline.train_batches(pixels, labels, plan, augment, first, last)

        return TrainData(read, place, policy.boundary, None, leaves)

    def validation(
        self, variables: dict[str, Any], policy: Policy
    ) -> Callable[[Mapping[str, Any]], np.ndarray]:
        """How to evaluate on the validation split during a stage.

        Returns:
          A function: variables -> log-probabilities ``[N, classes]``. Leaves below the policy's
          boundary may be left out: they are taken from ``variables``, here.
        """
        return self._evaluation(variables, policy.boundary, "val")

    def predict(self, variables: dict[str, Any], split: str, boundary: str | None) -> np.ndarray:
        """Log-probabilities ``[N, classes]`` of a split.

        Args:
          variables: full variables.
          split: ``train``, ``val`` or ``test``.
          boundary: block up to which the features may be stored ones, ``None`` for no block.
        """
        placed = self._placement.replicate(variables)
        return self._evaluation(variables, boundary, split)(placed)

    def _evaluation(
        self, variables: dict[str, Any], boundary: str | None, split: str
    ) -> Callable[[Mapping[str, Any]], np.ndarray]:
        place, _ = self._prefix.place(variables, boundary)
        labels, features = self._splits[split].labels, None
        found = self._prefix.features(variables, boundary, split) if boundary else None
        if found is not None:
            features, place = found[0], self._placement.batch
        evaluate = make_eval_step(self._model.module(), boundary)
        names = tuple(self._model.anatomy.blocks)
        size, multiple = self._batch_size, self._placement.multiple

        def batches() -> Iterator[pipeline.Batch]:
            if features is None:
                return pipeline.eval_batches(self.images(split), labels, size, multiple)
            return prefix_rows.eval_batches(features, labels, size, multiple)

        def run(current: Mapping[str, Any]) -> np.ndarray:
            needed = {
                c: tree.unflatten(above(tree.flatten(v), boundary, names))
                for c, v in current.items()
            }
            return log_probabilities(
                evaluate, needed, batches(), place, len(labels), len(self._model.classes)
            )

        return run


def resize_rule(model: Model) -> Resize:
    """The resize part of a model's input contract."""
    c = model.spec.contract
    return Resize(c.method, c.antialias, c.fit, c.crop_fraction)
