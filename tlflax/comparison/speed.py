"""Measures inference of finished runs and keeps the result in their report.json."""

import json
from collections.abc import Sequence
from pathlib import Path

from tlflax.atomic import replacing
from tlflax.comparison.entry import architecture_of
from tlflax.errors import ConfigError
from tlflax.evaluate.speed import images_per_second

BATCH_SIZE = 32


def measure(folders: Sequence[Path]) -> None:
    """Measures each network once, one after the other, with the model that the run saved.

    Raises:
      ConfigError: a run has no model.safetensors.
    """
    import jax

    from tlflax.predict import Predictor
    from tlflax.report.document import to_json

    known: dict[str, float] = {}
    for folder in folders:
        predictor = Predictor.open(folder)
        architecture = architecture_of(folder) or str(folder)
        if architecture not in known:
            size = predictor.model.architecture.image_size
            # On an accelerator the weights are there already when images come.
            predictor.variables = jax.device_put(predictor.variables)
            known[architecture] = images_per_second(predictor.classify, size, BATCH_SIZE)
        path = folder / "report.json"
        report = json.loads(path.read_text(encoding="utf-8"))
        report["inference"] = {
            "images_per_second": round(known[architecture], 2),
            "batch_size": BATCH_SIZE,
            "device": str(jax.devices()[0].device_kind),
            "precision": predictor.model.precision,
        }
        try:
            with replacing(path) as temporary:
                temporary.write_text(
                    to_json(report) + "\n", encoding="utf-8", errors="backslashreplace"
                )
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror}") from error
