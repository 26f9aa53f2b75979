"""What a stage reads: images, or the stored output of its frozen prefix.

Either way a step begins at the boundary. Without stored features the prefix is computed batch by
batch, by the same compiled function that fills the store: cached or not is the same training.
"""

import dataclasses
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from tlflax import folders, tree
from tlflax.data import pipeline
from tlflax.data.augment import Augment, held_size, make_augment
from tlflax.data.decode import Resize
from tlflax.data.listing import Split
from tlflax.data.pipeline import Images
from tlflax.data.plan import TrainPlan, eval_plan
from tlflax.errors import ConfigError, suggest
from tlflax.evaluate.predict import log_probabilities
from tlflax.features import boundary as prefix_rows
from tlflax.features.identity import below, identify, image_key, view_key
from tlflax.features.store import Features, Store, StoreFull
from tlflax.model import Model
from tlflax.policy.policy import Policy
from tlflax.policy.stage import Stage
from tlflax.train.devices import Placement
from tlflax.train.state import above
from tlflax.train.step import make_eval_step, make_prefix

_DTYPES = ("float32", "bfloat16")
# More missing rows than this are worth a progress bar.
_BAR_FROM = 200
# Pixels of a split up to this size are decoded once and kept.
_HOLD_BYTES = 512 * 2**20

