"""How images must be prepared for a user's own Keras network, which no file says.

What is known is only what is part of the network itself (Rescaling, Normalization) and which
keras.applications network it is built on.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from tlflax.backbones.spec import Contract
from tlflax.errors import ConfigError, listing, suggest

CONTRACTS = {
    "raw": Contract(),
    "unit": Contract(scale=1 / 255),
    "unit_bgr": Contract(order="BGR", scale=1 / 255),
    # keras.applications.imagenet_utils.preprocess_input, its three modes.
    "tf": Contract(scale=1 / 127.5, mean=(1.0, 1.0, 1.0)),
    "torch": Contract(scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "caffe": Contract(order="BGR", mean=(103.939, 116.779, 123.68)),
}

# A layer that only this family of keras.applications has -> how its weights want their input.
_FAMILIES = (
    ("MobileNetV2", r"block_\d+_project_BN", "tf"),
    ("MobileNet", r"conv_dw_\d+", "tf"),
    ("InceptionV3", r"mixed10", "tf"),
    ("InceptionResNetV2", r"mixed_7a|block8_10_mixed", "tf"),
    ("Xception", r"block\d+_sepconv\d+_bn", "tf"),
    ("NASNet", r"normal_conv_1_\d+", "tf"),
    ("ResNetV2", r"conv\d_block\d+_preact_bn", "tf"),
    ("ResNet", r"conv\d_block\d+_3_bn|bn5c_branch2c", "caffe"),
    ("VGG", r"block5_conv3", "caffe"),
    ("DenseNet", r"conv\d_block\d+_concat", "torch"),
)
_QUIET = ("identity", "resize", "zero_pad", "crop", "center_crop")


def own_contract(graph: Mapping[str, Any], preprocessing: str) -> tuple[Contract, str]:
    """The input contract, and a line on why.

    Args:
      graph: see `tlflax.convert.keras_graph`.
      preprocessing: a name of `CONTRACTS`, or ``auto``.

    Raises:
      ConfigError: no such name, or one for colours where the network takes grey images.
    """
    name, why = (preprocessing, "") if preprocessing != "auto" else _guess(graph)
    return _named(name, graph["input"][2] == 1), why


def other_contract(given: Contract, preprocessing: str) -> Contract:
    """The contract of a zoo network whose pixels are to be prepared in another way.

    Args:
      given: the right one; its resize rule stays.
      preprocessing: a name of `CONTRACTS`.

    Raises:
      ConfigError: no such name, or one for colours where the network takes grey images.
    """
    found = _named(preprocessing, given.order == "L")
    return dataclasses.replace(
        given, order=found.order, scale=found.scale, mean=found.mean, std=found.std
    )


def _named(name: str, grey: bool) -> Contract:
    if name not in CONTRACTS:
        raise ConfigError(
            f"unknown preprocessing {name!r}{suggest(name, CONTRACTS)} "
            f"(all: auto, {listing(CONTRACTS)})"
        )
    contract = CONTRACTS[name]
    if grey:
        if name not in ("raw", "unit", "tf"):
            raise ConfigError(
                f"preprocessing {name!r} is for colour images and the network takes grey ones; "
                "use raw, unit or tf"
            )
        contract = dataclasses.replace(
            contract, order="L", mean=contract.mean[:1], std=contract.std[:1]
        )
    return contract


def _guess(graph: Mapping[str, Any]) -> tuple[str, str]:
    nodes = [node for block in graph["blocks"] for node in block["nodes"]]
    change = (
        "if it was trained on images prepared otherwise, set preprocessing to one of "
        f"{listing(CONTRACTS)}"
    )
    first = next((n for n in nodes if n["kind"] not in _QUIET), None)
    if first and first["kind"] in ("rescale", "normalize"):
        return "raw", (
            f"preprocessing raw (0..255): the network itself begins with {first['name']!r}"
        )
    for family, pattern, name in _FAMILIES:
        # Nested models that share a layer name get their own in front.
        if any(re.fullmatch(rf"(?:.*_)?(?:{pattern})", n["name"]) for n in nodes):
            return name, (
                f"preprocessing {name!r} is assumed, that of keras.applications' {family}, whose "
                f"layers the network has; {change}"
            )
    return "unit", (
        "preprocessing 'unit' (x / 255) is assumed: the file does not say how images were "
        f"prepared; {change}"
    )
