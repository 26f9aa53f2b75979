"""Batches of pixels: decoded in threads, held in memory if they fit, a function of (seed, step)."""

import collections
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tlflax.data.augment import Augment, held_size
from tlflax.data.decode import Resize, decode_resized
from tlflax.data.listing import Split
from tlflax.data.plan import AUGMENT, TrainPlan, eval_plan, generator
from tlflax.errors import ConfigError

Batch = dict[str, np.ndarray]
# Batches kept ready beside those in the making: enough to ride out one slow batch.
_AHEAD = 2
# A thread makes a whole batch: more of them cost memory before they gain speed.
_MAX_THREADS = 16


class Images:
    """The pixels of a split at one size.

    A split that fits is decoded once (when first asked for) and kept; a larger one is decoded
    each time.

    Args:
        split: encoded images.
        size: side of the square they are resized to.
        rule: how.
        hold_bytes: largest total size, in bytes, that is kept in memory. The default, 512 MiB,
            holds 3500 images of 224x224.
    """

    def __init__(self, split: Split, size: int, rule: Resize, hold_bytes: int = 512 * 2**20):
        self.split, self.size, self.rule = split, size, rule
        self.held: np.ndarray | None = None
        if len(split) * size * size * 3 <= hold_bytes:
            self.held = np.empty((len(split), size, size, 3), np.uint8)
        self._ready = np.zeros(len(split), bool)

    def __len__(self) -> int:
        return len(self.split)

    def pixels(self, i: int) -> np.ndarray:
        """Returns image `i`, uint8 [size, size, 3], not to be written to."""
        if self.held is None:
            return self._decode(i)
        if not self._ready[i]:
            # Two threads may do the same image at once: both write the same bytes, and the
            # mark is set after them.
            self.held[i] = self._decode(i)
            self._ready[i] = True
        view = self.held[i]
        view.flags.writeable = False
        return view

    def batch(self, indices: np.ndarray) -> np.ndarray:
        """Returns uint8 [len(indices), size, size, 3], a copy."""
        if self.held is not None:
            for i in indices[~self._ready[indices]]:
                self.pixels(i)
            return self.held[indices]
        unique, back = np.unique(indices, return_inverse=True)
        return np.stack([self._decode(i) for i in unique])[back]

    def _decode(self, i: int) -> np.ndarray:
        return decode_resized(self.split.read(i), self.split.files[i], self.size, self.rule)


class _TrainSource:
    """Element k is the whole batch of step start + k: Python's cost per element is paid once."""

    def __init__(self, images, labels, plan, augment, start, stop):
        self.images, self.labels, self.plan, self.augment = images, labels, plan, augment
        self.start, self.stop = start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, k: int) -> Batch:
        indices, weights, _ = self.plan.batch(self.start + int(k))
        if self.augment is None:
            pixels = self.images.batch(indices)
        else:
            size = self.augment.size
            pixels = np.empty((len(indices), size, size, 3), np.uint8)
            turns = self.plan.turns(self.start + int(k))
            for row, (i, turn) in enumerate(zip(indices, turns, strict=True)):
                # Keyed by the example, not by its row: batch size does not change an image.
                rng = generator(self.plan.seed, AUGMENT, int(turn), int(i))
                pixels[row] = self.augment.apply(self.images.pixels(i), rng)
        return _batch(pixels, self.labels, indices, weights)


class _EvalSource:
    """Element k is the k-th batch in order. There is nothing random to pass in."""

    def __init__(self, images, labels, plan):
        self.images, self.labels, self.plan = images, labels, plan

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, k: int) -> Batch:
        indices, weights = self.plan[int(k)]
        return _batch(self.images.batch(indices), self.labels, indices, weights)


def train_batches(
    images: Images,
    labels: np.ndarray,
    plan: TrainPlan,
    augment: Augment | None,
    start: int,
    stop: int,
    threads: int | None = None,
) -> Iterator[Batch]:
    """Yields the batches of steps `start` .. `stop` - 1.

    A batch depends on the plan and its step only: resuming is another `start`, and the number
    of threads changes nothing.

    Args:
        images: pixels, held at `augment.held_size(augment, size)`.
        labels: int [N].
        plan: which examples each step gets.
        augment: random change of each image, or None.
        start: first step.
        stop: step after the last.
        threads: threads that make batches; None for one per core, 0 for none.

    Yields:
        Dicts of image uint8 [B, S, S, 3], label int32 [B], weight float32 [B] (0 on padding)
        and index int64 [B].

    Raises:
        ConfigError: plan, labels, images and augmentation do not belong together.
    """
    if not plan.examples == len(images) == len(labels):
        raise ConfigError(
            f"the plan is for {plan.examples} examples, but there are {len(images)} images and "
            f"{len(labels)} labels"
        )
    if augment is not None and images.size != held_size(augment, augment.size):
        raise ConfigError(
            f"images are held at {images.size} pixels, but the augmentation needs "
            f"{held_size(augment, augment.size)}"
        )
    return _iterate(_TrainSource(images, labels, plan, augment, start, max(start, stop)), threads)


def eval_batches(
    images: Images, labels: np.ndarray, batch_size: int, multiple: int = 1
) -> Iterator[Batch]:
    """Yields every image once, in order, in batches like those of `train_batches`.

    Args:
        images: pixels at the network's size.
        labels: int [N].
        batch_size: upper bound of examples per batch.
        multiple: row counts are rounded up to this (number of devices).
    """
    return _iterate(_EvalSource(images, labels, eval_plan(len(images), batch_size, multiple)), None)


def in_order(source: Any, threads: int | None = None) -> Iterator[Any]:
    """Yields ``source[0] .. source[len(source) - 1]``, made in threads.

    Args:
        source: has a length and elements that do not depend on each other.
        threads: as in `train_batches`.
    """
    return _iterate(source, threads)


def prefetch(
    iterator: Iterator[Any], put: Callable[[Any], Any] | None = None, depth: int = 2
) -> Iterator[Any]:
    """Yields `put(element)`, keeping `depth` elements on their way to the device.

    Args:
        iterator: host batches.
        put: device placement; returns at once, the copy runs on. None is `jax.device_put`.
        depth: elements placed ahead, at least 1.
    """
    if put is None:
        import jax

        put = jax.device_put
    waiting: collections.deque[Any] = collections.deque()
    for element in iterator:
        waiting.append(put(element))
        if len(waiting) >= max(depth, 1):
            yield waiting.popleft()
    yield from waiting


def _batch(pixels, labels, indices, weights) -> Batch:
    return {
        "image": pixels,
        "label": np.asarray(labels)[indices].astype(np.int32),
        "weight": weights,
        "index": indices,
    }


def _iterate(source: Any, threads: int | None) -> Iterator[Batch]:
    if not len(source):
        return
    # Imported here: it takes half a second, which runs that read stored features do not need.
    import grain

    threads = min(_cores(), _MAX_THREADS) if threads is None else threads
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + _AHEAD)
    yield from grain.MapDataset.source(source).to_iter_dataset(options)


def _cores() -> int:
    """Cores that this process may use: a container or a job often has fewer than the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
