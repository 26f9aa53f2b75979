"""torch with torchvision and timm, as their documentation has it.

channels_last (pytorch.org/tutorials/intermediate/memory_format_tutorial.html), `inference_mode`
for the forward pass, ``requires_grad_(False)`` for the frozen part. BatchNorm keeps its stored
statistics (`eval`) while it is fine-tuned, as for the other peers. On a GPU: `torch.compile`.
"""

import dataclasses
import gc
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from bench import drawn
from bench.plan import MOMENTUM, NETWORKS, RATE, Network
from bench.torch_models import (
    DEVICE,
    Classifier,
    Preprocess,
    backbone,
    body,
    channels,
    freeze,
    timm,
    to_input,
    torchvision,
)


class Peer:
    """What the worker asks of every peer."""

    def describe(self) -> dict[str, Any]:
        """Versions, device and threads."""
        found = {m.__name__: m.__version__ for m in (torch, torchvision, timm)}
        device = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu"
        return {
            "versions": found, "device": device, "platform": DEVICE.type,
            "threads": torch.get_num_threads(),
        }  # fmt: skip

    def product(self, a: np.ndarray, b: np.ndarray) -> Callable[[], Any]:
        """``a @ b``."""
        pair = torch.from_numpy(a).to(DEVICE), torch.from_numpy(b).to(DEVICE)

        def run() -> None:
            torch.matmul(*pair)
            if DEVICE.type == "cuda":
                torch.cuda.synchronize()

        return run

    def forward(
        self, network: Network, pixels: np.ndarray, weights: str = "", form: str = ""
    ) -> Callable[[], np.ndarray]:
        """Images to features ``[B, H, W, C]``; ``form``: with the pixels of torch's own weights."""
        network = _own_pixels(network, form)
        model = nn.Sequential(Preprocess(network.contract).to(DEVICE), backbone(network, weights))
        model.eval()

        def run() -> np.ndarray:
            with torch.inference_mode():
                return model(to_input(pixels)).permute(0, 2, 3, 1).cpu().numpy()

        return run

    def step(
        self,
        network: Network,
        pixels: np.ndarray,
        train: str = "all",
        weights: str = "",
        form: str = "",
        precision: str = "float32",
        rate: float = RATE,
    ) -> Callable[[], float]:
        """One training step of everything, or of the last block with the frozen part before it."""
        network = _own_pixels(network, form)
        base = backbone(network, weights)
        features = channels(network, base, pixels.shape[1])
        model = Classifier(network, base, features).to(DEVICE).eval()
        with torch.no_grad():
            model.head.weight.copy_(torch.from_numpy(drawn.head(features).T))
            model.head.bias.zero_()
        if train != "all":
            freeze(model, network)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trained, rate, momentum=MOMENTUM)
        labels = torch.from_numpy(drawn.labels(len(pixels))).long().to(DEVICE)
        call = torch.compile(model) if DEVICE.type == "cuda" else model
        low = precision != "float32"

        def run() -> float:
            optimizer.zero_grad()
            with torch.autocast(DEVICE.type, torch.bfloat16, enabled=low):
                loss = functional.cross_entropy(call(to_input(pixels)), labels)
            loss.backward()
            optimizer.step()
            return loss.item()

        return run

    def decode(self, folder: str, size: int, batch: int) -> Callable[[], Any]:
        """All of ``folder/train`` to batches; returns the last batch."""
        loader = directory(f"{folder}/train", size, batch, shuffle=False)

        def run() -> np.ndarray:
            last = torch.zeros(0)
            for rows, _ in loader:
                last = rows
            return last.permute(0, 2, 3, 1).numpy()

        return run

    def save(self, network: str, folder: str) -> dict[str, Any]:
        """Draws the weights of torch's form and writes them with its names."""
        from safetensors.torch import save_file

        model, rng = body(NETWORKS[network]), np.random.default_rng(2)
        state = {}
        for name, value in model.state_dict().items():
            shape = tuple(value.shape)
            if not shape:
                state[name] = value  # num_batches_tracked
                continue
            norm = len(shape) == 1 and name.endswith("weight")
            kind = "gamma" if norm else "kernel" if len(shape) > 1 else ""
            kind = "variance" if name.endswith("running_var") else kind
            array = drawn.weight(kind, shape, int(np.prod(shape[1:])), rng)
            state[name] = torch.from_numpy(array)
        save_file(state, f"{folder}/{network}.safetensors")
        return {"torch": f"{folder}/{network}.safetensors"}

    def border(self) -> dict[str, Any]:
        """Lets InceptionV3's average pooling leave padding out, as Keras' does.

        The one place where timm's network computes something else than Keras' (it divides by 9
        at the border too); for comparing outputs only.
        """
        # Not `from timm.models import`: there the name is the function that builds the network.
        module: Any = importlib.import_module("timm.models.inception_v3")

        class Functional:
            """torch.nn.functional with another default."""

            def __getattr__(self, name: str) -> Any:
                return getattr(functional, name)

            def avg_pool2d(self, x: torch.Tensor, **options: Any) -> torch.Tensor:
                """As the original."""
                return functional.avg_pool2d(x, **options, count_include_pad=False)

        module.F = Functional()
        return {}

    def clear(self) -> None:
        """Frees the models."""
        gc.collect()
        if DEVICE.type == "cuda":
            torch.cuda.empty_cache()


def _own_pixels(network: Network, form: str) -> Network:
    return dataclasses.replace(network, contract=network.torch_contract) if form else network


def directory(folder: str, size: int, batch: int, shuffle: bool) -> Any:
    """Batches of a folder's images: ImageFolder and DataLoader with two processes."""
    from torchvision.transforms import v2

    change = v2.Compose([v2.Resize((size, size), antialias=True), v2.PILToTensor()])
    data = torchvision.datasets.ImageFolder(folder, change)
    return torch.utils.data.DataLoader(data, batch, shuffle=shuffle, num_workers=2)
