"""Zoo entries with torchvision's or timm's weights and layer arithmetic. Import-light: no jax.

`Spec.parameters` counts BatchNorm's stored mean and variance, as Keras prints it and as for every
other entry; ``sum(p.numel() for p in model.parameters())`` leaves those two out.
"""

import dataclasses

from tlflax.backbones.spec import Contract, Source, Spec

_TORCH = "https://download.pytorch.org/models"
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _contract(method: str, crop_fraction: float, half: bool = False) -> Contract:
    """Pixels as torchvision and timm prepare them; PIL's resize of the shorter side, centre crop.

    Args:
      method: interpolation.
      crop_fraction: side of the crop over the resized shorter side.
      half: whether pixels become -1..1 instead of the usual mean and standard deviation.
    """
    mean, std = ((0.5,) * 3, (0.5,) * 3) if half else (_MEAN, _STD)
    return Contract("RGB", 1 / 255, mean, std, method, fit="crop", crop_fraction=crop_fraction)


# The transforms of torchvision's IMAGENET1K_V1 weights: resize to 256, crop 224.
_TORCHVISION = _contract("bilinear", 224 / 256)
_BSD = "BSD-3-Clause (torchvision)"
_APACHE = "Apache-2.0 (timm)"


def _pth(file: str) -> Source:
    """A file of torch.hub, which has the beginning of its SHA-256 in its name."""
    return Source(f"{_TORCH}/{file}", f"sha256-prefix:{file.rpartition('-')[2][:8]}")


def _timm(model: str) -> Source:
    return Source(f"hf:timm/{model}/model.safetensors", file=f"{model}.safetensors")


def _dotted(prefix: str, units: tuple[int, ...], first: int = 0, ours: str = "") -> dict[str, str]:
    """``layer4.1`` -> ``layer4_1`` and ``layer4`` -> its last unit, for every stage."""
    aliases = {}
    for stage, count in enumerate(units, start=first):
        # timm writes blocks.6.0, torchvision layer4.1.
        for unit in range(count):
            aliases[f"{prefix.format(stage)}.{unit}"] = f"{ours.format(stage)}_{unit}"
        aliases[prefix.format(stage).removesuffix(".blocks")] = f"{ours.format(stage)}_{count - 1}"
    return aliases


def _resnet(name: str, file: str, units: tuple[int, ...], top1: float, parameters: int) -> Spec:
    options = {"units": units, "contract": _TORCHVISION}
    return Spec(
        name=name,
        build="tlflax.backbones.resnet_torch:resnet",
        options=options | ({"bottleneck": True} if name == "torch_resnet50" else {}),
        contract=_TORCHVISION,
        size=224,
        min_size=32,
        form="torch",
        source=_pth(file),
        top_layers=("fc",),
        licence=_BSD,
        top1=top1,  # torchvision's table of weights, IMAGENET1K_V1
        parameters=parameters,
        aliases=_dotted("layer{}", units, 1, "layer{}"),
    )


# The transform of akamaster's trainer.py; images are 32x32 already.
_CIFAR = Contract("RGB", 1 / 255, _MEAN, _STD)


def _cifar(depth: int, digits: str, top1: float, parameters: int) -> Spec:
    units = (depth - 2) // 6
    file = f"resnet{depth}-{digits}.th"
    return Spec(
        name=f"cifar_resnet{depth}",
        build="tlflax.backbones.cifar_resnet:cifar_resnet",
        options={"units": units, "contract": _CIFAR},
        contract=_CIFAR,
        size=32,
        min_size=8,
        form="torch",
        default_endpoint=f"layer3_{units - 1}",
        source=Source(
            "https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/"
            f"{file}",
            f"sha256-prefix:{digits}",
        ),
        licence="BSD-2-Clause (Yerlan Idelbayev)",
        top1=top1,  # CIFAR-10, 100 - error as the repository's README states it
        parameters=parameters,
        aliases=_dotted("layer{}", (units,) * 3, 1, "layer{}") | {"logits": "linear"},
    )


_MOBILENET_UNITS = (1, 2, 3, 4, 3, 3, 1)


def _mobilenet_v2() -> Spec:
    ours = [f"blocks_{s}_{u}" for s, count in enumerate(_MOBILENET_UNITS) for u in range(count)]
    numbered = ["bn1", *ours, "bn2"]
    return Spec(
        name="torch_mobilenet_v2_1.0",
        build="tlflax.backbones.mobilenet_v2_torch:mobilenet_v2",
        options={"contract": _TORCHVISION},
        contract=_TORCHVISION,
        size=224,
        min_size=32,
        form="torch",
        source=_pth("mobilenet_v2-b0353104.pth"),
        top_layers=("classifier",),
        licence=_BSD,
        top1=71.878,
        parameters=2_257_984,
        aliases=_dotted("blocks.{}", _MOBILENET_UNITS, 0, "blocks_{}")
        | {f"features.{i}": block for i, block in enumerate(numbered)},
    )


_EFFICIENTNET_UNITS = (1, 2, 2, 3, 3, 4, 1)
_EFFICIENTNET = _contract("bicubic", 0.875)