Place = Callable[[dict[str, np.ndarray]], dict[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Caching:
    """How features of frozen blocks are kept.

    Attributes:
      mode: ``auto`` keeps them wherever the training is the same, ``off`` never, ``views:K`` also
        where images are augmented: in K fixed versions of each.
      gigabytes: largest size on disk of all stored features together.
      dtype: ``float32``, or ``bfloat16`` for half the space and 8 bits of precision.

    Raises:
      ConfigError: an unknown mode or dtype, or a size below 0.
    """

    mode: str = "auto"
    gigabytes: float = 20.0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.mode not in ("auto", "off") and not re.fullmatch(r"views:[1-9]\d*", self.mode):
            hint = suggest(self.mode, ("auto", "off", "views:4"))
            raise ConfigError(f"cache must be auto, off or views:K, got {self.mode!r}{hint}")
        if self.dtype not in _DTYPES:
            hint = suggest(self.dtype, _DTYPES)
            raise ConfigError(f"cache_dtype must be float32 or bfloat16, got {self.dtype!r}{hint}")
        if self.gigabytes < 0:
            raise ConfigError(f"cache_gb must be at least 0, got {self.gigabytes:g}")

    @property
    def views(self) -> int:
        """Fixed versions of each augmented image, 0 for none."""
        return int(self.mode[6:]) if self.mode.startswith("views:") else 0


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

    Attributes:
      notes: what a user should know about the cache, one line each.
      facts: what was read from the cache or added to it, by (boundary, split, augmentation).
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
        self._caching, self._say = caching or Caching(), say
        self._splits = splits
        self._images: dict[tuple[str, int], Images] = {}
        self._prefixes: dict[str, tuple[Any, Any]] = {}
        self._digests: dict[tuple[int, ...], tuple[Any, str]] = {}
        self._stores: dict[str, Store] = {}
        self.notes: list[str] = []
        self.facts: dict[tuple[str, str, str], dict[str, Any]] = {}

    @property
    def train_labels(self) -> np.ndarray:
        """Labels of the training split."""
        return self._splits["train"].labels

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
        place, leaves = self._place(variables, policy.boundary)
        # More views than epochs would be computed for nothing.
        views = min(self._caching.views, int(stage.epochs)) if augment else 1
        found = None
        if policy.boundary is not None and views:
            found = self._features(variables, policy.boundary, "train", augment, views, stage)
        if found is not None:
            features, facts = found
            if augment is not None:
                self._note(
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

    def summary(self) -> dict[str, Any]:
        """What a report says about the cache; JSON-able."""
        return {
            "mode": self._caching.mode,
            "folder": str(_root()),
            "budget_gb": self._caching.gigabytes,
            "features": list(self.facts.values()),
        }

    def _evaluation(
        self, variables: dict[str, Any], boundary: str | None, split: str
    ) -> Callable[[Mapping[str, Any]], np.ndarray]:
        place, _ = self._place(variables, boundary)
        labels, features = self._splits[split].labels, None
        found = self._features(variables, boundary, split) if boundary is not None else None
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

    def _place(
        self, variables: dict[str, Any], boundary: str | None
    ) -> tuple[Place, dict[str, tree.Flat]]:
        """Placement of a batch of images and, up to the boundary, their way through the prefix."""
        if boundary is None:
            return self._placement.batch, {c: {} for c in variables}
        leaves, digest = self._below(variables, boundary)
        if digest not in self._prefixes:
            # One at a time: weights of an earlier stage's prefix need not stay on the devices.
            self._prefixes.clear()
            function = make_prefix(self._model.module(), boundary, self._pooled(boundary))
            self._prefixes[digest] = (function, self._placement.replicate(leaves))
        function, placed = self._prefixes[digest]
        nested = {c: tree.unflatten(part) for c, part in placed.items()}

        def place(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
            ready = self._placement.batch(batch)
            return {**ready, "image": function(nested, ready["image"])}

        return place, placed

    def _below(self, variables: dict[str, Any], boundary: str) -> tuple[dict[str, tree.Flat], str]:
        """Leaves of the frozen prefix, and their digest together with the boundary."""
        leaves = below(variables, boundary, tuple(self._model.anatomy.blocks))
        flat = {f"{c}/{p}": v for c, part in leaves.items() for p, v in part.items()}
        # The same arrays are asked for at every stage and split; hashing a VGG takes a while.
        ids = tuple(id(v) for v in flat.values())
        if ids not in self._digests:
            self._digests.clear()
            self._digests[ids] = (flat, tree.digest(flat))
        return leaves, f"{boundary} {self._digests[ids][1]}"

    def _pooled(self, boundary: str) -> bool:
        return boundary == self._model.endpoint and self._model.architecture.head == "gap"

    def _shape(self, boundary: str) -> tuple[int, ...]:
        shapes = {b.name: b.shape for b in self._model.blocks}
        # A cut inside a block is the last entry under the block's name.
        shape = shapes.get(boundary, self._model.blocks[-1].shape)
        return shape[-1:] if self._pooled(boundary) else shape

    def _store(self, variables: dict[str, Any], boundary: str) -> Store:
        caching, pooled = self._caching, self._pooled(boundary)
        # Maps that are computed in bfloat16 lose nothing when they are stored so.
        precision = self._model.precision
        dtype = caching.dtype if pooled or precision == "float32" else precision
        _, digest = self._below(variables, boundary)
        name, facts = identify(self._model, boundary, digest, pooled, dtype, precision)
        if name not in self._stores:
            budget = int(caching.gigabytes * 2**30)
            self._stores[name] = Store(_root(), name, self._shape(boundary), dtype, facts, budget)
        return self._stores[name]

    def _features(
        self,
        variables: dict[str, Any],
        boundary: str,
        split: str,
        augment: Augment | None = None,
        views: int = 1,
        stage: Stage | None = None,
    ) -> tuple[Features, dict[str, Any]] | None:
        """Features of a split at the boundary, and what the report says about them.

        Returns:
          ``None`` if the cache is off, or they do not fit (which is noted).
        """
        hashes = self._splits[split].hashes
        if self._caching.mode == "off" or len(hashes) != len(self._splits[split]):
            return None
        store = self._store(variables, boundary)
        size = self._model.architecture.image_size
        if augment is None:
            keys = [image_key(h) for h in hashes]
        else:
            assert stage is not None
            keys = [view_key(h, stage.augment, v) for v in range(views) for h in hashes]
        images = self.images(split, held_size(augment, size))
        _, rows = eval_rows(len(hashes), self._batch_size, self._placement.multiple)
        place, _ = self._place(variables, boundary)

        def source(missing: Sequence[int], rows: int) -> prefix_rows.PixelSource:
            wanted = [(i % len(hashes), i // len(hashes)) for i in missing]
            return prefix_rows.PixelSource(images, wanted, rows, augment)

        bar = _Bar(f"{boundary}, {split}")
        try:
            facts = prefix_rows.fill(
                store, keys, source, lambda batch: place(batch)["image"], rows, bar
            )
        except StoreFull as error:
            self._note(
                f"features of the frozen blocks up to {boundary} ({split}) are not kept: {error}; "
                "they are computed again in every epoch"
            )
            return None
        finally:
            bar.close()
        for note in store.notes:
            self._note(note)
        if facts["damaged"]:
            self._note(
                f"{facts['damaged']} stored features in {store.folder} were damaged and have been "
                "computed again"
            )
        features = store.find(keys)
        facts |= {
            "split": split,
            "boundary": boundary,
            "views": views if augment is not None else 0,
            "bytes": features.nbytes,
            "dtype": store.dtype,
            "folder": str(store.folder) if store.on_disk else None,
        }
        # The first look says what was found and what computed; later ones find everything.
        self.facts.setdefault((boundary, split, stage.augment if stage else ""), facts)
        return features, facts

    def _note(self, line: str) -> None:
        if line not in self.notes:
            self.notes.append(line)
            self._say(f"warning: {line}")


def _root() -> Path:
    return folders.cache_dir() / "features"


class _Bar:
    """Progress of a fill, shown from the first batch on if there is much to do."""

    def __init__(self, name: str):
        self._name, self._bar = name, None

    def __call__(self, done: int, total: int) -> None:
        if total < _BAR_FROM or not sys.stderr.isatty():
            return
        if self._bar is None:
            self._bar = tqdm(total=total, desc=f"features of {self._name}", unit="image")
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Ends the line."""
        if self._bar is not None:
            self._bar.close()


def eval_rows(examples: int, batch_size: int, multiple: int) -> tuple[int, int]:
    """Number of evaluation batches of a split, and rows of each."""
    plan = eval_plan(examples, batch_size, multiple)
    return len(plan), len(plan[0][0]) if plan else 0


def resize_rule(model: Model) -> Resize:
    """The resize part of a model's input contract."""
    c = model.spec.contract
    return Resize(c.method, c.antialias, c.fit, c.crop_fraction)
