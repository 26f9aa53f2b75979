"""Keras weights, whatever file Keras put them in."""

from pathlib import Path

import numpy as np

from tlflax.convert.keras_h5 import read_keras_h5


def read_keras(path: Path) -> dict[str, np.ndarray]:
    """Reads every weight as ``layer/weight``.

    Raises:
      ConvertError: see the readers.
    """
    return read_keras_h5(path)
