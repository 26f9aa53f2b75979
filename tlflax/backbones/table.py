"""The zoo: one table, name -> spec. Import-light, so that listing it needs no jax.

The entries stand beside one another by origin: `zoo_keras`, `zoo_torch`, `zoo_hub`.
"""

from tlflax.backbones import zoo_hub, zoo_keras, zoo_torch
from tlflax.backbones.spec import Contract, Spec
from tlflax.errors import ConfigError, listing, suggest

_GLYPH = Contract(order="L", scale=1 / 255, mean=(0.0,), std=(1.0,))
_UNIT = Contract(scale=1 / 255)

_OWN = (
    Spec(
        name="glyph_cnn",
        build="tlflax.backbones.glyph_cnn:glyph_cnn",
        options={"widths": (16, 32, 128), "contract": _GLYPH},
        contract=_GLYPH,
        size=32,
        min_size=8,
        packaged="glyph_cnn.safetensors",
        parameters=202_000,
        licence="Apache-2.0 (made by scripts/pretrain_quickstart.py)",
    ),
    # What tutorials train from scratch beside a pretrained network: three times 3x3 convolution,
    # ReLU and pooling. There are no weights of it.
    Spec(
        name="simple_cnn",
        build="tlflax.backbones.vgg:vgg",
        options={"convolutions": (1, 1, 1), "contract": _UNIT, "widths": (32, 64, 128)},
        contract=_UNIT,
        size=32,
        min_size=8,
        parameters=93_248,
        licence="no weights are published",
    ),
)

_TABLES = (zoo_keras, zoo_torch, zoo_hub)

ZOO: dict[str, Spec] = {s.name: s for t in _TABLES for s in t.SPECS} | {s.name: s for s in _OWN}

# Spellings of the same network: a missing width means 1.0; other common spellings.
_SYNONYMS = {k: v for table in _TABLES for k, v in table.SYNONYMS.items()}

# Same name, other weights or layers elsewhere: never taken silently, only suggested.
_SUGGESTED = {k: v for table in _TABLES for k, v in table.SUGGESTED.items()}


def get(name: str) -> Spec:
    """Looks a network up by zoo name or synonym.

    Raises:
      ConfigError: unknown name; the message has the nearest ones.
    """
    if name in ZOO:
        return ZOO[name]
    if name in _SYNONYMS:
        return ZOO[_SYNONYMS[name]]
    if name in _SUGGESTED:
        hint = f"; here it is called {_SUGGESTED[name]}"
    else:
        hint = suggest(name, ZOO)
    raise ConfigError(
        f"unknown backbone {name!r}{hint} (all: {listing(ZOO, 30)}; `python -m tlflax.zoo`)"
    )


def knows(name: str) -> bool:
    """Whether `get` has a network or a suggestion for exactly this name."""
    return name in ZOO or name in _SYNONYMS or name in _SUGGESTED
