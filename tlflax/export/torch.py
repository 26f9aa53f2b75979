"""A `.safetensors` file with timm's or torchvision's names, for networks that came from there.

    model = timm.create_model(NAME, num_classes=len(classes))
    model.load_state_dict(safetensors.torch.load_file("model.torch.safetensors"))

The pixels are prepared outside the network: the file's metadata has the contract, the class
names and where the weights are from, as JSON under ``tlflax``.
"""

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tlflax import tree
from tlflax.errors import ConfigError, ConvertError, listing, suggest

if TYPE_CHECKING:
    from tlflax.export.trained import Trained

DEFAULT_NAME = "model.torch.safetensors"
SUFFIXES = (".safetensors",)
# Other kernels than XLA's (oneDNN): 1e-6 a layer, and up to a hundred layers.
TOLERANCE = 1e-4
# (style, beginning of the zoo name) -> the last layer, where it is not `Spec.top_layers`' first.
_CLASSIFIERS = {
    ("torchvision", "torch_mobilenet_v2"): "classifier.1",  # behind a dropout
    ("torchvision", "torch_efficientnet"): "classifier.1",
    ("torchvision", "convnext"): "classifier.2",
    ("torchvision", "torch_vit"): "heads.head",
    ("akamaster", "cifar_resnet"): "linear",
}


def check(trained: "Trained", style: str = "") -> None:
    """Refuses what a classifier of timm or torchvision cannot hold.

    Args:
      trained: the run's model.
      style: ``timm`` or ``torchvision``; by default whose weights the network has.

    Raises:
      ConvertError: a network from elsewhere, one that is cut, or another head than one layer.
    """
    spec, a = trained.model.spec, trained.model.architecture
    if spec.form != "torch":
        other = " or keras" if spec.form == "keras" else ""
        raise ConvertError(
            f"{spec.name} did not come from torch, so it has no names there: export it with "
            f"--format stablehlo{other}"
        )
    _style(trained, style)
    last = trained.model.all_blocks[-1].name
    end = spec.default_endpoint or last
    reasons = []
    if trained.model.endpoint != end:
        reasons.append(f"it is cut at {trained.model.endpoint}, theirs ends at {end}")
    if a.hidden:
        reasons.append(f"its head has {len(a.hidden)} hidden layers, theirs has none")
    if a.head != "gap" and len(trained.model.blocks[-1].shape) == 3:
        reasons.append(f"its head is {a.head!r}, theirs takes the mean over the map")
    if reasons:
        raise ConvertError(
            f"{spec.name} of timm or torchvision cannot hold this classifier: "
            f"{'; '.join(reasons)}; export it with --format stablehlo"
        )


def _style(trained: "Trained", style: str) -> str:
    from tlflax.convert.torch_names import styles

    known = styles(trained.model.spec)
    if style and style not in known:
        raise ConfigError(
            f"{trained.model.spec.name} has no names of style {style!r}{suggest(style, known)} "
            f"(it has {listing(known)})"
        )
    return style or known[0]


def write(trained: "Trained", path: Path, style: str = "") -> None:
    """Writes backbone and classifier under the source's names."""
    from safetensors.numpy import save_file

    from tlflax.convert.torch_form import to_source

    style = _style(trained, style)
    about = trained.contract(inside=False) | {"names": style}
    found = to_source(trained.backbone(), trained.model.spec, style)
    arrays = {n: np.ascontiguousarray(a) for n, a in (found | _head(trained, style)).items()}
    # "format" is by what torch users' loaders know the layout.
    save_file(arrays, path, {"format": "pt", "tlflax": json.dumps(about)})


def prove(trained: "Trained", path: Path, style: str = "") -> list[str]:
    """Reads the file as a torch user's and converts it back: bit by bit the run's weights.

    With the source framework installed, its own network is loaded and run too.

    Raises:
      ConvertError: a number differs, or the live network's answers do.
    """
    from tlflax.convert.readers import read
    from tlflax.convert.torch_form import convert

    style = _style(trained, style)
    arrays, head = dict(read(path).arrays), _head(trained, style)
    pairs = {name: (arrays.pop(name), array) for name, array in head.items()}
    # Total without the classifier; the run's own variables serve as the target's shapes.
    ours = trained.backbone()
    theirs, left_out = convert(arrays, ours, trained.model.spec, path.name)
    for collection in ours:
        flat = tree.flatten(theirs[collection])
        pairs |= {p: (flat[p], a) for p, a in tree.flatten(ours[collection]).items()}
    wrong = [p for p, (a, b) in pairs.items() if a.shape != b.shape or a.tobytes() != b.tobytes()]
    if wrong or left_out:
        raise ConvertError(
            f"the file read again does not hold the run's weights: {listing(wrong + left_out, 4)} "
            "differ; nothing was written"
        )
    lines = [f"read again and converted back: {len(pairs)} leaves, bit by bit the run's; "
             f"{style} names"]  # fmt: skip
    spec, side = trained.model.spec, trained.model.architecture.image_size
    if side != spec.size and any("pos_embed" in path for path in pairs):
        lines.append(
            f"note: the positions are stored for {spec.size} pixels and were resampled to {side} "
            "in the run; give timm.create_model dynamic_img_size=True, for torchvision resample "
            "them with timm.layers.pos_embed.resample_abs_pos_embed"
        )
    return lines + _live(trained, path, style)


def _live(trained: "Trained", path: Path, style: str) -> list[str]:
    """Loads the file into the library's own network, where it is installed, and runs it."""
    from tlflax.convert.oracle_torch import probabilities

    # akamaster's networks are a file of a repository, which torch alone can run.
    needed = ["torch", *({"timm", "torchvision"} & {_library(style)})]
    missing = [package for package in needed if importlib.util.find_spec(package) is None]
    if missing:
        return [f"not run in {style}: {' and '.join(missing)} not installed here"]
    spec, classes = trained.model.spec, len(trained.model.classes)
    found, versions = probabilities(spec, style, path, trained.images, classes)
    return trained.judge(found, TOLERANCE, f"loaded by {style}, torch {versions['torch']}")


def _library(style: str) -> str:
    """``torchvision-2022``, names of an earlier release, -> ``torchvision``."""
    return style.partition("-")[0]


def _head(trained: "Trained", style: str) -> dict[str, np.ndarray]:
    """The classifier under its name there; torch keeps a linear layer as ``[out, in]``."""
    spec, logits = trained.model.spec, trained.variables["params"]["head"]["logits"]
    special = [n for (s, start), n in _CLASSIFIERS.items()
               if s == _library(style) and spec.name.startswith(start)]  # fmt: skip
    name = special[0] if special else spec.top_layers[0]
    weight = np.ascontiguousarray(logits["kernel"].T)
    return {f"{name}.weight": weight, f"{name}.bias": np.asarray(logits["bias"])}
