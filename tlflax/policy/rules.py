"""Rules say which parameters train and how fast: ``("from block_13", ("block_16", 0.3))``.

A rule is a text or a ``(text, multiplier)`` pair; the first rule that covers a parameter decides,
a parameter that no rule covers is frozen, multiplier 0 freezes. The head trains at the stage's
rate unless a rule names it. Texts:

  ``head``             the head (its default)
  ``all``              every block of the backbone
  ``from NAME``        NAME and every block above it
  ``last N``           the last N blocks that have parameters; ``last 25%`` rounds up
  ``NAME``             a block, a group of blocks (``block5``), a layer inside a block
  ``GLOB``             ``block5_*``, or with a slash a parameter path: ``*/bias``
"""

import dataclasses
import fnmatch
import math
import re
from collections.abc import Iterable, Mapping, Sequence

from tlflax.backbones.names import group
from tlflax.errors import PolicyError, suggest


@dataclasses.dataclass(frozen=True)
class Rule:
    """A text and the factor on the stage's learning rate."""

    text: str
    multiplier: float = 1.0

    def __str__(self) -> str:
        return self.text if self.multiplier == 1.0 else f"{self.text} x {self.multiplier:g}"


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """The names that rules can refer to.

    Attributes:
      blocks: block names up to the cut, in order.
      above: names of the chain's blocks and layers above the cut: not part of the model.
      paths: every parameter path, ``backbone/BLOCK/LAYER/leaf`` or ``head/LAYER/leaf``.
      aliases: other names -> block names.
      layers: layer name -> block, up to the cut.
      endpoint: where the backbone is cut.
    """

    blocks: tuple[str, ...]
    above: tuple[str, ...]
    paths: tuple[str, ...]
    aliases: Mapping[str, str]
    layers: Mapping[str, str]
    endpoint: str

    def of_block(self, block: str) -> list[str]:
        """Parameter paths of a block."""
        return [p for p in self.paths if p.startswith(f"backbone/{block}/")]

    @property
    def with_parameters(self) -> list[str]:
        """Blocks that have parameters."""
        present = {p.split("/")[1] for p in self.paths if p.startswith("backbone/")}
        return [b for b in self.blocks if b in present]


def parse_rules(train: object) -> tuple[Rule, ...]:
    """Turns what users write into rules.

    Args:
      train: ``None`` (head only), a text, a ``{text: multiplier}`` mapping, or a sequence of
        texts and ``(text, multiplier)`` pairs.

    Raises:
      PolicyError: an entry has another form or a multiplier that is no number >= 0.
    """
    if train is None:
        return ()
    if isinstance(train, str):
        train = (train,) if train.strip() else ()
    entries = train.items() if isinstance(train, Mapping) else train
    if not isinstance(entries, Iterable):
        raise PolicyError(f"train must be rules such as ('from block5',), got {train!r}")
    rules = []
    for entry in entries:
        if isinstance(entry, Rule):
            rules.append(entry)
            continue
        if isinstance(entry, str):
            rules.append(Rule(entry.strip()))
            continue
        if not isinstance(entry, Sequence) or len(entry) != 2 or not isinstance(entry[0], str):
            raise PolicyError(f"a rule is 'NAME' or ('NAME', multiplier), got {entry!r}")
        text, value = entry
        if isinstance(value, bool):
            value = float(value)
        if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            raise PolicyError(f"rule {text!r}: the multiplier must be a number >= 0, got {value!r}")
        rules.append(Rule(text.strip(), float(value)))
    return tuple(r for r in rules if r.text)


def _block(name: str, anatomy: Anatomy, rule: Rule) -> str:
    """First block that ``name`` stands for, or an error that says why there is none."""
    name = anatomy.aliases.get(name, name)
    found = group(name, anatomy.blocks)
    if found:
        return found[0]
    _refuse_above(name, anatomy, rule)
    block = anatomy.layers.get(name)
    if block is not None:
        inside = [layer for layer, b in anatomy.layers.items() if b == block]
        if name == inside[0]:
            return block
        raise PolicyError(
            f"rule '{rule}': {name} lies inside block {block}; start at the block "
            f"('from {block}') or name parameters by path ('backbone/{block}/{name}/*')"
        )
    raise _unknown(name, anatomy, rule)


