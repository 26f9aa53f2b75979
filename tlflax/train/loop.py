"""The training loop: stages, evaluations, checkpoints, early stopping, resuming.

DO NOT CHANGE THE ORDER inside `_run_stage`: evaluate, save, next batch, step. A run that was
killed anywhere then continues with the very step it would have done.
"""

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from tlflax.data.pipeline import prefetch, train_batches
from tlflax.data.plan import TrainPlan
from tlflax.errors import TlflaxError
from tlflax.model import Model
from tlflax.policy.optimizer import make_optimizer, make_schedule
from tlflax.policy.policy import Policy
from tlflax.policy.stage import Stage
from tlflax.train.checkpoint import UNSCORED, Checkpoints
from tlflax.train.devices import Placement
from tlflax.train.interrupt import Guard, Interrupted
from tlflax.train.log import MetricLog
from tlflax.train.progress import Progress
from tlflax.train.state import above, fresh_sums, frozen_digest, merge, split_variables
from tlflax.train.step import make_train_step
from tlflax.train.streams import Streams

# Evaluations that are no improvement are saved at most this often.
_SAVE_SECONDS = 30.0


class Diverged(TlflaxError):
    """The training loss is no longer a number."""


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
      say: prints a line for people.
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
    say: Callable[[str], None] = print


@dataclasses.dataclass
class Outcome:
    """What came out: the best variables by validation, and how it went."""

    variables: dict[str, Any]
    best: dict[str, Any]
    history: list[dict[str, Any]]
    stages: list[dict[str, Any]]


def train(job: Job) -> Outcome:
    """Runs all stages, or what is left of them if ``job.folder`` holds a checkpoint."""
    with Checkpoints(job.folder / "checkpoints") as checkpoints:
        step = checkpoints.latest_step
        variables, progress = job.variables, Progress()
        if step is not None:
            progress = Progress(**checkpoints.meta(step))
            variables = checkpoints.variables(step, job.variables)
            job.say(f"resuming at step {step} in stage {job.stages[progress.stage].name!r}")
        with MetricLog(job.folder, progress.history) as log:
            while True:
                if not progress.finished:
                    variables = _run_stage(job, progress, variables, checkpoints, log)
                # Each stage goes on from the best so far, not from wherever the last one ended.
                assert progress.best is not None
                checkpoints.wait()
                variables = checkpoints.variables(progress.best["step"], job.variables)
                if progress.stage + 1 == len(job.stages):
                    break
                progress.next_stage()
        return Outcome(variables, progress.best, progress.history, progress.results)


def _run_stage(
    job: Job,
    progress: Progress,
    variables: dict[str, Any],
    checkpoints: Checkpoints,
    log: MetricLog,
) -> dict[str, Any]:
    """Trains one stage to its end; returns the variables it ended with."""
    stage, policy = job.stages[progress.stage], job.policies[progress.stage]
    plan = TrainPlan(
        len(job.streams.train_labels), job.batch_size, (job.seed, progress.stage),
        job.placement.multiple,
    )  # fmt: skip
    per_epoch = plan.steps_per_epoch
    total = int(stage.epochs) * per_epoch
    schedule = make_schedule(stage.schedule, stage.lr, total, stage.warmup)
    rates = {p: policy.multipliers[p] for p in policy.trained}
    tx = make_optimizer(
        stage.optimizer, schedule, rates, weight_decay=stage.weight_decay, clip=stage.clip
    )
    module = job.model.module(policy.live)
    if not progress.digest:
        progress.digest = frozen_digest(variables, policy)
    train_data = job.streams.training(variables, policy, stage)
    state, frozen = split_variables(variables, policy, tx)
    if progress.step:
        saved = checkpoints.training(progress.global_step, _rest(state))
        state |= saved
    names = tuple(job.model.anatomy.blocks)
    needed = {c: above(leaves, train_data.start, names) for c, leaves in frozen.items()}
    state, needed = job.placement.replicate(state), job.placement.replicate(needed)
    step_of = make_train_step(
        module,
        tx,
        seed=(job.seed, progress.stage),
        start=train_data.start,
        label_smoothing=stage.label_smoothing,
    )
    batches = prefetch(
        train_batches(
            train_data.images, job.streams.train_labels, plan, train_data.augment,
            progress.step, total,
        ),
        job.placement.batch,
    )  # fmt: skip
    validate = job.streams.validation(variables, policy)
    began, before, saved_at = time.monotonic(), progress.seconds, time.monotonic()
    first, pending = progress.step, None
    # On a terminal a bar; in a log file one line per evaluation.
    quiet = not sys.stderr.isatty()
    bar = tqdm(
        total=total, initial=first, desc=stage.name, unit="step", dynamic_ncols=True,
        disable=quiet,
    )  # fmt: skip

    def save(score: float) -> None:
        nonlocal saved_at
        progress.seconds = before + time.monotonic() - began
        meta = dataclasses.asdict(progress)
        full = merge(jax.device_get({**state, "opt_state": None}), frozen)
        checkpoints.save(progress.global_step, full, _rest(state), meta, score)
        saved_at = time.monotonic()

    job.guard.deferred = True
    try:
        while True:
            at_epoch_end = progress.step % per_epoch == 0 and progress.step > 0
            if at_epoch_end and progress.step > first:
                row = _row(job, progress, stage, state, schedule, per_epoch)
                log_p = validate(merge(state, needed))
                row["val_accuracy"], row["val_loss"] = log_p
                row["seconds"] = round(before + time.monotonic() - began, 3)
                state["sums"] = job.placement.replicate(fresh_sums())
                improved = progress.record(row, len(job.streams.val_labels))
                progress.finished = progress.should_stop(stage, total)
                log.write(row)
                text = f"val accuracy {row['val_accuracy']:.3f}, loss {row['val_loss']:.3f}"
                bar.set_postfix_str(text)
                if quiet:
                    job.say(
                        f"{stage.name} epoch {progress.step // per_epoch}/{stage.epochs}: "
                        f"train loss {row['train_loss']:.3f}, {text}, {row['seconds']:.1f} s"
                    )
                if progress.finished:
                    _conclude(job, progress, policy, merge(state, frozen), train_data, per_epoch)
                late = time.monotonic() - saved_at > _SAVE_SECONDS
                if improved or progress.finished or late or job.guard.pending:
                    assert progress.stage_best is not None
                    value = progress.stage_best["score"] if progress.waited == 0 else UNSCORED
                    save(value)
            if progress.finished:
                return merge(jax.device_get({**state, "opt_state": None}), frozen)
            if job.guard.pending is not None:
                if checkpoints.latest_step != progress.global_step and progress.step > first:
                    save(UNSCORED)
                checkpoints.wait()
                raise Interrupted(job.guard.pending)
            batch = next(batches)
            state, loss = step_of(state, needed, batch)
            progress.step += 1
            bar.update()
            # One step late: the device works on the next step while this one's loss is read.
            _refuse_nan(pending, stage, progress)
            pending = loss
            if progress.step % per_epoch == 0:
                _refuse_nan(pending, stage, progress)
                pending = None
    finally:
        job.guard.deferred = False
        bar.close()


