"""How many images a second a compiled classifier gets through."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

SECONDS = 1.5
"""Longest time for the repetitions of one measurement; compilation comes on top."""


def images_per_second(
    classify: Callable[[np.ndarray], Any],
    image_size: int,
    batch_size: int = 32,
    repetitions: int = 15,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Median rate over repetitions on noise, after one call that compiles.

    What is timed is the network, from uint8 pixels in memory to probabilities in memory; reading,
    decoding and resizing of files is not.

    Args:
      classify: uint8 ``[B, H, W, 3]`` -> probabilities ``[B, K]``; waits for its result.
      image_size: H and W.
      batch_size: B.
      repetitions: at most; fewer of a slow network, but one at least.
      clock: seconds.
    """
    pixels = np.random.default_rng(0).integers(
        0, 256, (batch_size, image_size, image_size, 3), np.uint8
    )
    np.asarray(classify(pixels))
    rates: list[float] = []
    began = clock()
    while not rates or (len(rates) < repetitions and clock() - began < SECONDS):
        start = clock()
        np.asarray(classify(pixels))
        rates.append(batch_size / (clock() - start))
    return statistics.median(rates)
