"""Writes a network's random weights as `python -m tlflax.convert` writes real ones.

    python -m bench.random_weights NETWORK FILE.safetensors

A user's network comes from a file; without one the first run of tlflax would spend 10 s on
compiling the random numbers of every layer, which is no part of transfer learning.
"""

import sys
from pathlib import Path

import jax

from bench.plan import NETWORKS
from tlflax.backbones import table
from tlflax.convert.store import Weights, save_weights
from tlflax.model import Architecture, Model


def main(name: str, path: str) -> None:
    """Draws and writes."""
    network = NETWORKS[name]
    model = Model(Architecture(network.tlflax, "auto", ("0", "1"), network.size))
    backbone = {c: v["backbone"] for c, v in model.init(0).items() if "backbone" in v}
    weights = Weights(jax.device_get(backbone), "random values", "0" * 64, {"method": "none"}, ())
    save_weights(Path(path), table.get(network.tlflax), weights)


if __name__ == "__main__":
    main(*sys.argv[1:])
