"""Writes tests/goldens/graph_*.json: users' own Keras networks as live Keras sees them.

    KERAS_BACKEND=jax python scripts/make_graph_goldens.py [NAME...]

For every model of ``tests/keras_models.py``: its configuration as Keras writes it into `.h5` and
into `.keras`, the weights' shapes (the numbers are drawn from their names) and, per layer, the
shape and eleven numbers of the output for a drawn image. Takes about half a minute.
"""

import json
import os
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# The one recipe for the numbers is a test helper; scripts/ and tests/ are no packages.
sys.path.append(str(ROOT / "tests"))


def _slim(config):
    """Leaves out what has no part in the computation: initialisers, regularisers, ..."""
    if isinstance(config, dict):
        idle = ("_initializer", "_regularizer", "_constraint", "registered_name", "dtype")
        return {k: _slim(v) for k, v in config.items() if not k.endswith(idle)}
    return [_slim(v) for v in config] if isinstance(config, list) else config


def graph_golden(name: str) -> dict:
    """One model's golden, as JSON-able values."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import h5py
    from keras_models import build, image, live_outputs, statistics, weights_of

    model = build(name)
    with tempfile.TemporaryDirectory() as folder:
        h5, archive = Path(folder) / "m.h5", Path(folder) / "m.keras"
        model.save(h5)
        model.save(archive)
        with h5py.File(h5) as file:
            legacy = json.loads(file.attrs["model_config"])
        with zipfile.ZipFile(archive) as file:
            config = json.loads(file.read("config.json"))
    side, channels = model.input_shape[1], model.input_shape[3]
    found = live_outputs(model, image(side, channels))
    return {
        "h5": _slim(legacy),
        "keras": _slim({k: config[k] for k in ("module", "class_name", "config")}),
        "weights": weights_of(model),
        "parameters": model.count_params(),
        "outputs": {
            path: {"shape": array.shape[1:], "values": statistics(array)}
            for path, array in found.items()
        },
    }


def main(names: list[str]) -> None:
    """Writes the files of the named models, or of all."""
    from keras_models import NAMES

    for name in names or NAMES:
        path = ROOT / "tests" / "goldens" / f"graph_{name}.json"
        golden = graph_golden(name)
        path.write_text(json.dumps(golden, separators=(",", ":")) + "\n")
        print(f"{path.name}: {golden['parameters']:,} parameters, {len(golden['outputs'])} layers")


if __name__ == "__main__":
    main(sys.argv[1:])
