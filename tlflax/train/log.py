"""Metrics on disk: JSONL and CSV for people and scripts, TensorBoard for curves."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FIELDS = (
    "stage", "stage_index", "step", "epoch", "train_loss", "train_accuracy",
    "val_loss", "val_accuracy", "learning_rate", "seconds",
)  # fmt: skip


class MetricLog:
    """Writes each evaluation to ``metrics.jsonl``, ``metrics.csv`` and ``tb/STAGE``.

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
        self._resumed_at = history[-1]["step"] if history else None
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

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends one row."""
        self._files(row)
        writer = self._tensorboard(f"{row['stage_index']:02d}_{row['stage']}")
        for name in FIELDS[3:-1]:
            if row.get(name) is not None:
                writer.add_scalar(name, row[name], row["step"])
        writer.flush()

    def _tensorboard(self, stage: str) -> Any:
        if stage not in self._writers:
            from tensorboardX import SummaryWriter

            # purge_step hides what an interrupted run wrote after its last checkpoint.
            purge = None if self._resumed_at is None else self._resumed_at + 1
            folder = str(self._folder / "tb" / stage)
            self._writers[stage] = SummaryWriter(folder, purge_step=purge, write_to_disk=True)
        return self._writers[stage]
