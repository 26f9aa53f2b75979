"""The frozen prefix is computed once per image: its outputs stand in for the images.

Everything below the lowest trained block is a pure function of the pixels (stored BatchNorm
statistics, no dropout), so training on its stored output is the same training.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from tlflax.data.augment import Augment
from tlflax.data.pipeline import Batch, Images, in_order
from tlflax.data.plan import TrainPlan, eval_plan, generator
from tlflax.features.store import Features, Store

# First spawn-key entry of the generators of fixed views (see `tlflax.data.plan`): they depend on
# no run's seed, because runs with other seeds are to find the same views again.
_VIEW = 2
# An interruption costs at most this much work; a segment is never larger than this.
_SEGMENT_SECONDS = 10.0
_SEGMENT_BYTES = 32 * 2**20


class PixelSource:
    """Batches of the images (or views of images) that have no row yet, in order.

    Args:
      images: pixels at the size the augmentation (if any) needs.
      wanted: (position in the split, view) of each row to come.
      rows: batch rows; the last batch is padded.
      augment: change of each image, or ``None``.
    """

    def __init__(
        self,
        images: Images,
        wanted: Sequence[tuple[int, int]],
        rows: int,
        augment: Augment | None,
    ):
        self._images, self._wanted, self._rows, self._augment = images, wanted, rows, augment

    def __len__(self) -> int:
        return -(-len(self._wanted) // self._rows)

    def __getitem__(self, k: int) -> Batch:
        first = int(k) * self._rows
        chosen = self._wanted[first : first + self._rows]
        if self._augment is None:
            pixels = self._images.batch(np.array([i for i, _ in chosen]))
        else:
            pixels = np.stack([self._view(i, view) for i, view in chosen])
        # Padded to the same number of rows: one compiled program for all batches.
        return {"image": np.resize(pixels, (self._rows, *pixels.shape[1:]))}

    def _view(self, i: int, view: int) -> np.ndarray:
        assert self._augment is not None
        # Keyed by the content: a view is the same whatever split or run the image is in.
        rng = generator((int(self._images.split.hashes[i][:16], 16),), _VIEW, view)
        return self._augment.apply(self._images.pixels(i), rng)


def fill(
    store: Store,
    keys: Sequence[bytes],
    source: Callable[[Sequence[int], int], PixelSource],
    prefix: Callable[[dict[str, np.ndarray]], Any],
    rows: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Computes the rows that a store lacks.

    What was computed is written every few seconds, and when an error or a signal ends it: the
    next run goes on from there. Rows that another process adds meanwhile are not computed again.

    Args:
      store: filled until it has all ``keys``.
      keys: of every row that is needed.
      source: ``(positions in keys, batch rows) ->`` their pixels.
      prefix: batch of pixels ``[rows, ...] ->`` device array of features.
      rows: per batch.
      progress: called with (rows done, rows missing at the start).

    Returns:
      ``rows`` needed, ``reused``, ``computed``, ``damaged``, ``seconds``.

    Raises:
      StoreFull: the rows do not fit.
    """
    began = time.monotonic()
    store.refresh()
    damaged = store.damaged(keys)
    missing = store.missing(keys)
    if len(missing) < len(keys):
        # Reading is using too: what is read must not be the first to be evicted.
        with contextlib.suppress(OSError):
            store.touch()
    todo = _first_of_each(keys, missing)
    total = len(todo)
    if todo:
        store.reserve(total, keys)
    while todo:
        _fill_segments(store, keys, todo, source(todo, rows), prefix, rows, progress, total)
        # Damaged rows that come back from the disk, or rows evicted meanwhile: look again.
        todo = _first_of_each(keys, store.missing(keys))
    return {
        "rows": len(keys),
        "reused": len(keys) - total,
        "computed": total,
        "damaged": damaged,
        "seconds": round(time.monotonic() - began, 3),
    }


def _first_of_each(keys: Sequence[bytes], positions: Iterable[int]) -> list[int]:
    """Positions of different keys only: equal images have one row."""
    return list({keys[i]: i for i in reversed(list(positions))}.values())[::-1]


def _fill_segments(store, keys, todo, source, prefix, rows, progress, total) -> None:
    """Runs the batches of ``source``, one device batch ahead of the host."""
    pending: list[tuple[list[int], Any]] = []
    done: list[tuple[list[int], np.ndarray]] = []
    since = time.monotonic()

    def collect() -> None:
        chosen, values = pending.pop(0)
        done.append((chosen, np.asarray(values)[: len(chosen)]))

    def flush() -> None:
        if done:
            positions = [i for chosen, _ in done for i in chosen]
            store.append([keys[i] for i in positions], np.concatenate([v for _, v in done]))
            done.clear()

    try:
        for k, batch in enumerate(in_order(source)):
            pending.append((todo[k * rows : (k + 1) * rows], prefix(batch)))
            if len(pending) > 1:
                collect()
            held = sum(v.nbytes for _, v in done)
            if time.monotonic() - since > _SEGMENT_SECONDS or held > _SEGMENT_BYTES:
                flush()
                since = time.monotonic()
            progress(min((k + 1) * rows, len(todo)), total)
        while pending:
            collect()
    finally:
        flush()


def train_batches(
    features: Features,
    labels: np.ndarray,
    plan: TrainPlan,
    start: int,
    stop: int,
) -> Iterator[Batch]:
    """The batches of `tlflax.data.pipeline.train_batches` with features in place of pixels.

    Args:
      features: one row for each example, or ``views`` times as many: all examples' first view,
        then their second, ...; an example's n-th turn sees the n-th view.
      labels: int ``[N]``.
      plan: which examples each step gets.
      start: first step.
      stop: step after the last.
    """
    views = len(features) // len(labels)
    for step in range(start, stop):
        indices, weights, _ = plan.batch(step)
        rows = features.batch(plan.turns(step) % views * len(labels) + indices)
        yield _batch(rows, labels, indices, weights)


def eval_batches(
    features: Features, labels: np.ndarray, batch_size: int, multiple: int = 1
) -> Iterator[Batch]:
    """The batches of `tlflax.data.pipeline.eval_batches` with features in place of pixels."""
    for indices, weights in eval_plan(len(labels), batch_size, multiple):
        yield _batch(features.batch(indices), labels, indices, weights)


def _batch(rows, labels, indices, weights) -> Batch:
    labels = np.asarray(labels)[indices].astype(np.int32)
    return {"image": rows, "label": labels, "weight": weights, "index": indices}
