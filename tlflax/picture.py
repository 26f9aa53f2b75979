"""A picture as a notebook shows it."""

from pathlib import Path


class Picture:
    """A PNG that a notebook shows and `save` writes."""

    def __init__(self, png: bytes):
        self.png = png

    def _repr_png_(self) -> bytes:
        return self.png

    def save(self, path: str | Path) -> None:
        """Writes the file."""
        Path(path).write_bytes(self.png)
