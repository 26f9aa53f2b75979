"""The frozen part of a network: placing images behind it, and its stored output.

Everything below a boundary goes through one compiled function, whether its output is kept or not.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from tlflax import folders, tree
from tlflax.data.augment import Augment, held_size
from tlflax.data.listing import Split
from tlflax.data.pipeline import Images
from tlflax.data.plan import eval_plan
from tlflax.features import boundary as rows_of
from tlflax.features.caching import Caching
from tlflax.features.identity import below, identify, image_key, view_key
from tlflax.features.store import Features, Store, StoreFull
from tlflax.model import Model
from tlflax.train.devices import Placement
from tlflax.train.step import make_prefix

# More missing rows than this are worth a progress bar.
_BAR_FROM = 200

Place = Callable[[dict[str, np.ndarray]], dict[str, jax.Array]]


class Prefix:
    """Frozen prefixes of one model.

    Args:
      model: structure.
      splits: by name.
      images: ``(split, size) ->`` pixels.
      placement: devices.
      batch_size: images at a time.
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
        images: Callable[[str, int], Images],
        placement: Placement,
        batch_size: int,
        caching: Caching,
        say: Callable[[str], None],
    ):
        self._model, self._splits, self._images = model, splits, images
        self._placement, self._batch_size = placement, batch_size
        self._caching, self._say = caching, say
        self._functions: dict[str, tuple[Any, Any]] = {}
        self._digests: dict[tuple[int, ...], tuple[Any, str]] = {}
        self._stores: dict[str, Store] = {}
        self.notes: list[str] = []
        self.facts: dict[tuple[str, str, str], dict[str, Any]] = {}

    def summary(self) -> dict[str, Any]:
        """What a report says about the cache; JSON-able."""
        return {
            "mode": self._caching.mode,
            "folder": str(_root()),
            "budget_gb": self._caching.gigabytes,
            "features": list(self.facts.values()),
        }

    def note(self, line: str) -> None:
        """Adds a line for the user, once."""
        if line not in self.notes:
            self.notes.append(line)
            self._say(f"warning: {line}")

    def place(
        self, variables: dict[str, Any], boundary: str | None
    ) -> tuple[Place, dict[str, tree.Flat]]:
        """Placement of a batch of images and, up to the boundary, their way through the prefix."""
        if boundary is None:
            return self._placement.batch, {c: {} for c in variables}
        leaves, digest = self._below(variables, boundary)
        if digest not in self._functions:
            # One at a time: weights of an earlier stage's prefix need not stay on the devices.
            self._functions.clear()
            function = make_prefix(self._model.module(), boundary, self._model.averaged(boundary))
            self._functions[digest] = (function, self._placement.replicate(leaves))
        function, placed = self._functions[digest]
        nested = {c: tree.unflatten(part) for c, part in placed.items()}

        def run(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
            ready = self._placement.batch(batch)
            return {**ready, "image": function(nested, ready["image"])}

        return run, placed

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

    def _store(self, variables: dict[str, Any], boundary: str) -> Store:
        caching, pooled = self._caching, self._model.averaged(boundary)
        # Maps that are computed in bfloat16 lose nothing when they are stored so.
        precision = self._model.precision
        dtype = caching.dtype if pooled or precision == "float32" else precision
        _, digest = self._below(variables, boundary)
        name, facts = identify(self._model, boundary, digest, pooled, dtype, precision)
        if name not in self._stores:
            budget = int(caching.gigabytes * 2**30)
            shape = self._model.shape_at(boundary)
            self._stores[name] = Store(_root(), name, shape, dtype, facts, budget)
        return self._stores[name]

    def features(
        self,
        variables: dict[str, Any],
        boundary: str,
        split: str,
        augment: Augment | None = None,
        views: int = 1,
        named: str = "",
    ) -> tuple[Features, dict[str, Any]] | None:
        """Features of a split at the boundary, and what the report says about them.

        Args:
          variables: full variables.
          boundary: last block of the prefix.
          split: name.
          augment: change of the images, ``None`` for none.
          views: fixed versions of each image, if they are changed.
          named: the augmentation as the user wrote it.

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
            keys = [view_key(h, named, v) for v in range(views) for h in hashes]
        images = self._images(split, held_size(augment, size))
        plan = eval_plan(len(hashes), self._batch_size, self._placement.multiple)
        rows = len(plan[0][0]) if plan else 0
        place, _ = self.place(variables, boundary)

        def source(missing: Sequence[int], rows: int) -> rows_of.PixelSource:
            wanted = [(i % len(hashes), i // len(hashes)) for i in missing]
            return rows_of.PixelSource(images, wanted, rows, augment)

        bar = _Bar(f"{boundary}, {split}")
        try:
            facts = rows_of.fill(
                store, keys, source, lambda batch: place(batch)["image"], rows, bar
            )
        except StoreFull as error:
            self.note(
                f"features of the frozen blocks up to {boundary} ({split}) are not kept: {error}; "
                "they are computed again in every epoch"
            )
            return None
        finally:
            bar.close()
        for note in store.notes:
            self.note(note)
        if facts["damaged"]:
            self.note(
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
        self.facts.setdefault((boundary, split, named), facts)
        return features, facts


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
