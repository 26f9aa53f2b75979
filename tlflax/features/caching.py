"""How features of frozen blocks are kept: the user's choice."""

import dataclasses
import re

from tlflax.errors import ConfigError, suggest

_DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Caching:
    """How features of frozen blocks are kept.

    Attributes:
      mode: ``auto`` keeps them wherever the training is the same, ``off`` never, ``views:K`` also
        where images are augmented: in K fixed versions of each.
      gigabytes: largest size on disk of all stored features together.
      dtype: ``float32``, or ``bfloat16`` for half the space and 8 bits of precision.

    Raises:
      ConfigError: an unknown mode or dtype, or a size below 0.
    """

    mode: str = "auto"
    gigabytes: float = 20.0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.mode not in ("auto", "off") and not re.fullmatch(r"views:[1-9]\d*", self.mode):
            hint = suggest(self.mode, ("auto", "off", "views:4"))
            raise ConfigError(f"cache must be auto, off or views:K, got {self.mode!r}{hint}")
        if self.dtype not in _DTYPES:
            hint = suggest(self.dtype, _DTYPES)
            raise ConfigError(f"cache_dtype must be float32 or bfloat16, got {self.dtype!r}{hint}")
        if self.gigabytes < 0:
            raise ConfigError(f"cache_gb must be at least 0, got {self.gigabytes:g}")

    @property
    def views(self) -> int:
        """Fixed versions of each augmented image, 0 for none."""
        return int(self.mode[6:]) if self.mode.startswith("views:") else 0
