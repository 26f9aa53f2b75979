"""Keras weights of zoo networks: layers are called the same here and there, or told by order."""

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np

from tlflax.convert.keras_paths import by_order
from tlflax.convert.load import convert_keras
from tlflax.convert.rules import by_count, is_counted
from tlflax.errors import ConvertError

if TYPE_CHECKING:
    from tlflax.backbones.spec import Spec

# The layer by which EfficientNet prepares its input; ours is the contract.
_NORMALIZATION = re.compile(r"normalization(_\d+)?/(mean|variance|count)")


def convert(
    arrays: Mapping[str, np.ndarray], target: Mapping, spec: "Spec", what: str
) -> tuple[dict, list[str]]:
    """Converts, see `tlflax.convert.load.convert_keras`.

    Raises:
      ConvertError: also where the file normalises its input otherwise than the contract.
    """
    arrays, top = by_order(arrays, target, spec, what)
    normalisation = {n: arrays.pop(n) for n in list(arrays) if _NORMALIZATION.fullmatch(n)}
    _check_normalisation(normalisation, spec, what)
    names = our_layers({name.rsplit("/", 1)[0] for name in arrays}, spec)
    renamed = {}
    for name, array in arrays.items():
        layer, weight = name.rsplit("/", 1)
        renamed[f"{names.get(layer, layer)}/{weight}"] = array
    variables, dropped = convert_keras(renamed, target, spec.top_layers, what)
    return variables, dropped + top


def counted(name: str, spec: "Spec") -> bool:
    """Whether the array ``layer/weight`` belongs to the network without its classifier."""
    return name.rsplit("/", 1)[0] not in spec.top_layers and not _NORMALIZATION.fullmatch(name)


def our_layers(theirs: Collection[str], spec: "Spec") -> dict[str, str]:
    """Layer names that Keras counted -> ours; empty for a network that names all its layers."""
    if not any(is_counted(layer) for layer in theirs):
        return {}
    from tlflax.backbones.inventory import describe

    blocks = describe(spec.chain(), spec.min_size)
    return by_count(theirs, [layer for block in blocks for layer in block.layers])


def _check_normalisation(arrays: Mapping[str, np.ndarray], spec: "Spec", what: str) -> None:
    """Compares a Normalization layer with the contract.

    EfficientNet's published files have the standard deviations in the place of the variances:
    keras.applications divides by their root in this layer and, with weights="imagenet", once more
    in a Rescaling behind it (github.com/tensorflow/tensorflow/issues/49930), in all by the
    standard deviations. ``count`` is the size of the sample they were taken from.
    """
    expected = {"mean": spec.contract.mean, "variance": spec.contract.std}
    for name, array in arrays.items():
        wanted = expected.get(name.rsplit("/", 1)[1])
        # Stored in float32.
        if wanted is None or (array.size == 3 and np.allclose(array.ravel(), wanted, 1e-5, 0)):
            continue
        found = ", ".join(f"{v:g}" for v in array.ravel()[:4])
        raise ConvertError(
            f"{what} does not fit the network: its {name} is ({found}), {spec.name} has "
            f"({', '.join(f'{v:g}' for v in wanted)}); if the network was trained so, give its "
            "whole model file as the backbone"
        )
