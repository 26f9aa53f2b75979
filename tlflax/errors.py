"""Errors that a user can do something about, and the suggestions they carry."""

import difflib
from collections.abc import Iterable


class TlflaxError(Exception):
    """Base of every error whose message tells the user what to change (exit code 2)."""


class ConfigError(TlflaxError):
    """A config key, value or flag is wrong."""


class PolicyError(TlflaxError):
    """The freezing / learning-rate rules do not fit the network."""


class ConvertError(TlflaxError):
    """A weight file cannot be read or does not fit the network."""


class DataError(TlflaxError):
    """The images or labels cannot be used as they are."""


def suggest(name: str, valid: Iterable[str], limit: int = 3) -> str:
    """Returns ``'; did you mean a, b?'`` for the nearest valid names, or ``''`` if none is near.

    Names that contain ``name`` (or the other way round) count as near even when their edit
    distance is large: ``mobilenet_v2`` should find ``mobilenet_v2_1.0``.
    """
    names = list(dict.fromkeys(str(v) for v in valid))
    lowered = {n.lower(): n for n in reversed(names)}
    close = difflib.get_close_matches(name.lower(), lowered, n=limit, cutoff=0.6)
    found = [lowered[c] for c in close]
    if len(name) >= 3:
        found += [n for n in names if name.lower() in n.lower() or n.lower() in name.lower()]
    found = list(dict.fromkeys(found))[:limit]
    return f"; did you mean {', '.join(found)}?" if found else ""


def listing(names: Iterable[str], limit: int = 12) -> str:
    """Returns ``'a, b, c'``, shortened to ``limit`` names with a count of the rest."""
    names = [str(n) for n in names]
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown}, ... ({len(names) - limit} more)"
