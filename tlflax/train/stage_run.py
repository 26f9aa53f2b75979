"""One stage of training, from its first step (or the one it was interrupted at) to its end."""

import dataclasses
import sys
import time
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from tqdm import tqdm

from tlflax.data.pipeline import prefetch
from tlflax.data.plan import TrainPlan
from tlflax.evaluate.predict import accuracy_and_loss
from tlflax.evaluate.statistics import accuracy_interval
from tlflax.policy.imbalance import class_weights, vector
from tlflax.policy.optimizer import make_optimizer, make_schedule
from tlflax.train.checkpoint import UNSCORED, Checkpoints
from tlflax.train.diverged import refuse_nan
from tlflax.train.interpolate import choose, mix
from tlflax.train.interrupt import Interrupted
from tlflax.train.log import MetricLog
from tlflax.train.parts import parts_of_stage
from tlflax.train.progress import Progress, score
from tlflax.train.state import above, fresh_sums, frozen_digest, merge, split_variables
from tlflax.train.step import make_train_step

if TYPE_CHECKING:
    from tlflax.train.loop import Job

# Evaluations that are no improvement are saved at most this often, and within an epoch
# (epochs can take hours) at most this often.
_SAVE_SECONDS = 30.0
_SAVE_WITHIN_EPOCH_SECONDS = 600.0


