"""What a run writes down: its facts for the report, its scores, its model file."""

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tlflax.convert.store import Weights
from tlflax.convert.tensors import save_variables
from tlflax.data.source import Dataset
from tlflax.evaluate.metrics import Predictions
from tlflax.model import Model
from tlflax.result import describe_weights, score_of, versions
from tlflax.train.loop import Outcome
from tlflax.train.streams import Streams


def describe(
    model: Model, data: Dataset, weights: Weights | None, streams: Streams, seed: int, command: str
) -> dict[str, Any]:
    """The part of report.json that says what was run, where and when."""
    return {
        "backbone": model.spec.name,
        "endpoint": model.endpoint,
        "image_size": model.architecture.image_size,
        "weights": describe_weights(weights),
        "data": data.summary(),
        "cache": streams.summary(),
        "seed": seed,
        "versions": versions(),
        "command": command,
        "date": datetime.datetime.now().isoformat(timespec="seconds"),
        "precision": model.precision,
        "device": str(jax.devices()[0].device_kind),
    }


def origins(data: Dataset, weights: Weights | None) -> dict[str, str]:
    """What a run began with, for TensorBoard's table of hyperparameters."""
    return {
        "weights": describe_weights(weights)["source"],
        "data": data.source,
        **{f"{split}_images": how for split, how in data.made.items()},
    }


def both_scores(
    tested: dict[str, Predictions],
    validated: dict[str, Predictions],
    name: str,
    classes: Sequence[str],
) -> dict[str, Any] | None:
    """Metrics of one set of variables on both splits; ``None`` if it was not evaluated."""
    if name not in {**tested, **validated}:
        return None
    scores = {"test": tested, "validation": validated}
    return {split: score_of(found, name, classes) for split, found in scores.items()}


def save_model(
    workdir: Path, model: Model, outcome: Outcome, weights: Weights | None, seed: int
) -> None:
    """Writes ``model.safetensors``: all that `predict` needs."""
    a = model.architecture
    facts = {
        "backbone": model.spec.name,
        "architecture": {k: getattr(a, k) for k in a.__dataclass_fields__},
        "contract": model.spec.contract.__dict__,
        "weights": describe_weights(weights),
        "best": outcome.best,
        "seed": seed,
        "versions": versions(),
    }
    save_variables(workdir / "model.safetensors", _float32(outcome.variables), facts)


def _float32(variables: dict[str, Any]) -> dict[str, Any]:
    return jax.tree.map(lambda x: np.asarray(x, np.float32), variables)
