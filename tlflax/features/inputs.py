"""Do the images reach the network as its weights need them? Asked once, before the first step.

Weights with BatchNorm remember what they saw in training: the mean and the variance of each
channel that comes into the first BatchNorm (behind the stem convolution, in nearly every network).
A few training images sent there under the input contract in use give the same two numbers, and the
distance between the two is small or it is not. It is the median over the channels of the
Kullback-Leibler divergence between normal distributions with these moments. Other contracts are
tried if it is not, and one that fits much better is named.

Weights without BatchNorm (VGG, SqueezeNet, ViT, ConvNeXt) remember nothing, and pixels alone do not
tell a wrong contract from dark images. What the zoo knows is the contract that they were trained
with: another one is told, with the moments that ImageNet's pixels have under theirs. Of a user's
own network without BatchNorm nothing is known: only a second rescaling behind a layer that
rescales is found.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from tlflax.backbones import table
from tlflax.backbones.chain import preprocess
from tlflax.backbones.first_norm import FirstNorm, Moments
from tlflax.backbones.spec import Contract
from tlflax.convert.own_contract import CONTRACTS
from tlflax.data.decode import Resize
from tlflax.data.listing import Split
from tlflax.data.pipeline import Images
from tlflax.errors import DataError
from tlflax.model import Model

# As many images as are looked at: enough for the moments, at a tenth of a second.
LOOKED_AT = 32
# Distances below this are all as good as none. Seen of the right contract: 0.001 to 0.12 on five
# sets of photos (MobileNetV2 0.35, Tiny Darknet, two CIFAR ResNets), up to 1.1 on darkened ones.
_FITS = 0.05
# A contract fits *much* better at a sixth of the distance. Seen of [0, 1] where [-1, 1] is right,
# the least wrong of the usual mistakes: 0.56 to 0.85 on photos, eleven times what fits and more.
# Seen of the right one against the best wrong one, at worst: three times, on photos artificially
# whitened (others: darkened, on white, on black, grey, drawn lines, noise, digits, low contrast).
_MUCH = 6.0
# Mean and standard deviation of ImageNet's pixels, RGB in [0, 1] (torchvision's constants).
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# A variance of nothing must not make the distance infinite.
_TINY = 1e-12


def input_notes(model: Model, variables: Mapping[str, Any] | None, split: Split) -> list[str]:
    """Runs `check_inputs` on images from all over a split and prints what it says."""
    count = min(LOOKED_AT, len(split))
    rows = np.linspace(0, len(split) - 1, count).round().astype(np.int64)
    c = model.spec.contract
    rule = Resize(c.method, c.antialias, c.fit, c.crop_fraction)
    images = Images(split.subset(rows), model.architecture.image_size, rule)
    notes = check_inputs(model, variables, images.batch(np.arange(count)))
    for note in notes:
        print(f"warning: {note}")
    return notes


def check_inputs(
    model: Model, variables: Mapping[str, Any] | None, images: np.ndarray
) -> list[str]:
    """Compares what the network gets with what its weights were trained on.

    Args:
      model: structure, with the input contract in use.
      variables: ``{"params": {"backbone": ...}, "batch_stats": ...}`` with pretrained weights, or
        ``None`` if there are none: random weights take anything.
      images: RGB uint8 ``[B, H, W, 3]`` as they come from the pipeline.

    Returns:
      One sentence per finding, with the fix.

    Raises:
      DataError: the images are black.
    """
    if images.max() <= 1:
        raise DataError(
            f"{len(images)} training images from all over the set have no pixel above 1 of 255: "
            "they were saved after a division by 255, probably; save the pixels as they were, 0 to "
            "255 (the network's input contract scales them)"
        )
    if variables is None:
        return []
    twice = _rescaled_twice(model)
    if twice:
        return [twice]
    used, own = model.chain.contract, _trained_with(model)
    measure = _Distance(model, variables, images, own)
    if not measure.remembered and own is None:
        return []
    if own is not None and not used.same_pixels(own):
        # The weights' own contract has the benefit of the doubt. Without statistics the
        # difference itself is the finding.
        wrong = not measure.remembered or measure(own) < measure(used)
        return [_sentence(model, own, "auto", measure)] if wrong else []
    distance = measure(used) if measure.remembered else 0.0
    if distance <= _MUCH * _FITS:
        return []
    rivals = {n: c for n, c in _usual(used.order).items() if not c.same_pixels(used)}
    best = min(rivals, key=lambda name: measure(rivals[name]))
    if distance <= _MUCH * max(measure(rivals[best]), _FITS):
        return []
    return [_sentence(model, rivals[best], best, measure)]


class _Distance:
    """How far what comes in is from what was seen in training, for a contract.

    Attributes:
      remembered: whether the weights hold statistics; else the contract they were trained with
        must do.
    """

    def __init__(
        self,
        model: Model,
        variables: Mapping[str, Any],
        images: np.ndarray,
        trained: Contract | None,
    ):
        self._images, self._trained = images, trained
        self._variables = {c: v["backbone"] for c, v in variables.items() if "backbone" in v}
        self._norm = FirstNorm(model.chain, model.endpoint)
        self._known: dict[Contract, float] = {}
        self._seen: dict[Contract, Moments | None] = {}
        stored = bool(self._variables.get("batch_stats"))
        self.remembered = stored and self._look(model.chain.contract) is not None

    def __call__(self, contract: Contract) -> float:
        if contract not in self._known:
            ours, theirs = self._both(contract)
            ratio = (ours[1] + _TINY) / (theirs[1] + _TINY)
            shift = (ours[0] - theirs[0]) ** 2 / (theirs[1] + _TINY)
            self._known[contract] = float(np.median((ratio + shift - 1 - np.log(ratio)) / 2))
        return self._known[contract]

    def _both(self, contract: Contract):
        """(mean, variance) that come in, and (mean, variance) that were seen in training."""
        if not self.remembered:
            assert self._trained is not None
            return self.moments(contract), _expected(self._trained)
        found = self._look(contract)
        assert found is not None
        mean, var, stored_mean, stored_var = (np.asarray(v, np.float64) for v in found)
        return (mean, var), (stored_mean, stored_var)

    def _look(self, contract: Contract) -> Moments | None:
        if contract not in self._seen:
            self._seen[contract] = self._norm(self._variables, self._prepared(contract))
        return self._seen[contract]

    def _prepared(self, contract: Contract) -> Any:
        return preprocess(self._images, contract)  # pyright: ignore[reportArgumentType]

    def moments(self, contract: Contract) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of each channel of the prepared images."""
        prepared = np.asarray(self._prepared(contract))
        flat = prepared.reshape(-1, prepared.shape[-1]).astype(np.float64)
        return flat.mean(axis=0), flat.var(axis=0)


