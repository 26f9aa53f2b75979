"""The frozen prefix is computed once: its outputs stand in for the images.

Everything below the lowest trained block is a pure function of the image (stored BatchNorm
statistics, no dropout, no augmentation), so training on its stored output is the same training.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

# Above this many bytes of features the images are run through the prefix each time.
MEMORY_LIMIT = 2 * 2**30


@dataclasses.dataclass
class Features:
    """Outputs of the frozen prefix, float32 ``[N, ...]``; takes the place of `Images`."""

    values: np.ndarray
    size: int = 0

    def __len__(self) -> int:
        return len(self.values)

    def batch(self, indices: np.ndarray) -> np.ndarray:
        """Rows ``[len(indices), ...]``, a copy."""
        return self.values[indices]


def compute(
    prefix: Callable[[Any], Any],
    batches: Iterator[dict[str, np.ndarray]],
    place: Callable[[dict[str, np.ndarray]], dict[str, Any]],
    examples: int,
) -> Features:
    """Runs every image through the prefix once.

    Args:
      prefix: images on the device -> features.
      batches: evaluation batches (in order, padded, ``weight`` 0 on padding).
      place: device placement.
      examples: number of images.
    """
    values: np.ndarray | None = None
    for batch in batches:
        real = batch["weight"] > 0
        rows = np.asarray(prefix(place(batch)["image"]))
        if values is None:
            values = np.empty((examples, *rows.shape[1:]), np.float32)
        values[batch["index"][real]] = rows[real]
    assert values is not None
    return Features(values)


def fits(shape: tuple[int, ...], examples: int) -> bool:
    """Whether float32 features of ``shape`` for all examples stay below `MEMORY_LIMIT`."""
    return int(np.prod(shape)) * 4 * examples <= MEMORY_LIMIT
