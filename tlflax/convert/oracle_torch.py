"""The live torch networks, for `--verify` and for scripts/make_torch_goldens.py."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlflax.backbones.chain import preprocess
from tlflax.convert.torch_names import source_names, styles
from tlflax.errors import ConvertError

if TYPE_CHECKING:
    from tlflax.backbones.spec import Spec

NAME = "torch"
# oneDNN sums in other blocks than XLA does, which differs by some ulp per layer; the 50 layers of
# the deepest networks add up to a few times 1e-6.
TOLERANCE = 1e-5
# Zoo name -> style -> model of that library.
MODELS = {
    "resnet18": {"torchvision": "resnet18", "timm": "resnet18"},
    "resnet34": {"torchvision": "resnet34", "timm": "resnet34"},
    "torch_resnet50": {"torchvision": "resnet50", "timm": "resnet50"},
    "torch_mobilenet_v2_1.0": {"torchvision": "mobilenet_v2", "timm": "mobilenetv2_100"},
    "torch_efficientnet_b0": {"torchvision": "efficientnet_b0", "timm": "efficientnet_b0"},
    "convnext_tiny": {"torchvision": "convnext_tiny", "timm": "convnext_tiny"},
    "vit_s16": {"timm": "vit_small_patch16_224"},
    "vit_b16": {"timm": "vit_base_patch16_224"},
    "torch_vit_b16": {"torchvision": "vit_b_16"},
}
# Modules whose output is one of our blocks, and which neither hold parameters nor are aliases.
_PLACES = {"norm_pre": "pos_embed", "encoder.dropout": "pos_embed"}
# Modules that keep channels last even in convolutional networks.
_CHANNELS_LAST = ("Linear", "LayerNorm")


def outputs(
    spec: "Spec", path: Path, images: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Layers' outputs for RGB uint8 ``images [N, H, W, 3]`` with the weights of ``path``.

    The file is read by torch itself (``weights_only``), or by safetensors.

    Raises:
      ConvertError: torch or the library is missing, or the file does not fit its model.
    """
    try:
        import torch
    except ImportError as error:
        raise ConvertError("--verify needs torch: pip install torch torchvision timm") from error
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state: dict[str, Any] = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
    state = {name.removeprefix("module."): value for name, value in state.items()}
    for style in styles(spec):
        model = build(spec, style, images.shape[1])
        missing, unexpected = model.load_state_dict(resampled(model, state), strict=False)
        # Counters and the classifier may be absent; the classifier of another task is no matter.
        bad = [n for n in (*missing, *unexpected) if not _beside(n, spec)]
        if not bad:
            break
    else:
        raise ConvertError(
            f"torch cannot load {path.name} into its {spec.name}, so there is nothing to verify "
            f"against: {bad[0]} is missing or unexpected"
        )
    versions = {"torch": torch.__version__}
    return torch_outputs(model, spec, style, images), versions


def _beside(name: str, spec: "Spec") -> bool:
    tops = tuple(f"{top}." for top in spec.top_layers)
    return name.endswith("num_batches_tracked") or name.startswith(tops)


def build(spec: "Spec", style: str, side: int, classes: int = 0) -> Any:
    """The library's model with random weights, in evaluation mode.

    Args:
      spec: the network.
      style: the library.
      side: of its images, in pixels.
      classes: of its classifier; 0 leaves it as published.

    Raises:
      ConvertError: the library is missing.
    """
    style = style.partition("-")[0]
    if style == "akamaster":
        return _cifar_resnet(spec.options["units"], classes or 10).eval()
    name, number = MODELS[spec.name][style], {"num_classes": classes} if classes else {}
    try:
        if style == "timm":
            import timm

            options = {"dynamic_img_size": True} if "vit" in name else {}
            model = timm.create_model(name, **options, **number)
        else:
            import torchvision

            options = {"image_size": side} if "vit" in name else {}
            model = getattr(torchvision.models, name)(weights=None, **options, **number)
    except ImportError as error:
        raise ConvertError(f"--verify of {spec.name} needs {style}: pip install {style}") from error
    return model.eval()


def probabilities(
    spec: "Spec", style: str, path: Path, images: np.ndarray, classes: int
) -> tuple[np.ndarray, dict[str, str]]:
    """What the library's own classifier answers with the weights of a `.safetensors` file.

    Args:
      spec: the network.
      style: the library.
      path: state dict with all its parameters, the classifier's too.
      images: RGB uint8 ``[N, H, W, 3]``.
      classes: number of classes.

    Returns:
      Probabilities ``[N, classes]``, and versions.

    Raises:
      ConvertError: the library is missing, or the file does not fit its model.
    """
    try:
        import torch
        from safetensors.torch import load_file
    except ImportError as error:
        raise ConvertError(f"running {spec.name} in torch needs torch: {error}") from error
    model = build(spec, style, images.shape[1], classes)
    try:
        model.load_state_dict(resampled(model, load_file(path)))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ConvertError(f"{style} cannot load {path.name}: {reason}") from error
    prepared = _prepared(images, spec)
    with torch.inference_mode():
        logits = model(torch.from_numpy(prepared))
        return logits.softmax(-1).numpy(), {"torch": torch.__version__}


