"""How torchvision and timm call the parameters of each network: one table for both directions.

Per style a function from one of our layers to the module's path there. Parameters are that path
and ``weight``, ``bias``, ``running_mean`` or ``running_var``; the few that are no module's own
have their whole names in `_WHOLE`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tlflax.backbones.spec import Spec

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
Rules = Mapping[str, str | Callable[..., str]]


def _module(layer: str, rules: Rules) -> str:
    """The first rule that matches all of the layer's name gives the path."""
    for pattern, path in rules.items():
        if found := re.fullmatch(pattern, layer):
            return found.expand(path) if isinstance(path, str) else path(*found.groups())
    raise KeyError(layer)


# torchvision and timm agree on the ResNets; akamaster's CIFAR ones are called the same way.
_RESNET: Rules = {
    r"layer(\d)_(\d+)_downsample_(\d)": r"layer\1.\2.downsample.\3",
    r"layer(\d)_(\d+)_(\w+)": r"layer\1.\2.\3",
    r"conv1|bn1|linear": r"\g<0>",
}

_TIMM_EFFICIENTNET: Rules = {
    r"blocks_(\d)_(\d)_se_(\w+)": r"blocks.\1.\2.se.\3",
    r"blocks_(\d)_(\d)_(\w+)": r"blocks.\1.\2.\3",
    r"conv_stem|conv_head|bn1|bn2": r"\g<0>",
}
# Place of a layer in torchvision's Sequential, by timm's name of it: that of the convolution (or
# gate), then 0 for the convolution itself and 1 for its norm. The first stage does not expand,
# which moves everything forward by one.
_EXPANDED = {"conv_pw": "0.0", "bn1": "0.1", "conv_dw": "1.0", "bn2": "1.1"}
_PLAIN = {"conv_dw": "0.0", "bn1": "0.1"}
_EFFICIENTNET_UNIT = (
    _PLAIN | {"conv_pw": "2.0", "bn2": "2.1"},
    _EXPANDED | {"conv_pwl": "3.0", "bn3": "3.1"},
)
# MobileNetV2 has no gate, and its last convolution and norm bare.
_MOBILENET_UNIT = (
    _PLAIN | {"conv_pw": "1", "bn2": "2"},
    _EXPANDED | {"conv_pwl": "2", "bn3": "3"},
)
_MOBILENET_UNITS = (1, 2, 3, 4, 3, 3, 1)
_GATE = {"conv_reduce": "fc1", "conv_expand": "fc2"}


def _efficientnet_unit(stage: str, unit: str, layer: str) -> str:
    place = _EFFICIENTNET_UNIT[stage != "0"][layer]
    return f"features.{int(stage) + 1}.{unit}.block.{place}"


def _efficientnet_gate(stage: str, unit: str, layer: str) -> str:
    place = 1 if stage == "0" else 2
    return f"features.{int(stage) + 1}.{unit}.block.{place}.{_GATE[layer]}"


def _mobilenet_unit(stage: str, unit: str, layer: str) -> str:
    number = 1 + sum(_MOBILENET_UNITS[: int(stage)]) + int(unit)
    return f"features.{number}.conv.{_MOBILENET_UNIT[stage != '0'][layer]}"


def _torchvision_ends(last: int) -> Rules:
    """The first and the last block, ``features.0`` and ``features.LAST``."""
    return {
        "conv_stem": "features.0.0",
        "bn1": "features.0.1",
        "conv_head": f"features.{last}.0",
        "bn2": f"features.{last}.1",
    }


_TORCHVISION_EFFICIENTNET: Rules = {
    r"blocks_(\d)_(\d)_se_(\w+)": _efficientnet_gate,
    r"blocks_(\d)_(\d)_(\w+)": _efficientnet_unit,
    **_torchvision_ends(8),
}
_TORCHVISION_MOBILENET: Rules = {
    r"blocks_(\d)_(\d)_(\w+)": _mobilenet_unit,
    **_torchvision_ends(18),
}

