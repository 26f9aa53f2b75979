"""A finished run as a comparison sees it: read from its directory, nothing computed again."""

import csv
import dataclasses
import itertools
import json
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tlflax.convert.tensors import read_facts
from tlflax.errors import ConfigError, ConvertError, suggest
from tlflax.folders import STUDY

Image = tuple[str, str, int]
"""File name, label, and which of several images of this name and label."""


@dataclasses.dataclass
class Entry:
    """One row of a comparison: a run, or the from-scratch baseline of one.

    Attributes:
      name: unique among the compared.
      folder: run directory.
      of: name of the run whose baseline this is, ``None`` for a run.
      report: content of the run's report.json.
      scores: split -> the report's numbers, ``None`` for a split that there is not.
      stages: the report's stages of this row.
      history: rows of metrics.jsonl.
      answers: image -> whether the answer was right, of the split in ``answered``.
      answered: ``test``, or ``validation`` where there is no test split.
      architecture: what decides the speed of the network; ``None`` if it is not known.
    """

    name: str
    folder: Path
    of: str | None
    report: dict[str, Any]
    scores: dict[str, dict[str, Any] | None]
    stages: list[dict[str, Any]]
    history: list[dict[str, Any]]
    answers: dict[Image, bool]
    answered: str
    architecture: str | None = None

    @property
    def classes(self) -> list[str]:
        """Class names in label order."""
        return list((self.scores["test"] or self.scores["validation"] or {})["per_class"])

    @property
    def chosen_on_test(self) -> bool:
        """Whether more test images than chance are among those that chose the state of the run."""
        return bool((self.report["data"] or {}).get("chosen_on_test"))

    @property
    def leaked(self) -> float:
        """Share of the test images that are validation images too."""
        return float((self.report["data"] or {}).get("leaked", self.chosen_on_test))

    @property
    def parameters(self) -> dict[str, int]:
        """``total``, and ``trained``: the largest number that one stage trained."""
        last = self.stages[-1]
        return {
            "total": last["trainable_parameters"] + last["frozen_parameters"],
            "trained": max(s["trainable_parameters"] for s in self.stages),
        }

    @property
    def epochs(self) -> float:
        """Over all stages."""
        return sum(s["epochs"] for s in self.stages)

    @property
    def features(self) -> list[dict[str, Any]]:
        """What the run says about frozen features that training read; a baseline has none."""
        if self.of is not None:
            return []
        found = (self.report.get("cache") or {}).get("features") or []
        return [f for f in found if f.get("split") in ("train", "val")]

    @property
    def seconds(self) -> float:
        """Training and validation of all stages, and the frozen features computed for them."""
        steps = sum(s["seconds"] for s in self.stages)
        return steps + sum(f.get("seconds") or 0.0 for f in self.features)

    @property
    def seconds_per_epoch(self) -> float:
        """Median duration of an epoch, its validation included; mean of stages by epochs.

        The first epoch of a stage, in which programs are compiled, counts only where it is alone.
        """
        total = sum(s["epochs"] for s in self.stages)
        if not total:
            return float("nan")
        spent = 0.0
        for i, stage in enumerate(self.stages):
            marks = [r["seconds"] for r in self.history if r.get("stage_index") == i]
            steps = [b - a for a, b in itertools.pairwise(marks)][: stage["epochs"] - 1]
            each = statistics.median(steps) if steps else stage["seconds"] / stage["epochs"]
            spent += each * stage["epochs"]
        return spent / total


def find_runs(folders: Sequence[str | Path]) -> tuple[list[Path], list[str]]:
    """Run directories among the given folders; a study's folder stands for its runs.

    Returns:
      The directories, and sentences about runs that are not finished.

    Raises:
      ConfigError: a folder holds no finished run, or nothing was given.
    """
    found: list[Path] = []
    notes: list[str] = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            nearby = folder.parent.iterdir() if folder.parent.is_dir() else ()
            hint = suggest(str(folder), [str(p) for p in nearby if p.is_dir()])
            raise ConfigError(f"{folder} does not exist{hint}")
        if (folder / "report.json").is_file():
            found.append(folder)
            continue
        children = _children(folder)
        done = [p for p in children if (p / "report.json").is_file()]
        if not done:
            raise ConfigError(f"{folder} holds no finished run: it has no report.json")
        found += done
        missing = [p.name for p in children if p not in done]
        if missing:
            notes.append(f"Not finished and left out: {', '.join(missing)} in {folder}.")
    if not found:
        raise ConfigError("nothing to compare: give directories of finished runs")
    unique = list({p.resolve(): p for p in found}.values())
    return unique, notes


def _children(folder: Path) -> list[Path]:
    """Runs in the order of the study, or else finished runs by name."""
    if (folder / STUDY).is_file():
        facts = _load(folder / STUDY)
        return [folder / name for name in facts.get("runs", ())]
    return sorted(p for p in folder.iterdir() if (p / "report.json").is_file())


def names_of(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell the runs apart."""
    parts = [p.resolve().parts for p in folders]
    depth = 1
    while len({p[-depth:] for p in parts}) < len(parts):
        depth += 1
    return ["/".join(p[-depth:]) for p in parts]


def read_entries(folder: Path, name: str) -> list[Entry]:
    """Reads a run and, if it has one, its baseline.

    Raises:
      ConfigError: a file of the run is missing or damaged; the message names it.
    """
    report = _load(folder / "report.json")
    try:
        answered = "test" if report["test"] else "validation"
        run = Entry(
            name=name,
            folder=folder,
            of=None,
            report=report,
            scores={s: report[s] for s in ("test", "validation")},
            stages=report["stages"],
            history=_rows(folder / "metrics.jsonl"),
            answers=_answers(folder / "predictions.csv"),
            answered=answered,
            architecture=architecture_of(folder),
        )
        if not report.get("baseline"):
            return [run]
        scratch = report["baseline"]
        path = folder / "baseline" / "predictions.csv"
        return [
            run,
            dataclasses.replace(
                run,
                name=f"{name} (from scratch)",
                of=name,
                scores={s: scratch[s] for s in ("test", "validation")},
                stages=scratch["stages"],
                history=_rows(folder / "baseline" / "metrics.jsonl"),
                # Runs of an earlier version kept none.
                answers=_answers(path) if path.is_file() else {},
            ),
        ]
    except KeyError as error:
        raise ConfigError(f"{folder / 'report.json'} has no {error}: not a run's report") from error


def _load(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error


def _answers(path: Path) -> dict[Image, bool]:
    """Right or wrong for each labelled image of a predictions.csv."""
    found: dict[Image, bool] = {}
    seen: Counter[tuple[str, str]] = Counter()
    try:
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as lines:
            for row in csv.DictReader(lines):
                if row["correct"] != "":
                    image = row["file"], row["label"]
                    found[*image, seen[image]] = row["correct"] == "1"
                    seen[image] += 1
    except (OSError, KeyError, csv.Error) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    return found


def architecture_of(folder: Path) -> str | None:
    """What decides the speed of a run's network; ``None`` without a model.safetensors.

    Raises:
      ConfigError: the file is damaged.
    """
    path = folder / "model.safetensors"
    if not path.is_file():
        return None
    try:
        return json.dumps(read_facts(path).get("architecture"), sort_keys=True)
    except ConvertError as error:
        raise ConfigError(str(error)) from error
