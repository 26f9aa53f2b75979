"""Placement on all local devices: batches are split over them, everything else is copied."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec


class Placement:
    """Data parallelism over the devices of this process.

    Args:
      devices: default all local devices.

    Attributes:
      multiple: number of devices; batch rows are rounded up to a multiple of it.
    """

    def __init__(self, devices: Sequence[Any] | None = None):
        devices = devices or jax.local_devices()
        self.multiple = len(devices)
        # Auto axes: with jax's default (explicit) ones Linen's Dropout cannot be traced.
        mesh = jax.make_mesh(
            (len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices
        )
        self._rows = NamedSharding(mesh, PartitionSpec("data"))
        self._copied = NamedSharding(mesh, PartitionSpec())

    def batch(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """Puts a batch on the devices, rows split evenly. ``index`` stays on the host."""
        moved = {k: v for k, v in batch.items() if k != "index"}
        return jax.device_put(moved, self._rows)

    def replicate(self, tree: Any) -> Any:
        """Copies a tree to every device. The result never shares memory with the argument."""
        # A copy first: a donated buffer must not be somebody else's array.
        return jax.device_put(jax.tree.map(lambda x: np.array(x), tree), self._copied)
