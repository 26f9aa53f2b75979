"""Numbers and colours as the report shows them, in pictures and in text alike."""

import math
import numbers
from datetime import datetime
from typing import Any, TypeGuard

ABSENT = "\N{EN DASH}"
"""Stands for what was not measured or is not defined."""

# Okabe & Ito, "Color universal design" (2008): told apart with every common colour blindness.
# Blue and vermillion carry the lines; the dark variant takes the palette's light members.
LIGHT: dict[str, Any] = {
    "background": "#ffffff",
    "ink": "#1f2328",
    "muted": "#5f6670",
    "grid": "#e4e6e9",
    "span": "#f3f5f7",
    "train": "#0072b2",
    "validation": "#d55e00",
    "baseline": "#6b6f76",
    "empty": "#eff3f6",
    "ramp": ["#f3f7fa", "#9cc5e3", "#3d8ec4", "#084b83"],
    "on_ramp": "#ffffff",
}
DARK: dict[str, Any] = {
    "background": "#1c1f24",
    "ink": "#e6e8eb",
    "muted": "#a3a9b2",
    "grid": "#343941",
    "span": "#23272d",
    "train": "#56b4e9",
    "validation": "#f0a04b",
    "baseline": "#a3a9b2",
    "empty": "#1c1f24",
    "ramp": ["#252a31", "#215173", "#3f8fc4", "#a8d8f6"],
    "on_ramp": "#10151c",
}


def finite(value: Any) -> TypeGuard[float]:
    """Whether a value is a number that can be shown; None, NaN and infinities are not."""
    return isinstance(value, numbers.Real) and math.isfinite(value)


def percent(fraction: float | None) -> str:
    """Writes 0.9444 as ``94.4%``."""
    return f"{100 * fraction:.1f}%" if finite(fraction) else ABSENT


def certainty(probability: float | None) -> str:
    """Writes the probability of a wrong answer, which 100.0% would make look certain."""
    if finite(probability) and 0.9995 <= probability < 1:
        return ">99.9%"
    return percent(probability)


def interval(ends: Any) -> str:
    """Writes [0.742, 0.99] as ``74.2-99.0%`` with an en dash."""
    if not ends or not all(finite(end) for end in ends):
        return ABSENT
    return f"{100 * ends[0]:.1f}{ABSENT}{100 * ends[1]:.1f}%"


def points(difference: float | None) -> str:
    """Writes a difference of two accuracies in signed percentage points."""
    if not finite(difference):
        return ABSENT
    value = round(100 * difference, 1)
    sign = "+" if value > 0 else "\N{MINUS SIGN}" if value < 0 else "\N{PLUS-MINUS SIGN}"
    unit = "point" if abs(value) == 1 else "points"
    return f"{sign}{abs(value):.1f} {unit}"


def points_of(fraction: float) -> str:
    """Writes 0.024 as ``2.4``, the number of percentage points without sign of plus."""
    # Rounded first: a difference of -0.0001 is 0.0, without a sign.
    value = round(100 * fraction, 1) + 0.0
    return f"{value:.1f}".replace("-", "\N{MINUS SIGN}")


def small_p(p: float) -> str:
    """Writes a p value as ``p = .004`` or ``p < .001``."""
    if p < 0.0005:
        return "p < .001"
    if p > 0.995:
        return "p = 1"
    return f"p = {p:.3f}".replace("0.", ".") if p < 0.0995 else f"p = {p:.2f}".replace("0.", ".")


def count(value: int | float | None) -> str:
    """Writes 8975264 as ``8,975,264``."""
    return f"{value:,.0f}" if finite(value) else ABSENT


def number(value: Any) -> str:
    """Writes a number with four significant digits; other values as text."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return ABSENT if value is None else str(value)
    return f"{value:.4g}" if math.isfinite(value) else ABSENT


def duration(seconds: float | None) -> str:
    """Writes seconds as ``8.4 s``, ``3 min 20 s`` or ``2 h 05 min``."""
    if not finite(seconds):
        return ABSENT
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(whole / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def day(iso: str | None) -> str:
    """Writes an ISO date as ``22 November 2026, 18:05``; anything else is left as it is."""
    try:
        when = datetime.fromisoformat(str(iso))
    except ValueError:
        return str(iso or "")
    month = (
        "January February March April May June July August September October November December"
    ).split()[when.month - 1]
    clock = f", {when:%H:%M}" if "T" in str(iso) or ":" in str(iso) else ""
    return f"{when.day} {month} {when.year}{clock}"


def shorten(text: str, limit: int) -> str:
    """Cuts a text to ``limit`` characters, out of its middle: the ends tell names apart."""
    if len(text) <= limit:
        return text
    tail = (limit - 1) // 3
    return f"{text[: limit - 1 - tail]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - tail :]}"