def _efficientnet() -> Spec:
    torchvision = _dotted("features.{}", _EFFICIENTNET_UNITS, 1, "blocks_{}")
    # torchvision counts the first convolution as stage 0.
    torchvision = {k: f"blocks_{int(b.split('_')[1]) - 1}_{b[-1]}" for k, b in torchvision.items()}
    return Spec(
        name="torch_efficientnet_b0",
        build="tlflax.backbones.efficientnet_torch:efficientnet_b0",
        options={"contract": _EFFICIENTNET},
        contract=_EFFICIENTNET,
        size=224,
        min_size=32,
        form="torch",
        source=_timm("efficientnet_b0.ra_in1k"),
        top_layers=("classifier",),
        licence=_APACHE,
        top1=77.692,  # torchvision, for its copy of the same weights (efficientnet_b0_rwightman)
        parameters=4_049_564,
        aliases=_dotted("blocks.{}", _EFFICIENTNET_UNITS, 0, "blocks_{}")
        | torchvision
        | {"features.0": "bn1", "features.8": "bn2"},
    )


_CONVNEXT_UNITS = (3, 3, 9, 3)
_CONVNEXT = _contract("bicubic", 0.875)


def _convnext() -> Spec:
    aliases = _dotted("stages.{}.blocks", _CONVNEXT_UNITS, 0, "stages_{}")
    aliases |= {f"stages.{stage}.downsample": f"stages_{stage}_downsample" for stage in (1, 2, 3)}
    for stage, count in enumerate(_CONVNEXT_UNITS):
        place = f"features.{2 * stage + 1}"
        aliases |= {f"{place}.{u}": f"stages_{stage}_{u}" for u in range(count)}
        aliases |= {place: f"stages_{stage}_{count - 1}"}
        before = f"stages_{stage}_downsample" if stage else "stem"
        aliases[f"features.{2 * stage}"] = before
    return Spec(
        name="convnext_tiny",
        build="tlflax.backbones.convnext:convnext",
        options={
            "depths": _CONVNEXT_UNITS,
            "widths": (96, 192, 384, 768),
            "contract": _CONVNEXT,
        },
        contract=_CONVNEXT,
        size=224,
        min_size=32,
        form="torch",
        source=_timm("convnext_tiny.fb_in1k"),
        # Not torchvision's classifier.0, which is the last norm.
        top_layers=("head.fc", "classifier.2"),
        licence=_APACHE,
        top1=82.1,  # the paper's Table 1, at 224 (timm's results-imagenet.csv: 82.698 at 288)
        parameters=27_820_128,
        aliases=aliases | {"head.norm": "head_norm", "classifier.0": "head_norm"},
    )


def _vit(name: str, width: int, heads: int, top1: float, parameters: int) -> Spec:
    contract = _contract("bicubic", 0.9, half=True)
    size = {"vit_s16": "small", "vit_b16": "base"}[name]
    return Spec(
        name=name,
        build="tlflax.backbones.vit:vit",
        options={"width": width, "heads": heads, "contract": contract},
        contract=contract,
        size=224,
        min_size=32,
        form="torch",
        source=_timm(f"vit_{size}_patch16_224.augreg_in21k_ft_in1k"),
        top_layers=("head",),
        licence="Apache-2.0 (Google Research)",
        top1=top1,  # timm's results-imagenet.csv
        parameters=parameters,
        aliases={f"blocks.{i}": f"blocks_{i}" for i in range(12)},
    )


_VIT_B16 = _vit("vit_b16", 768, 12, 84.532, 85_798_656)
# The same network with torchvision's weights, whose pixels are scaled differently.
_TORCH_VIT_B16 = dataclasses.replace(
    _VIT_B16,
    name="torch_vit_b16",
    options=_VIT_B16.options | {"contract": _TORCHVISION},
    contract=_TORCHVISION,
    source=_pth("vit_b_16-c867db91.pth"),
    top_layers=("heads",),
    licence=_BSD,
    top1=81.072,
    aliases={f"encoder.layers.encoder_layer_{i}": f"blocks_{i}" for i in range(12)}
    | {"encoder.ln": "norm"},
)

SPECS: tuple[Spec, ...] = (
    _resnet("resnet18", "resnet18-f37072fd.pth", (2, 2, 2, 2), 69.758, 11_186_112),
    _resnet("resnet34", "resnet34-b627a593.pth", (3, 4, 6, 3), 73.314, 21_301_696),
    _resnet("torch_resnet50", "resnet50-0676ba61.pth", (3, 4, 6, 3), 76.13, 23_561_152),
    _cifar(20, "12fca82f", 91.73, 271_098),
    _cifar(32, "d509ac18", 92.63, 466_426),
    _cifar(44, "014dd654", 93.10, 661_754),
    _cifar(56, "4bfd9763", 93.39, 857_082),
    _mobilenet_v2(),
    _efficientnet(),
    _convnext(),
    _vit("vit_s16", 384, 6, 81.384, 21_665_664),
    _VIT_B16,
    _TORCH_VIT_B16,
)

SYNONYMS: dict[str, str] = {
    "torch_mobilenet_v2": "torch_mobilenet_v2_1.0",
}

# Same name, other weights or layers elsewhere: never taken silently, only suggested.
SUGGESTED: dict[str, str] = {
    "ResNet18": "resnet18",
    "ResNet34": "resnet34",
    "resnet18.a1_in1k": "resnet18",
    **{f"resnet{depth}": f"cifar_resnet{depth}" for depth in (20, 32, 44, 56)},
    "efficientnet_b0.ra_in1k": "torch_efficientnet_b0",
    "mobilenetv2_100.ra_in1k": "torch_mobilenet_v2_1.0",
    "convnext_t": "convnext_tiny",
    "ConvNeXtTiny": "convnext_tiny",
    "convnext_tiny.fb_in1k": "convnext_tiny",
    "vit_small_patch16_224": "vit_s16",
    "vit_base_patch16_224": "vit_b16",
    "vit_b_16": "torch_vit_b16",
    "ViT-B/16": "vit_b16",
    "ViT-S/16": "vit_s16",
}
