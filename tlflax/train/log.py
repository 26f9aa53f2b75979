"""Metrics on disk: JSONL and CSV for people and scripts, TensorBoard for curves."""

import csv
import datetime
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlflax.policy.stage import Stage
from tlflax.train.hyperparameters import ended, hyperparameters, summaries

if TYPE_CHECKING:
    from tlflax.train.loop import Job

FIELDS = (
    "stage", "stage_index", "step", "epoch", "train_loss", "train_accuracy",
    "val_loss", "val_accuracy", "learning_rate", "seconds",
)  # fmt: skip

TAGS = {
    "train_loss": "train/loss",
    "train_accuracy": "train/accuracy",
    "val_loss": "val/loss",
    "val_accuracy": "val/accuracy",
    "learning_rate": "train/learning_rate",
    "epoch": "train/epoch",
}
"""Field -> TensorBoard tag, the same in every run; the x axis is the step over all stages."""

# What the HParams page shows of a stage: its best evaluation, and the test at the end of the run.
_SHOWN = ("best/val_accuracy", "best/val_loss", "test/accuracy", "test/loss")


class MetricLog:
    """Writes each evaluation to ``metrics.jsonl``, ``metrics.csv`` and ``tb/TIME-STAGE``.

    Args:
      folder: the run directory.
      history: rows that a restored checkpoint knows. The files are rewritten from them, so rows
        after the checkpoint, which will be computed again, do not appear twice.
    """

    def __init__(self, folder: Path, history: list[dict[str, Any]]):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._jsonl = open(folder / "metrics.jsonl", "w", encoding="utf-8")
        self._csv_file = open(folder / "metrics.csv", "w", encoding="utf-8", newline="")
        self._csv: csv.DictWriter[str] = csv.DictWriter(
            self._csv_file, FIELDS, extrasaction="ignore"
        )
        self._csv.writeheader()
        self._writers: dict[str, Any] = {}
        self._resumed_at = history[-1]["step"] if history else -1
        for row in history:
            self._files(row)

    def __enter__(self) -> "MetricLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._jsonl.close()
        self._csv_file.close()
        for writer in self._writers.values():
            writer.close()

    def _files(self, row: Mapping[str, Any]) -> None:
        self._jsonl.write(json.dumps(row) + "\n")
        self._jsonl.flush()
        self._csv.writerow(row)
        self._csv_file.flush()

    def begin(self, job: "Job", stage: Stage) -> None:
        """Opens a stage's TensorBoard directory and notes its hyperparameters there."""
        from tensorboardX import SummaryWriter

        folder = stage_folder(self._folder, stage.name)
        # purge_step hides what an interrupted run wrote after its last checkpoint.
        purge = self._resumed_at + 1 if folder.is_dir() else None
        # Files are named by the second; the suffix keeps two from being one.
        suffix = f".from-{self._resumed_at + 1}"
        writer = SummaryWriter(
            str(folder), purge_step=purge, write_to_disk=True, filename_suffix=suffix
        )
        assert writer.file_writer is not None  # it writes to the disk
        for summary in summaries(hyperparameters(job, stage), _SHOWN):
            writer.file_writer.add_summary(summary)
        self._writers[stage.name] = writer

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends one row."""
        self._files(row)
        writer = self._writers[row["stage"]]
        for name, tag in TAGS.items():
            if row.get(name) is not None:
                writer.add_scalar(tag, row[name], row["step"])
        writer.flush()

    def end(self, stage: str, best: Mapping[str, Any]) -> None:
        """Notes a stage's result: ``best`` has ``step``, ``val_accuracy`` and ``val_loss``."""
        writer = self._writers[stage]
        for name in ("val_accuracy", "val_loss"):
            writer.add_scalar(f"best/{name}", best[name], best["step"])
        writer.file_writer.add_summary(ended())
        writer.flush()


def stage_folder(folder: Path, stage: str) -> Path:
    """TensorBoard's directory of a stage: the one that was begun already, or a new one."""
    known = re.compile(rf"\d{{8}}-\d{{6}}-{re.escape(stage)}")
    begun = [p for p in (folder / "tb").glob("*") if known.fullmatch(p.name)]
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return max(begun, default=folder / "tb" / f"{stamp}-{stage}")


def note_test(folder: Path, stage: str, scores: Mapping[str, Any], step: int) -> None:
    """Adds the test's ``accuracy`` and ``loss`` to the directory of a run's last stage.

    Args:
      folder: the run directory.
      stage: name of the last stage.
      scores: the report's entry.
      step: of the weights that were tested.
    """
    from tensorboardX import SummaryWriter

    where = str(stage_folder(folder, stage))
    with SummaryWriter(where, write_to_disk=True, filename_suffix=".test") as writer:
        for name in ("accuracy", "loss"):
            writer.add_scalar(f"test/{name}", scores[name], step)