def _expected(contract: Contract) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of ImageNet's pixels under a contract."""
    mean, std = (np.array(v) * 255 for v in _IMAGENET)
    if contract.order == "BGR":
        mean, std = mean[::-1], std[::-1]
    mean = (mean * contract.scale - contract.mean) / contract.std
    return mean, (std * contract.scale / contract.std) ** 2


def _trained_with(model: Model) -> Contract | None:
    """The contract of a zoo network's weights; of a user's own network it is not known."""
    return None if model.architecture.own is not None else table.get(model.spec.name).contract


def _usual(order: str) -> dict[str, Contract]:
    """The usual contracts by name, for as many channels as the network has."""
    if order != "L":
        return CONTRACTS
    return {
        name: dataclasses.replace(c, order="L", mean=c.mean[:1], std=c.std[:1])
        for name, c in CONTRACTS.items()
        if name in ("raw", "unit", "tf")
    }


def _rescaled_twice(model: Model) -> str | None:
    """A network that begins with a layer that rescales, fed with rescaled pixels."""
    own, used = model.architecture.own, model.chain.contract
    if own is None or used.scale == 1.0:
        return None
    nodes = [node for block in json.loads(own["graph"])["blocks"] for node in block["nodes"]]
    quiet = ("identity", "resize", "zero_pad", "crop", "center_crop")
    first = next((n for n in nodes if n["kind"] not in quiet), None)
    if first is None or first["kind"] != "rescale":
        return None
    return (
        f"images are scaled by {used.scale:.4g}, and the network itself begins with "
        f"{first['name']!r}, which rescales them again; set preprocessing='raw'"
    )


def _name(contract: Contract) -> str:
    """'tf' (RGB, x * 0.00784 - (1, 1, 1))."""
    text = contract.sentence().split(";")[0]
    names = [n for n, c in _usual(contract.order).items() if c.same_pixels(contract)]
    return f"{names[0]!r} ({text})" if names else f"({text})"


def _sentence(model: Model, better: Contract, name: str, measure: _Distance) -> str:
    used = model.chain.contract
    if measure.remembered:
        why = (
            "the statistics that its weights hold of their training images fit "
            f"{_name(better)} much better (distance {measure(better):.2g} against "
            f"{measure(used):.2g})"
        )
    else:
        (mean, var), (wanted, wanted_var) = measure.moments(used), _expected(better)
        why = (
            f"its published weights were trained with {_name(better)}: they expect a mean near "
            f"{wanted.mean():.2g} and a standard deviation near {wanted_var.mean() ** 0.5:.2g}, "
            f"and get {mean.mean():.2g} and {var.mean() ** 0.5:.2g}"
        )
    if name == "auto":
        fix = "leave preprocessing at 'auto'"
        fix += "" if measure.remembered else ", unless yours were trained otherwise"
    elif model.architecture.own is not None:
        fix = f"set preprocessing={name!r}"
    else:
        fix = (
            "the images may have been rescaled before they were saved, or the weights be no "
            f"official ones; then set preprocessing={name!r}"
        )
    return f"{model.spec.name} gets its images as {_name(used)}, but {why}: {fix}"