class StageRun:
    """Everything one stage needs, set up once; `run` is the loop.

    Args:
      job: the training this stage belongs to.
      progress: where it stands; changed in place.
      variables: full variables to start (or resume) from.
      checkpoints: to save to, and to read the optimizer's leaves from when resuming.
      log: metric files.
    """

    def __init__(
        self,
        job: "Job",
        progress: Progress,
        variables: dict[str, Any],
        checkpoints: Checkpoints,
        log: MetricLog,
    ):
        self.job, self.progress, self.checkpoints, self.log = job, progress, checkpoints, log
        self.stage, self.policy = job.stages[progress.stage], job.policies[progress.stage]
        stage, policy = self.stage, self.policy
        log.begin(job, stage)
        parts = parts_of_stage(job, stage, policy)
        plan = TrainPlan(
            len(job.streams.train_labels), job.batch_size, (job.seed, progress.stage),
            job.placement.multiple * parts,
            job.streams.train_labels if stage.sampling == "balanced" else None,
        )  # fmt: skip
        self.per_epoch = plan.steps_per_epoch
        self.total = int(stage.epochs) * self.per_epoch
        self.schedule = make_schedule(stage.schedule, stage.lr, self.total, stage.warmup)
        rates = {p: policy.multipliers[p] for p in policy.trained}
        tx = make_optimizer(
            stage.optimizer, self.schedule, rates, weight_decay=stage.weight_decay, clip=stage.clip
        )
        if not progress.digest:
            progress.digest = frozen_digest(variables, policy)
        self.data = job.streams.training(variables, policy, stage)
        state, self.frozen = split_variables(variables, policy, tx)
        # The weights this stage began with; a resumed run cannot get them from elsewhere.
        began_with = {"trainable": state["trainable"], "statistics": state["statistics"]}
        self.origin = jax.device_get(began_with) if stage.interpolate else {}
        if progress.step:
            like = {**_counters(state), "origin": self.origin}
            saved = checkpoints.training(progress.global_step, like)
            self.origin = saved.pop("origin")
            state |= saved
        self.labels = job.streams.val_labels
        self.validate = job.streams.validation(variables, policy)
        names = tuple(job.model.anatomy.blocks)
        self.placed = job.placement.replicate(
            {c: above(leaves, self.data.start, names) for c, leaves in self.frozen.items()}
        )
        self.state = job.placement.replicate(state)
        self.class_weights = class_weights(stage, job.streams.train_counts)
        self.step_of = make_train_step(
            job.model.module(policy.live, remat=stage.remat),
            tx,
            seed=(job.seed, progress.stage),
            start=self.data.start,
            label_smoothing=stage.label_smoothing,
            accumulate=parts,
            mixup=stage.mixup,
            cutmix=stage.cutmix,
            class_weights=vector(self.class_weights),
        )
        batches = self.data.batches(plan, progress.step, self.total)
        self.batches = prefetch(batches, self.data.place)
        self.first = progress.step
        self.began, self.before = time.monotonic(), progress.seconds
        self.saved_at = self.began
        self.pending: jax.Array | None = None
        # On a terminal a bar; in a log file one line per evaluation.
        self.quiet = not sys.stderr.isatty()
        self.bar = tqdm(
            total=self.total, initial=self.first, desc=stage.name, unit="step",
            dynamic_ncols=True, disable=self.quiet,
        )  # fmt: skip

    def run(self) -> None:
        """Trains to the end of the stage.

        DO NOT CHANGE THE ORDER: evaluate, save, next batch, step. A run that was killed anywhere
        then goes on with the very step it would have done.

        Raises:
          Interrupted: a signal came; everything is saved.
          Diverged: a loss is not a number; the last good checkpoint is kept.
        """
        progress, guard = self.progress, self.job.guard
        guard.deferred = True
        try:
            while True:
                if progress.step % self.per_epoch == 0 and progress.step > self.first:
                    improved = self._evaluate()
                    self._save_evaluated(improved)
                self._save_between()
                if guard.pending is not None:
                    self.checkpoints.wait()
                    raise Interrupted(guard.pending)
                if progress.finished:
                    return
                batch = next(self.batches)
                self._step(batch)
        finally:
            guard.deferred = False
            self.bar.close()

    def _step(self, batch: dict[str, jax.Array]) -> None:
        self.state, loss = self.step_of(self.state, self.placed, batch)
        self.progress.step += 1
        self.bar.update()
        # One step late: the device works on the next step while this one's loss is read.
        refuse_nan("training", self.pending, self.stage, self.progress)
        self.pending = loss
        if self.progress.step % self.per_epoch == 0:
            refuse_nan("training", self.pending, self.stage, self.progress)
            self.pending = None

    def _evaluate(self) -> bool:
        """Evaluates at the end of an epoch; returns whether the result is the best so far."""
        progress, stage = self.progress, self.stage
        row = self._row()
        log_p = self.validate(merge(self.state, self.placed))
        row["val_accuracy"], row["val_loss"] = accuracy_and_loss(log_p, self.labels)
        # The last update of the epoch is seen in no training loss.
        refuse_nan("validation", row["val_loss"], stage, progress)
        row["seconds"] = round(self._seconds(), 3)
        self.state["sums"] = self.job.placement.replicate(fresh_sums())
        # A stage that interpolates is judged by its end alone.
        improved = progress.record(row, self._score(row), candidate=not stage.interpolate)
        progress.finished = progress.should_stop(stage, self.total)
        self.log.write(row)
        text = f"val accuracy {row['val_accuracy']:.3f}, loss {row['val_loss']:.3f}"
        self.bar.set_postfix_str(text)
        if self.quiet:
            epoch = f"{progress.step // self.per_epoch}/{stage.epochs}"
            train = f"train loss {row['train_loss']:.3f}"
            self.job.say(f"{stage.name} epoch {epoch}: {train}, {text}, {row['seconds']:.1f} s")
        if progress.finished:
            chosen = self._interpolate(row) if stage.interpolate else None
            improved = improved or bool(chosen and chosen["fraction"] > 0)
            self._conclude(chosen)
        return improved

    def _interpolate(self, last: dict[str, Any]) -> dict[str, Any]:
        """Ends the stage with the best mixture of its first and last weights."""
        end = {k: jax.device_get(self.state[k]) for k in ("trainable", "statistics")}

        def evaluate(fraction: float) -> np.ndarray:
            mixed = mix(self.origin, end, fraction)
            return self.validate(merge({**self.state, **mixed}, self.placed))

        # Without an earlier stage there is no result to go back to.
        chosen = choose(evaluate, self.labels, may_go_back=self.progress.best is not None)
        if chosen["fraction"] > 0:
            mixed = mix(self.origin, end, chosen["fraction"])
            self.state |= self.job.placement.replicate(mixed)
            found = {k: chosen[k] for k in ("fraction", "val_accuracy", "val_loss")}
            row = {**last, **found, "seconds": round(self._seconds(), 3)}
            self.progress.adopt(row, self._score(row))
            self.log.write(row)
        self.job.say(
            f"{self.stage.name}: interpolated {chosen['fraction']:.0%} of the way from its first "
            f"to its last weights (gain {chosen['gain_in_standard_errors']:.1f} standard errors), "
            f"val accuracy {chosen['val_accuracy']:.3f}, loss {chosen['val_loss']:.3f}"
        )
        return chosen

    def _save_evaluated(self, improved: bool) -> None:
        late = time.monotonic() - self.saved_at > _SAVE_SECONDS
        if improved or self.progress.finished or late or self.job.guard.pending:
            # Only a new best is ranked: among equal ranks orbax keeps the later one.
            self._save(float(self.progress.improvements) if improved else UNSCORED)

    def _save_between(self) -> None:
        """Saves in the middle of an epoch: before leaving, and now and then in a long one."""
        late = time.monotonic() - self.saved_at > _SAVE_WITHIN_EPOCH_SECONDS
        if late or self.job.guard.pending is not None:
            refuse_nan("training", self.pending, self.stage, self.progress)
            fresh = self.checkpoints.latest_step != self.progress.global_step
            if fresh and self.progress.step > self.first:
                self._save(UNSCORED)

    def _save(self, rank: float) -> None:
        self.progress.seconds = self._seconds()
        meta = dataclasses.asdict(self.progress)
        meta["earlier"] += time.monotonic() - self.job.began
        full = merge(jax.device_get({**self.state, "opt_state": None}), self.frozen)
        training = {**_counters(self.state), "origin": self.origin}
        self.checkpoints.save(self.progress.global_step, full, training, meta, rank)
        self.saved_at = time.monotonic()

    def _score(self, row: dict[str, Any]) -> float:
        n, select = len(self.labels), self.job.select
        return score(row["val_accuracy"], row["val_loss"], n, select)

    def _seconds(self) -> float:
        return self.before + time.monotonic() - self.began

    def _row(self) -> dict[str, Any]:
        progress = self.progress
        sums = {k: float(v) for k, v in self.state["sums"].items()}
        return {
            "stage": self.stage.name,
            "stage_index": progress.stage,
            "step": progress.global_step,
            "epoch": progress.epochs_before + progress.step / self.per_epoch,
            "train_loss": sums["loss"] / max(sums["weight"], 1.0),
            "train_accuracy": sums["correct"] / max(sums["weight"], 1.0),
            "learning_rate": float(np.asarray(self.schedule(progress.step - 1))),
        }

    def _conclude(self, chosen: dict[str, Any] | None) -> None:
        """Proves that the frozen leaves are what they were; adds the stage's report line."""
        progress, stage, policy = self.progress, self.stage, self.policy
        # What the steps really read, where it is on the devices, and the rest.
        below, above_it = self.data.below, self.placed
        used = {c: {**self.frozen[c], **below[c], **above_it[c]} for c in self.frozen}
        final = jax.device_get(merge(self.state, used))
        unchanged = frozen_digest(final, policy) == progress.digest
        if not unchanged:
            raise RuntimeError(f"frozen leaves changed during stage {stage.name!r}")
        # Fraction 0: the stage keeps what was there before it.
        kept = chosen is not None and chosen["fraction"] == 0
        best = progress.best if kept else progress.stage_best
        assert best is not None
        self.log.end(stage.name, best)
        progress.results.append(
            {
                "name": stage.name,
                "trainable_parameters": policy.trainable_parameters,
                "frozen_parameters": policy.frozen_parameters,
                "epochs": progress.step // self.per_epoch,
                "steps": progress.step,
                "seconds": round(self._seconds(), 3),
                "boundary": policy.boundary,
                "cached": self.data.cached,
                "cache": self.data.facts,
                "best_step": best["step"],
                "val_accuracy": best["val_accuracy"],
                "val_accuracy_ci95": accuracy_interval(best["val_accuracy"], len(self.labels)),
                "val_n": len(self.labels),
                "val_loss": best["val_loss"],
                "frozen_unchanged": unchanged,
                "stopped": progress.finished,
                "interpolation": chosen,
                "optimizer": stage.optimizer,
                "learning_rate": stage.lr,
                "augment": stage.augment,
                **stage.mixture,
                "weight_of_class": self.class_weights or None,
                "policy": policy.as_rows(stage.lr),
            }
        )


def _counters(state: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint needs besides the variables."""
    return {k: state[k] for k in ("step", "opt_state", "sums")}
