"""Training from start to end: stages, resuming, the best checkpoint between them.

What happens inside a stage is in `tlflax.train.stage_run`.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tlflax.convert.tensors import save_variables
from tlflax.errors import ConfigError, DataError
from tlflax.model import Model
from tlflax.policy.policy import Policy
from tlflax.policy.stage import Stage
from tlflax.train.checkpoint import Checkpoints
from tlflax.train.devices import Placement
from tlflax.train.interrupt import Guard
from tlflax.train.log import MetricLog
from tlflax.train.progress import Progress
from tlflax.train.stage_run import StageRun
from tlflax.train.streams import Streams


@dataclasses.dataclass
class Job:
    """One training: what, on what, how, where.

    Attributes:
      model: structure.
      variables: starting values (random or pretrained).
      stages: in order, none with 0 epochs.
      policies: one for each stage.
      streams: batches and cached features.
      folder: run directory.
      batch_size: upper bound of images per step.
      seed: run seed.
      placement: devices.
      guard: signal handling.
      select: what makes an evaluation better: ``accuracy`` or ``loss`` (see `progress.score`).
      fingerprint: of the data; a checkpoint made with other data is refused.
      origins: where weights and images come from, in words, for TensorBoard.
      weights: SHA-256 of the pretrained weights' file, or ``none``; a checkpoint that began with
        others is refused.
      keep_stages: whether the best state at the end of each stage but the last is kept, as
        ``stages/NUMBER.safetensors``.
      say: prints a line for people.
      began: when this session's part of it began, by the monotonic clock.
    """

    model: Model
    variables: dict[str, Any]
    stages: Sequence[Stage]
    policies: Sequence[Policy]
    streams: Streams
    folder: Path
    batch_size: int
    seed: int
    placement: Placement
    guard: Guard
    select: str = "accuracy"
    fingerprint: str = ""
    origins: Mapping[str, str] = dataclasses.field(default_factory=dict)
    weights: str = "none"
    keep_stages: bool = False
    say: Callable[[str], None] = print
    began: float = dataclasses.field(default_factory=time.monotonic)


@dataclasses.dataclass
class Outcome:
    """What came out: the best variables by validation, and how it went.

    ``earlier`` is what earlier sessions took, in seconds; ``kept`` has the files of what the stages
    but the last came to.
    """

    variables: dict[str, Any]
    best: dict[str, Any]
    history: list[dict[str, Any]]
    stages: list[dict[str, Any]]
    earlier: float = 0.0
    kept: list[Path] = dataclasses.field(default_factory=list)


def train(job: Job) -> Outcome:
    """Runs all stages, or what is left of them if ``job.folder`` holds a checkpoint."""
    ends = [job.folder / "stages" / f"{i}.safetensors" for i in range(len(job.stages) - 1)]
    with Checkpoints(job.folder / "checkpoints") as checkpoints:
        step = checkpoints.latest_step
        variables = job.variables
        progress = Progress(fingerprint=job.fingerprint, weights=job.weights)
        if step is not None:
            progress = Progress(**checkpoints.meta(step))
            if progress.fingerprint != job.fingerprint:
                raise DataError(
                    f"the images have changed since {job.folder} was begun (or their cut into "
                    "splits): put them back to resume, or use a new --workdir"
                )
            if progress.weights not in (job.weights, ""):
                raise ConfigError(
                    f"the pretrained weights have changed since {job.folder} was begun (SHA-256 "
                    f"{progress.weights[:12]} -> {job.weights[:12]}): put the old file back to "
                    "resume, or use a new --workdir"
                )
            if not progress.weights and job.weights != "none":
                job.say(
                    "warning: it is not recorded with which weights this run began; they are taken "
                    "to be those given now"
                )
            variables = checkpoints.variables(step, job.variables)
            job.say(f"resuming at step {step} in stage {job.stages[progress.stage].name!r}")
        with MetricLog(job.folder, progress.history) as log:
            while True:
                if not progress.finished:
                    StageRun(job, progress, variables, checkpoints, log).run()
                # Each stage goes on from the best so far, not from wherever the last one ended.
                assert progress.best is not None
                checkpoints.wait()
                variables = checkpoints.variables(progress.best["step"], job.variables)
                if progress.stage + 1 == len(job.stages):
                    break
                if job.keep_stages:
                    # Before the next stage's first checkpoint: a run that resumes there has it.
                    save_variables(ends[progress.stage], variables, {"best": progress.best})
                progress.next_stage()
        return Outcome(
            variables,
            progress.best,
            progress.history,
            progress.results,
            progress.earlier,
            ends if job.keep_stages else [],
        )
