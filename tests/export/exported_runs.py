"""Finished runs without a training: a network with drawn weights, saved as a run saves it."""

from pathlib import Path

import numpy as np

from tlflax import tree
from tlflax.convert.tensors import save_variables
from tlflax.model import Architecture, Model

CLASSES = ("ant", "bee", "wasp")


def write_run(folder: Path, backbone: str, size: int, endpoint: str = "auto", **head) -> Path:
    """Writes ``folder/model.safetensors``; head options as `Architecture` has them.

    Every leaf is drawn, none is as initialised: fresh heads are zero and fresh BatchNorms do
    nothing, so that no comparison of outputs would notice them.
    """
    model = Model(Architecture(backbone, endpoint, CLASSES, size, **head))
    rng, leaves = np.random.default_rng(1), {}
    for path, leaf in tree.flatten(model.abstract).items():
        noise = rng.standard_normal(leaf.shape, np.float32)
        kind = path.rsplit("/", 1)[1]
        if path.startswith("params/head/"):
            leaves[path] = 0.3 * noise
        elif kind == "kernel":
            # Sums stay of order one: the fan-in is all but the last axis.
            leaves[path] = noise * np.float32(np.sqrt(2 / np.prod(leaf.shape[:-1])))
        elif kind in ("var", "scale"):
            leaves[path] = np.exp(0.2 * noise)
        else:
            leaves[path] = 0.1 * noise
    a = model.architecture
    facts = {
        "backbone": a.backbone,
        "architecture": {k: getattr(a, k) for k in a.__dataclass_fields__},
        "contract": model.spec.contract.__dict__,
        "weights": {"source": "drawn", "sha256": None, "certificate": None},
        "best": {"step": 7},
        "seed": 0,
        "versions": {"tlflax": "0"},
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_variables(folder / "model.safetensors", tree.unflatten(leaves), facts)
    return folder


def damage(folder: Path, leaf: str) -> None:
    """Changes one leaf of a run's model by a hundredth."""
    from tlflax.convert.tensors import load_variables

    variables, facts = load_variables(folder / "model.safetensors")
    flat = tree.flatten(variables)
    flat[leaf] = flat[leaf] * 1.01
    save_variables(folder / "model.safetensors", tree.unflatten(flat), facts)