def _rest(state: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint needs besides the variables."""
    return {k: state[k] for k in ("step", "opt_state", "sums")}


def _row(job, progress, stage, state, schedule, per_epoch) -> dict[str, Any]:
    sums = {k: float(v) for k, v in state["sums"].items()}
    epochs_before = progress.history[-1]["epoch"] if progress.history else 0.0
    earlier = [r for r in progress.history if r["stage_index"] == progress.stage]
    start = epochs_before - len(earlier)
    return {
        "stage": stage.name,
        "stage_index": progress.stage,
        "step": progress.global_step,
        "epoch": start + progress.step / per_epoch,
        "train_loss": sums["loss"] / max(sums["weight"], 1.0),
        "train_accuracy": sums["correct"] / max(sums["weight"], 1.0),
        "learning_rate": float(schedule(progress.step - 1)),
    }


def _refuse_nan(loss: jax.Array | None, stage: Stage, progress: Progress) -> None:
    if loss is None or math.isfinite(float(loss)):
        return
    kept = (
        f"the last good checkpoint (step {progress.best['step']}, validation accuracy "
        f"{progress.best['val_accuracy']:.3f}) is kept"
        if progress.best
        else "no checkpoint had been written yet"
    )
    raise Diverged(
        f"the training loss of stage {stage.name!r} became {float(loss)} near step "
        f"{progress.global_step}; {kept}. Lower lr (now {stage.lr:g}), add warmup=0.1 or clip=1.0, "
        "and start in a new --workdir"
    )


def _conclude(job, progress, policy, variables, train_data, per_epoch) -> None:
    """Adds the stage's line of the report."""
    stage, best = job.stages[progress.stage], progress.stage_best
    unchanged = frozen_digest(jax.device_get(variables), policy) == progress.digest
    if not unchanged:
        raise RuntimeError(f"frozen leaves changed during stage {stage.name!r}")
    progress.results.append(
        {
            "name": stage.name,
            "trainable_parameters": policy.trainable_parameters,
            "frozen_parameters": policy.frozen_parameters,
            "epochs": progress.step // per_epoch,
            "steps": progress.step,
            "seconds": round(progress.history[-1]["seconds"], 3),
            "boundary": policy.boundary,
            "cached": train_data.cached,
            "best_step": best["step"],
            "val_accuracy": best["val_accuracy"],
            "val_loss": best["val_loss"],
            "frozen_unchanged": unchanged,
            "stopped": progress.finished,
            "optimizer": stage.optimizer,
            "learning_rate": stage.lr,
            "augment": stage.augment,
            "policy": [
                {
                    "block": r.block,
                    "parameters": r.parameters + r.statistics,
                    "trained": r.trained,
                    "multiplier": r.multiplier,
                    "learning_rate": r.multiplier * stage.lr,
                    "batchnorm": r.batchnorm,
                }
                for r in policy.rows
            ],
        }
    )
