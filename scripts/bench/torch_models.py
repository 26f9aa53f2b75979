"""torchvision's and timm's networks as bodies of a classifier, with weights put in."""

from typing import Any, cast

import numpy as np
import torch
from torch import nn

from bench.plan import Contract, Network

from bench.vision import torchvision  # isort: skip  (timm imports torchvision)
import timm  # isort: skip

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Preprocess(nn.Module):
    """uint8 ``[B, 3, H, W]`` in 0..255 to inputs of the network.

    Args:
      contract: of the pixels.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, contract: Contract):
        super().__init__()
        self.bgr, self.scale = contract.order == "BGR", contract.scale
        for name in ("mean", "std"):
            values = torch.tensor(getattr(contract, name)).reshape(1, 3, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[B, 3, H, W]`` to the same shape."""
        x = x.float()
        x = x.flip(1) if self.bgr else x
        return (x * self.scale - self.mean) / self.std


class Last(nn.Module):
    """The last map of a network that gives several.

    Args:
      body: gives a list.
    """

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body: Any = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[B, 3, H, W]`` to ``[B, C, H', W']``."""
        return self.body(x)[-1]


class Features(nn.Module):
    """timm's `forward_features`.

    Args:
      body: a timm model.
    """

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body: Any = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[B, 3, H, W]`` to ``[B, C, H', W']``."""
        return self.body.forward_features(x)


class Classifier(nn.Module):
    """Preprocessing, backbone, average over the map, a linear layer.

    Args:
      network: row of the plan.
      backbone: gives maps.
      features: their channels.
      classes: of the answer.
    """

    def __init__(self, network: Network, backbone: nn.Module, features: int, classes: int = 2):
        super().__init__()
        self.preprocess, self.backbone = Preprocess(network.contract), backbone
        self.head = nn.Linear(features, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pixels ``[B, 3, H, W]`` to logits ``[B, classes]``."""
        return self.head(self.backbone(self.preprocess(x)).mean((2, 3)))


def body(network: Network, weights: str = "") -> Any:
    """The library's model: a state dict (.safetensors) or arrays in order (.npz) put in."""
    library, name = network.torch.split(":")
    if library == "torchvision":
        model = getattr(torchvision.models, name)(weights=None)
    elif network.endpoint != "auto":
        # Mixed_6e, which Keras calls mixed7.
        model = timm.create_model(name, features_only=True, out_indices=(3,))
    else:
        model = timm.create_model(name, num_classes=0)
    if weights.endswith(".npz"):
        _fill(model, weights)
    elif weights:
        from safetensors.torch import load_file

        model.load_state_dict(load_file(weights))
    return model


def backbone(network: Network, weights: str = "") -> Any:
    """Pixels, prepared, to the last map."""
    model: Any = body(network, weights)
    if network.torch == "torchvision:vgg16":
        model = model.features
    elif network.torch == "torchvision:resnet50":
        model = nn.Sequential(*list(model.children())[:-2])  # without pooling and classifier
    elif network.endpoint != "auto":
        model = Last(model)
    else:
        model = Features(model)
    return model.to(DEVICE, memory_format=torch.channels_last)


def freeze(model: Classifier, network: Network) -> None:
    """Leaves the last block and the head trainable."""
    model.backbone.requires_grad_(False)
    inner = model.backbone.body if isinstance(model.backbone, Features) else model.backbone
    names = [name for name, _ in inner.named_modules() if name]
    trained = names[names.index(network.last[2]) :]
    for name in trained:
        inner.get_submodule(name).requires_grad_(True)


def channels(network: Network, model: nn.Module, size: int) -> int:
    """Channels of the last map."""
    with torch.inference_mode():
        pixels = torch.zeros(1, 3, size, size, device=DEVICE)
        return model.eval()(pixels.to(memory_format=torch.channels_last)).shape[1]


def to_input(pixels: np.ndarray) -> torch.Tensor:
    """uint8 ``[B, H, W, 3]`` to ``[B, 3, H, W]``; its memory is channels_last already."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).to(DEVICE)


def _fill(model: nn.Module, path: str) -> None:
    """Puts Keras' arrays into torch's modules: both create their layers in the same order."""
    arrays = np.load(path)
    kernels = [arrays[n] for n in arrays if n.endswith("|kernel")]
    biases = [arrays[n] for n in arrays if n.endswith("|bias")]
    shifts = [arrays[n] for n in arrays if n.endswith("|beta")]
    means = [arrays[n] for n in arrays if n.endswith("|moving_mean")]
    variances = [arrays[n] for n in arrays if n.endswith("|moving_variance")]
    with torch.no_grad():
        for module in cast(Any, model.modules()):
            if isinstance(module, nn.Conv2d) and kernels:
                kernel = kernels.pop(0).transpose(3, 2, 0, 1)
                module.weight.copy_(torch.from_numpy(np.ascontiguousarray(kernel)))
                if module.bias is not None:
                    module.bias.copy_(torch.from_numpy(biases.pop(0)))
            elif isinstance(module, nn.BatchNorm2d) and shifts:
                module.weight.fill_(1.0)  # Keras' InceptionV3 has no scale
                module.bias.copy_(torch.from_numpy(shifts.pop(0)))
                module.running_mean.copy_(torch.from_numpy(means.pop(0)))
                module.running_var.copy_(torch.from_numpy(variances.pop(0)))