_TIMM_CONVNEXT: Rules = {
    r"stem_(\d)": r"stem.\1",
    r"stages_(\d)_downsample_(\d)": r"stages.\1.downsample.\2",
    r"stages_(\d)_(\d)_mlp_(fc\d)": r"stages.\1.blocks.\2.mlp.\3",
    r"stages_(\d)_(\d)_(\w+)": r"stages.\1.blocks.\2.\3",
    "head_norm": "head.norm",
}
_CONVNEXT_UNIT = {"conv_dw": "0", "norm": "2", "mlp_fc1": "3", "mlp_fc2": "5"}
_TORCHVISION_CONVNEXT: Rules = {
    r"stem_(\d)": r"features.0.\1",
    # Stages and the steps between them take turns: 1, 3, 5, 7 and 2, 4, 6.
    r"stages_(\d)_downsample_(\d)": lambda stage, i: f"features.{2 * int(stage)}.{i}",
    r"stages_(\d)_(\d)_gamma": lambda stage, unit: f"features.{2 * int(stage) + 1}.{unit}",
    r"stages_(\d)_(\d)_(\w+)": lambda stage, unit, layer: (
        f"features.{2 * int(stage) + 1}.{unit}.block.{_CONVNEXT_UNIT[layer]}"
    ),
    "head_norm": "classifier.0",
}

_TIMM_VIT: Rules = {
    "patch_embed_proj": "patch_embed.proj",
    r"blocks_(\d+)_(attn|mlp)_(\w+)": r"blocks.\1.\2.\3",
    r"blocks_(\d+)_(\w+)": r"blocks.\1.\2",
    "norm|cls_token|pos_embed": r"\g<0>",
}
_LAYER = r"encoder.layers.encoder_layer_\1"
_TORCHVISION_VIT: Rules = {
    "patch_embed_proj": "conv_proj",
    "cls_token": "class_token",
    "pos_embed": "encoder.pos_embedding",
    "norm": "encoder.ln",
    r"blocks_(\d+)_norm(\d)": rf"{_LAYER}.ln_\2",
    r"blocks_(\d+)_attn_qkv": rf"{_LAYER}.self_attention.in_proj",
    r"blocks_(\d+)_attn_proj": rf"{_LAYER}.self_attention.out_proj",
    r"blocks_(\d+)_mlp_fc1": rf"{_LAYER}.mlp.0",
    r"blocks_(\d+)_mlp_fc2": rf"{_LAYER}.mlp.3",
}
# The published file was written by torchvision 0.12, which called these two so.
_TORCHVISION_VIT_2022: Rules = {
    r"blocks_(\d+)_mlp_fc(\d)": rf"{_LAYER}.mlp.linear_\2",
    **_TORCHVISION_VIT,
}

# Beginning of the zoo name -> style -> rules. The first style is the official source's.
_NETWORKS: Mapping[str, Mapping[str, Rules]] = {
    "resnet": {"torchvision": _RESNET, "timm": _RESNET},
    "torch_resnet": {"torchvision": _RESNET, "timm": _RESNET},
    "cifar_resnet": {"akamaster": _RESNET},
    "torch_mobilenet_v2": {"torchvision": _TORCHVISION_MOBILENET, "timm": _TIMM_EFFICIENTNET},
    "torch_efficientnet": {"timm": _TIMM_EFFICIENTNET, "torchvision": _TORCHVISION_EFFICIENTNET},
    "convnext": {"timm": _TIMM_CONVNEXT, "torchvision": _TORCHVISION_CONVNEXT},
    # timm's and torchvision's transformers expect their pixels scaled differently: two entries.
    "vit": {"timm": _TIMM_VIT},
    "torch_vit": {"torchvision": _TORCHVISION_VIT, "torchvision-2022": _TORCHVISION_VIT_2022},
}


def styles(spec: "Spec") -> tuple[str, ...]:
    """The styles in which the network's weights come, its official source's first."""
    return tuple(_network(spec))


def _network(spec: "Spec") -> Mapping[str, Rules]:
    # The longest beginning: resnet18 and torch_resnet50 are different keys.
    return next(table for name, table in _NETWORKS.items() if spec.name.startswith(name))


def source_names(spec: "Spec", style: str, paths: Iterable[str]) -> dict[str, str]:
    """Our paths (``params/block/layer/leaf``) -> the names of a style.

    Raises:
      KeyError: the network has no such style, or a path is none of this network's.
    """
    rules, names = _network(spec)[style], {}
    for path in paths:
        layer, leaf = path.split("/")[-2:]
        module = _module(layer, rules)
        if leaf == "embedding" or (layer.endswith("_gamma") and style == "timm"):
            names[path] = module  # a parameter of the network's own, without a module around it
        elif layer.endswith("_gamma"):
            names[path] = f"{module}.layer_scale"
        elif module.endswith(".in_proj"):
            # torch.nn.MultiheadAttention's own parameters.
            names[path] = f"{module}_{_LEAVES[leaf]}"
        else:
            names[path] = f"{module}.{_LEAVES[leaf]}"
    return names
