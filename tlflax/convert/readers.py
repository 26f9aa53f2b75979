"""Which reader opens which weight file. A reader knows a file format, not a network."""

import dataclasses
from pathlib import Path

import numpy as np

from tlflax.backbones.table import knows
from tlflax.errors import ConvertError, listing, suggest

# By suffix; a folder is a SavedModel or a TF-Hub module.
SUFFIXES = {
    ".h5": "keras",
    ".hdf5": "keras",
    ".keras": "keras",
    ".safetensors": "safetensors",
    ".pth": "torch",
    ".pt": "torch",
    ".th": "torch",
    ".tar": "torch",
    ".bin": "torch",
}
READABLE = (*SUFFIXES, "a SavedModel folder")


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """What a reader found.

    Attributes:
      form: naming and layout of the arrays: ``keras``, ``torch`` or ``hub`` (see `Spec.form`).
      arrays: by the source's own names, in file order.
    """

    form: str
    arrays: dict[str, np.ndarray]


def is_path(name: str) -> bool:
    """Whether a backbone's name means a file or folder instead of an entry of the zoo."""
    if knows(name):
        return False
    return "/" in name or "\\" in name or Path(name).suffix in SUFFIXES or Path(name).is_dir()


def check_path(path: Path) -> None:
    """Refuses what no reader opens.

    Raises:
      ConvertError: absent, or of an unknown kind.
    """
    if path.is_dir():
        if not (path / "saved_model.pb").is_file():
            raise ConvertError(
                f"{path} is a folder without saved_model.pb; name a weight file "
                f"({', '.join(SUFFIXES)}) or a SavedModel folder"
            )
        return
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*") if p.suffix in SUFFIXES)
        hint = f"; in that folder: {listing(near, 4)}" if near else ""
        raise ConvertError(f"weight file {path} does not exist{suggest(path.name, near) or hint}")
    if path.suffix not in SUFFIXES:
        raise ConvertError(f"cannot read {path}: readable formats are {', '.join(READABLE)}")


def read(path: Path) -> WeightFile:
    """Reads every array of a weight file.

    Raises:
      ConvertError: absent, of an unknown kind, damaged, or with something in it that is not read.
    """
    check_path(path)
    if path.is_dir():
        from tlflax.convert.saved_model import read_saved_model

        return WeightFile("hub", read_saved_model(path))
    kind = SUFFIXES[path.suffix]
    if kind == "keras":
        from tlflax.convert.keras_file import read_keras

        return WeightFile("keras", read_keras(path))
    from tlflax.convert.torch_file import read_safetensors, read_torch

    return WeightFile("torch", (read_torch if kind == "torch" else read_safetensors)(path))