def _prepared(images: np.ndarray, spec: "Spec") -> np.ndarray:
    """Pixels as the contract says, channels first."""
    pixels: Any = np.asarray(images)
    return np.ascontiguousarray(np.asarray(preprocess(pixels, spec.contract)).transpose(0, 3, 1, 2))


def resampled(model: Any, state: dict[str, Any]) -> dict[str, Any]:
    """Torchvision's transformer is built for one size; its positions are resampled by timm."""
    name = "encoder.pos_embedding"
    if name not in state or state[name].shape == dict(model.named_parameters())[name].shape:
        return state
    from timm.layers.pos_embed import resample_abs_pos_embed

    side = round((dict(model.named_parameters())[name].shape[1] - 1) ** 0.5)
    return state | {name: resample_abs_pos_embed(state[name], [side, side])}


def torch_outputs(
    model: Any, spec: "Spec", style: str, images: np.ndarray
) -> dict[str, np.ndarray]:
    """Outputs by our layer names, channels last, in the order in which torch computes them.

    Every module that is a layer or a block of ours is watched.
    """
    import torch

    names, found = _layers(model, spec, style), {}

    def watch(layer: str, last: bool):
        def hook(module, inputs, output):
            # Copied at once: the ReLU behind it may work in place.
            array = output.detach().clone().numpy()
            if layer in ("head_norm", "avg_pool"):
                array = array.reshape(array.shape[0], -1)
            elif array.ndim == 4 and not last:
                array = array.transpose(0, 2, 3, 1)
            found[layer] = np.ascontiguousarray(array)

        return hook

    for path, module in model.named_modules():
        if path in names:
            last = type(module).__name__ in _CHANNELS_LAST
            module.register_forward_hook(watch(names[path], last))
    prepared = _prepared(images, spec)
    with torch.inference_mode():
        model(torch.from_numpy(prepared))
    if "cls_token" in tuple(spec.chain()):
        found["cls_token"] = found["norm"][:, 0]
    return found


def _layers(model: Any, spec: "Spec", style: str) -> dict[str, str]:
    """Module paths -> our layers: those with parameters, then blocks."""
    from tlflax import tree
    from tlflax.backbones.inventory import abstract_variables

    target = abstract_variables(spec.chain(), max(spec.min_size, 64))
    paths = [f"params/{p}" for p in tree.flatten(target["params"])]
    modules = dict(model.named_modules())
    names = {}
    for path, source in source_names(spec, style, paths).items():
        module, layer = source.rpartition(".")[0], path.split("/")[-2]
        parent = module.rpartition(".")[0]
        if parent and type(modules.get(parent)).__name__.endswith("NormActivation"):
            # torchvision's convolution, norm and activation in one: our norm's name means the
            # end of it.
            module = parent if module.endswith(".1") else module
        # Some parameters stand in a larger module, whose output is not theirs.
        bare = path.endswith("/embedding") or layer.endswith("_gamma") or ".in_proj_" in source
        if not bare:
            names[module] = layer
    blocks = {b: b for b in spec.chain()}
    places = blocks | spec.aliases | {p: b for p, b in _PLACES.items() if b in blocks}
    return names | {path: block for path, block in places.items() if path in modules}


def _cifar_resnet(units: int, classes: int) -> Any:
    """The CIFAR ResNet of 6 * units + 2 layers, with shortcuts without parameters."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Unit(nn.Module):
        def __init__(self, before: int, features: int, stride: int):
            super().__init__()
            self.conv1 = nn.Conv2d(before, features, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(features)
            self.conv2 = nn.Conv2d(features, features, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(features)
            self.stride, self.new = stride, (features - before) // 2

        def forward(self, x):
            y = torch.relu(self.bn1(self.conv1(x)))
            y = self.bn2(self.conv2(y))
            short = x[:, :, :: self.stride, :: self.stride]
            return torch.relu(y + functional.pad(short, (0, 0, 0, 0, self.new, self.new)))

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(16)
            self.relu = nn.ReLU()
            for stage, (before, features) in enumerate([(16, 16), (16, 32), (32, 64)], start=1):
                first = Unit(before, features, 1 if stage == 1 else 2)
                others = [Unit(features, features, 1) for _ in range(units - 1)]
                setattr(self, f"layer{stage}", nn.Sequential(first, *others))
            self.avg_pool = nn.AdaptiveAvgPool2d(1)
            self.linear = nn.Linear(64, classes)

        def forward(self, x):
            x = self.relu(self.bn1(self.conv1(x)))
            x = self.layer3(self.layer2(self.layer1(x)))
            return self.linear(self.avg_pool(x).flatten(1))

    return Network()
