"""Keras weights of zoo networks: layers are called the same here and there."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from tlflax.convert.load import convert_keras

if TYPE_CHECKING:
    from tlflax.backbones.spec import Spec


def convert(
    arrays: Mapping[str, np.ndarray], target: Mapping, spec: "Spec", what: str
) -> tuple[dict, list[str]]:
    """Converts, see `tlflax.convert.load.convert_keras`."""
    return convert_keras(arrays, target, spec.top_layers, what)


def counted(name: str, spec: "Spec") -> bool:
    """Whether the array ``layer/weight`` belongs to the network without its classifier."""
    return name.rsplit("/", 1)[0] not in spec.top_layers
