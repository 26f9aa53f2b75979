"""Where a training stands: everything besides arrays that a resumed run must know."""

import dataclasses
import math
from typing import Any

from tlflax.policy.stage import Stage


def score(accuracy: float, loss: float, n: int) -> float:
    """Validation result as one number: accuracy first, ties broken by loss.

    ``loss / (1 + loss)`` is below 1, so dividing it by ``n + 1`` keeps it below the smallest
    difference ``1 / n`` that two accuracies can have.
    """
    return accuracy - (loss / (1.0 + loss) if math.isfinite(loss) else 1.0) / (n + 1)


@dataclasses.dataclass
class Progress:
    """State of the loop, stored as JSON with each checkpoint.

    Attributes:
      stage: index of the current stage.
      step: steps done in it.
      offset: steps done in earlier stages.
      finished: whether the current stage has ended, and why (empty = running).
      history: rows of metrics.jsonl so far.
      best: the best evaluation so far over all stages: step, stage, score, accuracy, loss.
      stage_best: score of the best evaluation in this stage, ``None`` before the first.
      waited: evaluations since then.
      seconds: wall time per stage so far.
      digests: digest of the frozen leaves at the start of each stage.
      unchanged: for each finished stage, whether the digest at its end was the same.
      results: for each finished stage, its line of the report.
    """

    stage: int = 0
    step: int = 0
    offset: int = 0
    finished: str = ""
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    best: dict[str, Any] | None = None
    stage_best: dict[str, Any] | None = None
    waited: int = 0
    seconds: float = 0.0
    digest: str = ""
    results: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def global_step(self) -> int:
        """Steps done over all stages."""
        return self.offset + self.step

    def record(self, row: dict[str, Any], n: int) -> bool:
        """Takes an evaluation in; returns whether it is the best so far over all stages.

        Args:
          row: history row with ``val_accuracy`` and ``val_loss``.
          n: number of validation images.
        """
        self.history.append(row)
        value = score(row["val_accuracy"], row["val_loss"], n)
        entry = {
            "step": row["step"],
            "stage": row["stage"],
            "score": value,
            "val_accuracy": row["val_accuracy"],
            "val_loss": row["val_loss"],
        }
        if self.stage_best is None or value > self.stage_best["score"]:
            self.stage_best, self.waited = entry, 0
        else:
            self.waited += 1
        improved = self.best is None or value > self.best["score"]
        if improved:
            self.best = entry
        return improved

    def should_stop(self, stage: Stage, total_steps: int) -> str:
        """Why the stage ends now, or an empty string."""
        row = self.history[-1]
        for metric, sign, target in stage.stop.targets:
            value = row[metric]
            if (value >= target) if sign == ">=" else (value <= target):
                return f"{metric} {sign} {target:g} reached"
        if stage.stop.patience and self.waited >= stage.stop.patience:
            return f"no better for {self.waited} epochs"
        return "all epochs" if self.step >= total_steps else ""

    def next_stage(self) -> None:
        """Moves to the next stage."""
        self.stage, self.offset = self.stage + 1, self.global_step
        self.step, self.finished, self.waited = 0, "", 0
        self.stage_best, self.seconds, self.digest = None, 0.0, ""
