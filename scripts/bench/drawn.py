"""Weights and images that every peer draws alike (numpy only)."""

import numpy as np


def images(count: int, size: int, seed: int = 0) -> np.ndarray:
    """RGB uint8 ``[count, size, size, 3]``: smooth blobs with noise, as photos have both."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (count, -(-size // 8), -(-size // 8), 3))
    smooth = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :size, :size]
    return np.clip(smooth + rng.normal(0, 20, smooth.shape), 0, 255).astype(np.uint8)


def labels(count: int) -> np.ndarray:
    """Class 0 and 1 in turn, int32 ``[count]``."""
    return (np.arange(count) % 2).astype(np.int32)


def head(features: int) -> np.ndarray:
    """Kernel of the two-class layer, float32 ``[features, 2]``."""
    rng = np.random.default_rng(1)
    return (rng.standard_normal((features, 2)) / np.sqrt(features)).astype(np.float32)


def weight(
    kind: str, shape: tuple[int, ...], fan_in: int, rng: np.random.Generator, gain: float = 2.0
) -> np.ndarray:
    """One array such that activations neither vanish nor explode.

    Args:
      kind: ``kernel``, ``gamma`` (scale of a norm), ``variance``; anything else is a bias, a
        shift or a mean.
      shape: of the array.
      fan_in: inputs of one output of a kernel.
      rng: drawn from.
      gain: of a kernel: 2 keeps the size of activations behind ReLUs, 1 halves their square, so
        that a network without norms brings its pixels down to the size of a loss's logits.
    """
    if kind == "kernel":
        return (rng.standard_normal(shape) * np.sqrt(gain / fan_in)).astype(np.float32)
    if kind in ("gamma", "variance"):
        return rng.uniform(0.7, 1.3, shape).astype(np.float32)
    return (rng.standard_normal(shape) * 0.1).astype(np.float32)
