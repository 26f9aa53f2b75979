"""Rules applied to a model: the multiplier of every parameter, and what follows from it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tlflax.errors import PolicyError
from tlflax.policy.rules import Anatomy, Rule, covered


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the policy table: a block, or the head.

    Attributes:
      block: name.
      parameters: scalars in ``params``.
      statistics: scalars in ``batch_stats`` (Keras counts them as non-trainable).
      trained: whether any of its parameters train.
      multiplier: the largest factor on the learning rate.
      batchnorm: ``stored``, ``batch`` (live) or ``-`` (has none).
    """

    block: str
    parameters: int
    statistics: int
    trained: bool
    multiplier: float
    batchnorm: str


@dataclasses.dataclass(frozen=True)
class Policy:
    """What trains in one stage.

    Attributes:
      multipliers: parameter path -> factor on the learning rate; 0 is frozen.
      live: blocks whose BatchNorm uses and updates batch statistics.
      boundary: last block of the frozen prefix (everything up to it is a pure function of the
        image), or ``None`` if the first block trains.
      rows: the table.
      trainable_parameters: scalars that train.
    """

    multipliers: Mapping[str, float]
    live: frozenset[str]
    boundary: str | None
    rows: tuple[Row, ...]
    trainable_parameters: int

    @property
    def trained(self) -> list[str]:
        """Paths that train."""
        return [p for p, m in self.multipliers.items() if m > 0]

    @property
    def frozen_parameters(self) -> int:
        """Scalars that do not train, BatchNorm statistics included, as Keras counts them."""
        total = sum(r.parameters + r.statistics for r in self.rows)
        return total - self.trainable_parameters

    def as_rows(self, learning_rate: float) -> list[dict[str, Any]]:
        """The table as JSON-able rows, statistics counted with the parameters."""
        return [
            {
                "block": r.block,
                "parameters": r.parameters + r.statistics,
                "trained": r.trained,
                "multiplier": r.multiplier,
                "learning_rate": r.multiplier * learning_rate,
                "batchnorm": r.batchnorm,
            }
            for r in self.rows
        ]


def apply_rules(
    rules: Sequence[Rule],
    anatomy: Anatomy,
    parameters: Mapping[str, int],
    statistics: Mapping[str, int],
    bn: str = "stored",
) -> Policy:
    """Decides every parameter by the first rule that covers it.

    Args:
      rules: in order.
      anatomy: the model's names.
      parameters: path -> number of scalars, for ``params``.
      statistics: path -> number of scalars, for ``batch_stats``.
      bn: ``stored``, or ``train``: wholly trained blocks use batch statistics.

    Raises:
      PolicyError: a rule covers nothing or only what earlier rules decided, nothing trains, or
        ``bn`` is unknown.
    """
    if bn not in ("stored", "train"):
        raise PolicyError(f"bn must be 'stored' or 'train', got {bn!r}")
    decided: dict[str, float] = {}
    for i, rule in enumerate(rules):
        paths = covered(rule, anatomy)
        fresh = [p for p in paths if p not in decided]
        if not fresh:
            before = ", ".join(f"'{r}'" for r in rules[:i])
            raise PolicyError(
                f"rule '{rule}' has no effect: {before} already decide everything it covers; "
                "put the more specific rule first"
            )
        decided.update(dict.fromkeys(fresh, rule.multiplier))
    default = {p: 1.0 if p.startswith("head/") else 0.0 for p in anatomy.paths}
    multipliers = {p: decided.get(p, default[p]) for p in anatomy.paths}
    if not any(multipliers.values()):
        raise PolicyError(
            "nothing is trainable: the rules freeze the backbone and the head; train at least "
            "'head'"
        )
    rows, live = [], []
    for block in (*anatomy.blocks, "head"):
        prefix = "head/" if block == "head" else f"backbone/{block}/"
        values = [m for p, m in multipliers.items() if p.startswith(prefix)]
        stats = sum(n for p, n in statistics.items() if p.startswith(prefix))
        is_live = bn == "train" and stats > 0 and bool(values) and all(values)
        if is_live:
            live.append(block)
        mode = "-" if not stats else "batch" if is_live else "stored"
        size = sum(n for p, n in parameters.items() if p.startswith(prefix))
        top = max(values, default=0.0)
        rows.append(Row(block, size, stats, top > 0, top, mode))
    boundary = None
    for row in rows[:-1]:
        if row.trained:
            break
        boundary = row.block
    # Cut inside a block: the frozen prefix ends at the cut, not at the block's own end.
    if boundary == anatomy.blocks[-1]:
        boundary = anatomy.endpoint
    trainable = sum(parameters[p] for p, m in multipliers.items() if m > 0)
    return Policy(multipliers, frozenset(live), boundary, tuple(rows), trainable)


def table(policy: Policy, learning_rate: float) -> str:
    """The policy as text: block, parameters, trained, learning rate, BatchNorm mode."""
    width = max(len(r.block) for r in policy.rows)
    lines = [f"{'block':<{width}}  parameters  trained  learning rate  BatchNorm"]
    for r in policy.rows:
        rate = f"{r.multiplier * learning_rate:.2g}" if r.trained else "-"
        trained = "yes" if r.trained else "frozen"
        lines.append(
            f"{r.block:<{width}}  {r.parameters + r.statistics:>10,}  {trained:<7}  {rate:<13}  "
            f"{r.batchnorm}"
        )
    total = policy.trainable_parameters + policy.frozen_parameters
    lines.append(f"Total params: {total:,}")
    lines.append(f"Trainable params: {policy.trainable_parameters:,}")
    lines.append(f"Non-trainable params: {policy.frozen_parameters:,}")
    return "\n".join(lines)
