"""Checks of the arguments of augmentations: one line that names kind, argument and fix."""

import math
import types
import typing
from collections.abc import Iterable
from typing import Any

from tlflax.errors import ConfigError, listing, suggest


def check_type(kind: str, key: str, annotation: Any, value: Any) -> Any:
    """Returns a value as the type of its field; lists become tuples.

    Args:
        kind: name of the augmentation.
        key: name of the argument.
        annotation: bool, int, float, str, None, ``tuple[float, float]``,
            ``tuple[float, ...]``, or a union of them. A number written without a point stays an
            int where a float is asked for, and is refused where the other way round.
        value: what the user wrote.

    Raises:
        ConfigError: the value is of no such type, or is not finite.
    """
    options = _options(annotation)
    if isinstance(value, list):
        value = tuple(value)
    if not any(_fits(option, value) for option in options):
        wanted = " or ".join(_WORDS[option] for option in options)
        raise ConfigError(f"augment {kind}({key}={value!r}): {key} must be {wanted}")
    return value


def require(kind: str, key: str, value: Any, valid: bool, wanted: str) -> None:
    """Refuses a value out of its range.

    Raises:
        ConfigError: `valid` is False.
    """
    if not valid:
        raise ConfigError(f"augment {kind}({key}={value!r}): {key} must be {wanted}")


def require_choice(kind: str, key: str, value: str, choices: Iterable[str]) -> None:
    """Refuses a name that is not one of `choices`.

    Raises:
        ConfigError: with the nearest names.
    """
    if value not in choices:
        near = suggest(value, choices)
        raise ConfigError(
            f"augment {kind}({key}='{value}'): {key} is one of {listing(choices)}{near}"
        )


def pair(value: float | tuple[float, float]) -> tuple[float, float]:
    """Returns ``(-value, value)`` for a number, and the lower value first of two."""
    if isinstance(value, tuple):
        return min(value), max(value)
    return -value, value


_WORDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a name",
    types.NoneType: "None",
    tuple[float, float]: "two numbers (low, high)",
    tuple[float, ...]: "numbers (a, b, ...)",
}


def _options(annotation: Any) -> tuple[Any, ...]:
    return typing.get_args(annotation) if _is_union(annotation) else (annotation,)


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _fits(option: Any, value: Any) -> bool:
    if option is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and math.isfinite(value)
    if option is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if option == tuple[float, float]:
        return isinstance(value, tuple) and len(value) == 2 and all(_fits(float, v) for v in value)
    if option == tuple[float, ...]:
        return isinstance(value, tuple) and bool(value) and all(_fits(float, v) for v in value)
    return isinstance(value, option)
