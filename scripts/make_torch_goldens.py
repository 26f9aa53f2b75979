"""Writes tests/goldens/torch_*.npz: what the live torch networks compute.

    python scripts/make_torch_goldens.py [NAME...]

For every network and image side of ``tests/torch_layout.py``: weights drawn from their names are
set in torchvision's or timm's model, a drawn image goes through it, and per layer the shape, L2
norm, mean, largest magnitude and eight values are stored, so that the tests compare every layer
with torch without having torch. ``torch_weights.npz`` has names and shapes of the weights of every
network in every style. Takes a minute.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
# The one recipe for the numbers is a test helper; scripts/ and tests/ are no packages.
sys.path.append(str(ROOT / "tests"))


def weight_table(networks: Sequence[str]) -> dict[str, np.ndarray]:
    """Names and shapes (filled up with -1) of the state dicts, by ``NETWORK.STYLE.names``."""
    from tlflax.backbones.table import get
    from tlflax.convert.oracle_torch import build
    from tlflax.convert.torch_names import styles

    table = {}
    for network in networks:
        for style in styles(get(network)):
            state = build(get(network), style, 224).state_dict()
            shapes = [(*v.shape, *[-1] * (4 - v.dim())) for v in state.values()]
            names = list(state)
            if style == "torchvision-2022":
                # The model that torchvision 0.12 wrote; today's only reads these names.
                today = {"mlp.0.": "mlp.linear_1.", "mlp.3.": "mlp.linear_2."}
                for new, old in today.items():
                    names = [n.replace(new, old) for n in names]
            table[f"{network}.{style}.names"] = np.array(names)
            table[f"{network}.{style}.shapes"] = np.array(shapes)
    return table


def torch_statistics(network: str, sides: Sequence[int]) -> dict[int, dict[str, np.ndarray]]:
    """Runs one torch network on the drawn images.

    Args:
      network: zoo name.
      sides: image sides in pixels.

    Returns:
      By side: ``layers`` (our names), ``shapes [layers, 3]``, ``values [layers, 11]`` (L2 norm,
      mean, largest magnitude, eight values at fixed positions), ``parameters`` (without the
      classifier) and ``statistics`` (numbers that BatchNorm stores).
    """
    import torch
    from keras_layout import draw_image, positions
    from torch_layout import NETWORKS, draw

    from tlflax.backbones.table import get
    from tlflax.convert.oracle_torch import build, resampled, torch_outputs
    from tlflax.convert.torch_names import styles

    spec, found = get(network), {}
    style = styles(spec)[0]
    tops = tuple(f"{top}." for top in spec.top_layers)
    for side in sides:
        # Positions are drawn for the published size and resampled by timm.
        full = build(spec, style, 224).state_dict()
        gains = NETWORKS[network].gains
        drawn = {n: torch.from_numpy(draw(n, tuple(v.shape), gains)) for n, v in full.items()}
        model = build(spec, style, side)
        model.load_state_dict(resampled(model, drawn))
        outputs = torch_outputs(model, spec, style, draw_image(side))
        rows = []
        for array in outputs.values():
            values = array.astype(np.float64).ravel()
            head = [np.linalg.norm(values), values.mean(), np.abs(values).max()]
            rows.append([*head, *values[positions(values.size)]])
        counted = [n for n, v in full.items() if v.dim() and not n.startswith(tops or ("-",))]
        sizes = {n: full[n].numel() for n in counted}
        stored = sum(s for n, s in sizes.items() if ".running_" in n)
        found[side] = {
            "layers": np.array(list(outputs)),
            "shapes": np.array([(*[0] * (4 - a.ndim), *a.shape[1:]) for a in outputs.values()]),
            "values": np.array(rows),
            "parameters": np.array(sum(sizes.values()) - stored),
            "statistics": np.array(stored),
        }
    return found


def main(names: list[str]) -> None:
    """Writes the files of the named networks, or of all."""
    from torch_layout import NETWORKS

    folder = ROOT / "tests" / "goldens"
    np.savez_compressed(folder / "torch_weights.npz", **weight_table(list(NETWORKS)))
    for name in names or NETWORKS:
        for side, stored in torch_statistics(name, NETWORKS[name].sides).items():
            path = folder / f"torch_{name}_{side}.npz"
            np.savez_compressed(path, **stored)
            print(
                f"{path.name}: {stored['parameters']:,} parameters, {len(stored['layers'])} layers"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