def _refuse_above(name: str, anatomy: Anatomy, rule: Rule) -> None:
    if group(anatomy.aliases.get(name, name), anatomy.above):
        raise PolicyError(
            f"rule '{rule}': {name} lies above the cut at {anatomy.endpoint} and is not part of "
            f"this model; name a block up to {anatomy.blocks[-1]} or cut higher (endpoint=...)"
        )


def _unknown(name: str, anatomy: Anatomy, rule: Rule) -> PolicyError:
    names = [*anatomy.blocks, *anatomy.aliases, *anatomy.layers, "head", "all"]
    return PolicyError(
        f"rule '{rule}' matches nothing: there is no block {name!r}{suggest(name, names)}"
    )


def covered(rule: Rule, anatomy: Anatomy) -> list[str]:
    """Parameter paths that a rule covers, whatever other rules say.

    Raises:
      PolicyError: the rule covers nothing; the message names the nearest valid names.
    """
    text = rule.text
    backbone = [p for p in anatomy.paths if p.startswith("backbone/")]
    if text in ("all", "backbone"):
        return backbone
    if text == "head":
        return [p for p in anatomy.paths if p.startswith("head/")]
    if text.startswith("from "):
        first = _block(text[5:].strip(), anatomy, rule)
        rest = anatomy.blocks[anatomy.blocks.index(first) :]
        found = [p for b in rest for p in anatomy.of_block(b)]
    elif match := re.fullmatch(r"last\s+(\d+(?:\.\d+)?)\s*(%?)(?:\s*blocks?)?", text):
        found = _last(float(match[1]), match[2] == "%", rule, anatomy)
    elif "/" in text:
        patterns = (text, f"backbone/{text}")
        found = [p for p in anatomy.paths if any(fnmatch.fnmatchcase(p, q) for q in patterns)]
        if not found:
            raise PolicyError(
                f"rule '{rule}' matches no parameter path{suggest(text, anatomy.paths)}"
            )
    else:
        found = _named(text, anatomy, rule)
    if not found:
        raise PolicyError(f"rule '{rule}' covers only layers without parameters")
    return found


def _last(amount: float, percent: bool, rule: Rule, anatomy: Anatomy) -> list[str]:
    blocks = anatomy.with_parameters
    if percent and not 0 < amount <= 100:
        raise PolicyError(f"rule '{rule}': the percentage must be above 0 and at most 100")
    if not percent and (amount != int(amount) or not 1 <= amount <= len(blocks)):
        raise PolicyError(
            f"rule '{rule}': this model has {len(blocks)} blocks with parameters; write "
            f"'last 1' to 'last {len(blocks)}', or a percentage"
        )
    number = math.ceil(amount / 100 * len(blocks)) if percent else int(amount)
    return [p for b in blocks[-number:] for p in anatomy.of_block(b)]


def _named(text: str, anatomy: Anatomy, rule: Rule) -> list[str]:
    name = anatomy.aliases.get(text, text)
    blocks = group(name, anatomy.blocks)
    if not blocks and any(c in text for c in "*?["):
        blocks = fnmatch.filter(anatomy.blocks, text)
        if not blocks and fnmatch.filter(anatomy.above, text):
            raise PolicyError(
                f"rule '{rule}' matches only blocks above the cut at {anatomy.endpoint}, "
                "which are not part of this model"
            )
    if blocks:
        return [p for b in blocks for p in anatomy.of_block(b)]
    _refuse_above(name, anatomy, rule)
    if name in anatomy.layers:
        return [p for p in anatomy.paths if p.split("/")[2:3] == [name]]
    raise _unknown(text, anatomy, rule)
