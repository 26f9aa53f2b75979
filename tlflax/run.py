"""One experiment from top to bottom. Start reading here."""

import shlex
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from tlflax import config as configs
from tlflax.convert.store import Weights
from tlflax.convert.tensors import load_variables
from tlflax.data.source import Dataset, load_dataset
from tlflax.errors import ConfigError, suggest
from tlflax.evaluate.metrics import write_predictions
from tlflax.evaluate.statistics import check_interval
from tlflax.exhibits import exhibit
from tlflax.facts import both_scores, describe, origins, save_model
from tlflax.features.caching import Caching
from tlflax.features.inputs import input_notes
from tlflax.look_at import where_to_look
from tlflax.model import Model
from tlflax.policy.checks import check_stages
from tlflax.policy.imbalance import check_imbalance
from tlflax.policy.policy import Policy, table
from tlflax.policy.stage import Stage
from tlflax.result import Run, predictions_of, score_of
from tlflax.setup import prepare, scratch_stage
from tlflax.train.devices import Placement
from tlflax.train.interrupt import Guard
from tlflax.train.log import note_test
from tlflax.train.loop import Job, Outcome, train
from tlflax.train.memory import keep_freed_memory
from tlflax.train.progress import SELECT
from tlflax.train.step import compute_precision
from tlflax.train.streams import Streams


def run(config: Any, workdir: Path, command: Sequence[str] = ()) -> Run:
    """Trains, evaluates and reports what a config says.

    Args:
      config: ConfigDict or mapping, see `tlflax.config.DEFAULTS`.
      workdir: run directory; with a checkpoint of the same config in it, the run resumes.
      command: what was typed, for the report.

    Raises:
      TlflaxError: something the user must change.
    """
    c = configs.resolve(config)
    if finished(workdir):
        configs.claim(workdir, c)
        return reopen(workdir)
    caching = Caching(c["cache"], c["cache_gb"], c["cache_dtype"])
    model, stages, weights = prepare(c)
    data = load_dataset(
        c["data"],
        classes=c["classes"],
        per_class=c["per_class"],
        splits=c["data_splits"],
        seed=c["seed"],
        on_bad_image=c["on_bad_image"],
        data_dir=c["data_dir"] or None,
    )
    scratch = scratch_stage(stages, c["baseline_epochs"], c["baseline_lr"])
    model = model.with_classes(data.class_names)
    # Last: a start that failed above leaves nothing behind.
    configs.claim(workdir, c)
    return fit(
        model,
        data,
        stages,
        weights=weights,
        workdir=workdir,
        batch_size=c["batch_size"],
        seed=c["seed"],
        precision=c["precision"],
        select=c["select"],
        caching=caching,
        baseline=scratch if c["baseline"] else None,
        evaluate_start=c["evaluate_start"],
        evaluate_stages=c["evaluate_stages"],
        look_at=c["look_at"],
        grad_cam=c["grad_cam"],
        config=c,
        command=shlex.join(command),
    )


def finished(workdir: Path) -> bool:
    """Whether nothing is missing in a run directory: report.html is written last."""
    return (workdir / "report.html").is_file()


def reopen(workdir: Path) -> Run:
    """Says that a run is complete and opens it."""
    print(f"{workdir} is complete: see {workdir / 'report.html'}")
    return Run.open(workdir)


