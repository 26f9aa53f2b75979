"""The form of what an audit has to say."""

from dataclasses import asdict, dataclass, field
from typing import Any

# In the order in which they are shown; only the first makes the command exit with 2.
SEVERITIES = {
    "error": "must be changed",
    "warning": "worth a look",
    "note": "good to know",
}


@dataclass
class Finding:
    """One kind of problem.

    Attributes:
        severity: a key of `SEVERITIES`.
        kind: short name, for programs.
        message: what was found.
        fix: what to do about it; empty if nothing.
        files: the images concerned; a pair reads 'test/a.png = train/b.png'.
        count: how many images, or whatever the message counts.
    """

    severity: str
    kind: str
    message: str
    fix: str
    files: list[str] = field(default_factory=list)
    count: int = 0

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def counted(n: int, noun: str) -> str:
    """Returns '1 image', '1,200 images'."""
    return f"{n:,} {noun}{'s' * (n != 1)}"
