"""Where a training stands: everything besides arrays that a resumed run must know."""

import dataclasses
import math
from typing import Any

from tlflax.policy.stage import Stage

SELECT = ("accuracy", "loss")


def score(accuracy: float, loss: float, n: int, select: str = "accuracy") -> float:
    """Validation result as one number; higher is better.

    ``accuracy``: accuracy first, ties broken by loss: ``loss / (1 + loss)`` is below 1, so
    dividing it by ``n + 1`` keeps it below the smallest difference ``1 / n`` that two accuracies
    can have. ``loss``: the smaller loss, on a few hundred images the less noisy of the two.

    Args:
      accuracy: fraction right.
      loss: mean negative log-likelihood.
      n: number of validation images.
      select: one of `SELECT`.
    """
    bounded = loss / (1.0 + loss) if math.isfinite(loss) else 1.0
    return -bounded if select == "loss" else accuracy - bounded / (n + 1)


def _entry(row: dict[str, Any], value: float) -> dict[str, Any]:
    return {k: row[k] for k in ("step", "stage", "val_accuracy", "val_loss")} | {"score": value}


@dataclasses.dataclass
class Progress:
    """State of the loop, stored as JSON with each checkpoint.

    Attributes:
      stage: index of the current stage.
      step: steps done in it.
      offset: steps done in earlier stages.
      epochs_before: epochs done in earlier stages.
      finished: whether the current stage has ended, and why (empty = running).
      history: rows of metrics.jsonl so far.
      best: the best evaluation so far over all stages: step, stage, score, accuracy, loss.
      improvements: how often ``best`` was replaced; the rank of its checkpoint.
      stage_best: the same for the best evaluation in this stage, ``None`` before the first.
      waited: evaluations since then.
      seconds: wall time of this stage so far.
      digest: of the frozen leaves at the start of this stage.
      results: for each finished stage, its line of the report.
      fingerprint: of the data.
      weights: SHA-256 of the file of the pretrained weights, ``none`` without; empty in checkpoints
        of versions that did not write it down.
      earlier: seconds that earlier sessions took, from the start of the training to their last
        checkpoint.
    """

    stage: int = 0
    step: int = 0
    offset: int = 0
    epochs_before: float = 0.0
    finished: str = ""
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    best: dict[str, Any] | None = None
    improvements: int = 0
    stage_best: dict[str, Any] | None = None
    waited: int = 0
    seconds: float = 0.0
    digest: str = ""
    results: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    fingerprint: str = ""
    weights: str = ""
    earlier: float = 0.0

    @property
    def global_step(self) -> int:
        """Steps done over all stages."""
        return self.offset + self.step

    def record(self, row: dict[str, Any], value: float, candidate: bool = True) -> bool:
        """Takes an evaluation in; returns whether it is the best so far over all stages.

        Args:
          row: history row with ``val_accuracy`` and ``val_loss``.
          value: its score.
          candidate: whether it may become the best (in a stage that interpolates, only its end
            may, see `adopt`).
        """
        self.history.append(row)
        entry = _entry(row, value)
        if self.stage_best is None or entry["score"] > self.stage_best["score"]:
            self.stage_best, self.waited = entry, 0
        else:
            self.waited += 1
        improved = candidate and (self.best is None or entry["score"] > self.best["score"])
        if improved:
            self.best, self.improvements = entry, self.improvements + 1
        return improved

    def adopt(self, row: dict[str, Any], value: float) -> None:
        """Takes interpolated weights as the best so far, chosen by the caller."""
        self.history.append(row)
        self.best = self.stage_best = _entry(row, value)
        self.improvements += 1

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
        self.epochs_before = self.history[-1]["epoch"]
        self.step, self.finished, self.waited = 0, "", 0
        self.stage_best, self.seconds, self.digest = None, 0.0, ""