def fit(
    model: Model,
    data: Dataset,
    stages: Sequence[Stage],
    *,
    weights: Weights | None,
    workdir: Path | None = None,
    batch_size: int = 32,
    seed: int = 0,
    precision: str = "auto",
    select: str = "accuracy",
    caching: Caching | None = None,
    baseline: Stage | None = None,
    evaluate_start: bool = False,
    evaluate_stages: bool = False,
    look_at: str | Sequence[str] = (),
    grad_cam: str = "auto",
    config: dict[str, Any] | None = None,
    command: str = "",
) -> Run:
    """Trains the stages, evaluates the best checkpoint once on the test split, writes the report.

    Args:
      model: structure, with the data's class names.
      data: splits.
      stages: in order.
      weights: pretrained backbone, or ``None`` for random values.
      workdir: run directory; a new temporary one by default.
      batch_size: images per step.
      seed: of initial values, order, augmentation, dropout.
      precision: of the backbone in training and evaluation: ``float32``, ``bfloat16``, or ``auto``
        (bfloat16 on GPU and TPU, float32 on CPU).
      select: the best checkpoint on validation is the one with the best ``accuracy`` or ``loss``.
      caching: how the output of frozen blocks is kept.
      baseline: stage that trains the same network from scratch for comparison.
      evaluate_start: whether the start (pretrained blocks, untrained head) is evaluated as well,
        for the report's ``before``.
      evaluate_stages: whether the best state until the end of each stage is evaluated as well, for
        ``validation`` and ``test`` in the report's ``stages``.
      look_at: layers or blocks whose outputs the report shows; none for three of the blocks.
      grad_cam: layer or block of the report's Grad-CAM.
      config: recorded in the report.
      command: recorded in the report.
    """
    if select not in SELECT:
        hint = suggest(select, SELECT)
        raise ConfigError(
            f"select must be accuracy or loss, both of validation images, got {select!r}{hint}"
        )
    if workdir is not None and finished(workdir):
        return reopen(workdir)
    model = model.computing(compute_precision(precision))
    places = where_to_look(model, look_at, grad_cam)
    began = time.monotonic()
    keep_freed_memory()
    workdir = workdir or Path(tempfile.mkdtemp(prefix="tlflax-"))
    placement = Placement()
    policies = [model.policy(stage) for stage in stages]
    notes = [*data.warnings, *(weights.notes if weights else ())]
    # Random weights need no preparation in particular, and what a file of the user's needs is
    # for its statistics to say (input_notes, below).
    misprepared = model.architecture.misprepared if weights and weights.official else ""
    notes += [misprepared] if misprepared else []
    notes += check_stages(stages, policies, batch_size, weights is not None)
    notes += check_imbalance(stages, data.summary()["counts"]["train"])
    for stage, policy in zip(stages, policies, strict=True):
        more = "".join(f", {key} {value}" for key, value in stage.mixture.items())
        rate = f"{stage.optimizer}, lr {stage.lr:g}"
        print(f"\nstage {stage.name}: {stage.epochs} epochs, {rate}{more}")
        print(table(policy, stage.lr))
    for note in notes:
        print(f"warning: {note}")

    splits = {"train": data.train, "val": data.val, "test": data.test}
    streams = Streams(model, splits, placement, batch_size, caching)

    def job(
        folder: Path, stages: Sequence[Stage], variables: dict[str, Any], weights: Weights | None
    ) -> Outcome:
        work = Job(
            model=model,
            variables=variables,
            stages=stages,
            policies=[model.policy(stage) for stage in stages],
            streams=streams,
            folder=folder,
            batch_size=batch_size,
            seed=seed,
            placement=placement,
            guard=guard,
            select=select,
            fingerprint=data.fingerprint,
            origins=origins(data, weights),
            weights=weights.sha256 if weights else "none",
            keep_stages=evaluate_stages and len(stages) > 1,
        )
        return train(work)

    with Guard() as guard:
        # Init, then load, then (inside train) the optimizer: the only place with this order.
        start = model.init(seed, head_only=weights is not None)
        start = model.load(start, weights) if weights else start
        # A copy: what is trained of it is gone after the first step.
        before = jax.device_get(start) if evaluate_start else None
        # What has been said of the preparation need not be measured to be said again.
        compared = start if weights and not misprepared else None
        notes += input_notes(model, compared, data.train)
        tuned = job(workdir, stages, start, weights)
        save_model(workdir, model, tuned, weights, seed)
        scratch = None
        if baseline:
            scratch = job(workdir / "baseline", [baseline], model.init(seed), None)
        lowest = lowest_boundary(model, policies)
        finals = {"tuned": (tuned.variables, lowest)}
        finals |= {path.name: (load_variables(path)[0], lowest) for path in tuned.kept}
        if before is not None:
            finals["before"] = (before, lowest)
        if scratch is not None:
            finals["scratch"] = (scratch.variables, None)
        validated = predictions_of(streams, finals, "val", data.val)
        # The only place where the test split is read.
        tested = predictions_of(streams, finals, "test", data.test)
    test_score = score_of(tested, "tuned", model.classes)
    for note in (late := check_interval(test_score)):
        print(f"warning: {note}")
    # Of sessions that were interrupted: the report's time is that of the whole run.
    earlier = tuned.earlier + (scratch.earlier if scratch else 0.0)
    report: dict[str, Any] = {
        **describe(model, data, weights, streams, seed, command),
        "test": test_score,
        "validation": score_of(validated, "tuned", model.classes),
        "before": both_scores(tested, validated, "before", model.classes),
        "baseline": both_scores(tested, validated, "scratch", model.classes),
        "stages": tuned.stages,
        "best_step": tuned.best["step"],
        "warnings": [*notes, *streams.notes, *late],
        "seconds": round(time.monotonic() - began + earlier, 2),
    }
    if evaluate_stages:
        ends = [path.name for path in tuned.kept] + ["tuned"]
        for stage, end in zip(report["stages"], ends, strict=True):
            # Of the best state until then, which a stage that improved nothing has not made.
            scores = {"validation": validated, "test": tested}
            stage |= {k: score_of(found, end, model.classes) for k, found in scores.items()}
    if scratch is not None:
        epochs = scratch.stages[0]["epochs"]
        report["baseline"] |= {"stages": scratch.stages, "epochs": epochs}
    shown, split = (tested, data.test) if tested else (validated, data.val)
    if scratch is not None:
        rival = workdir / "baseline" / "predictions.csv"
        write_predictions(rival, shown["scratch"], model.classes)
    used = [(stage, (seed, i)) for i, stage in enumerate(stages)]
    used += [(baseline, (seed, 0))] if baseline else []
    validation = validated.get("tuned")
    more, pictures = exhibit(
        model, tuned.variables, data, used, shown["tuned"], validation, split, places
    )
    report |= more
    if report["test"]:
        note_test(workdir, stages[-1].name, report["test"], tuned.best["step"])
    result = Run(workdir, report, tuned.history, scratch.history if scratch else [], shown["tuned"])
    result.write(split, config or {}, model.classes, pictures)
    print(result.headline())
    return result


def lowest_boundary(model: Model, policies: Sequence[Policy]) -> str | None:
    """Last block that no stage trains nor any below it, ``None`` if the first one is trained."""
    boundaries = [policy.boundary for policy in policies]
    names = model.anatomy.blocks
    # A cut inside the last block is no block's name, and as high as a boundary can be.
    order = {name: i for i, name in enumerate(names)}
    return min(boundaries, key=lambda b: -1 if b is None else order.get(b, len(names)))
