"""Random changes of training images. Evaluation has no augmentation parameter at all."""

import ast
import dataclasses
import math
from typing import Any, Protocol

import numpy as np

from tlflax.data.augment_basic import Flip, FlipCrop, ShiftRotate
from tlflax.data.augment_idg import KerasIDG
from tlflax.data.augment_layers import KerasLayers
from tlflax.data.augment_rand import RandAugment
from tlflax.data.augment_values import check_type
from tlflax.errors import ConfigError, listing, suggest

__all__ = [
    "Augment",
    "Flip",
    "FlipCrop",
    "KerasIDG",
    "KerasLayers",
    "RandAugment",
    "ShiftRotate",
    "held_size",
    "make_augment",
]


class Augment(Protocol):
    """A random change of one image, a pure function of (image, generator state)."""

    size: int

    @property
    def margin(self) -> float:
        """Pixels are held at `held_size` = ceil(size * margin)."""
        ...

    def apply(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Maps uint8 [M, M, 3] to uint8 [size, size, 3]; `image` is not changed."""
        ...


_KINDS = {
    "flip": Flip,
    "flip_crop": FlipCrop,
    "shift_rotate": ShiftRotate,
    "keras_idg": KerasIDG,
    "keras_layers": KerasLayers,
    "randaugment": RandAugment,
}


def make_augment(name: str, size: int) -> Augment | None:
    """Makes an augmentation from its config string.

    Args:
        name: 'none', a kind, or a kind with arguments, parsed and never executed. Values are
            numbers, True, False, None, names (quotes may be left out) and tuples of numbers:

            - 'flip': left-right.
            - 'flip_crop(scale=0.64, aspect=1.1, flip=True)': a random part of the image.
            - 'shift_rotate(rotation=10, shift=0.1, zoom=0.1)': small changes, no flip.
            - 'keras_idg(rotation_range=40, ..., horizontal_flip=True)': Keras'
              `ImageDataGenerator` (`KerasIDG`).
            - 'keras_layers(flip=horizontal, rotation=0.1, zoom=0.1, ...)': Keras'
              preprocessing layers (`KerasLayers`).
            - 'randaugment(n=2, magnitude=9, flip=False)': RandAugment (`RandAugment`).
        size: side of the images it returns.

    Returns:
        The augmentation, or None for 'none'.

    Raises:
        ConfigError: the kind or an argument is unknown, or a value has the wrong type or is out
            of range.
    """
    kind, nodes = _parse(str(name).strip() or "none")
    if kind == "none" and not nodes:
        return None
    if kind not in _KINDS:
        valid = ("none", *_KINDS)
        raise ConfigError(f"augment '{kind}' is not one of {listing(valid)}{suggest(kind, valid)}")
    fields = {f.name: f.type for f in dataclasses.fields(_KINDS[kind]) if f.name != "size"}
    elsewhere = getattr(_KINDS[kind], "elsewhere", {})
    arguments = {}
    for key, node in nodes.items():
        if key in elsewhere:
            raise ConfigError(f"augment {kind}({key}=...): {elsewhere[key]}")
        if key not in fields:
            have = listing(fields) or "none"
            raise ConfigError(
                f"augment '{kind}' has no argument '{key}' (it has {have}){suggest(key, fields)}"
            )
        arguments[key] = check_type(kind, key, fields[key], _value(kind, key, node))
    return _KINDS[kind](size=size, **arguments)


def held_size(augment: Augment | None, size: int) -> int:
    """Returns the side at which pixels are held before augmentation."""
    # The small constant keeps 224 * 1.25 = 280 from becoming 281 by rounding.
    return size if augment is None else math.ceil(size * augment.margin - 1e-6)


def _parse(text: str) -> tuple[str, dict[str, ast.expr]]:
    try:
        node = ast.parse(text, mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, {}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
            if all(k.arg for k in node.keywords):
                return node.func.id, {str(k.arg): k.value for k in node.keywords}
    except (SyntaxError, ValueError, TypeError, RecursionError):
        node = None  # anything that is no plain call ends in the one error below.
    raise ConfigError(
        f"augment '{text}' is not a name or a name with keyword arguments, like "
        f"flip_crop(scale=0.5){suggest(text.partition('(')[0], ('none', *_KINDS))}"
    )


def _value(kind: str, key: str, node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        return node.id
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError):
        raise ConfigError(
            f"augment {kind}({key}={ast.unparse(node)}): write {key} as a number, a name or a "
            "tuple of numbers; nothing is computed here"
        ) from None
