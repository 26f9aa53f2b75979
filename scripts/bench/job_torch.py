"""A whole job in torch, as its transfer learning tutorial does it.

python -m bench.job_torch NETWORK FOLDER frozen|last EPOCHS SIZE BATCH

(pytorch.org/tutorials/beginner/transfer_learning_tutorial.html): ImageFolder, a DataLoader with
two processes, ``requires_grad = False`` below; the network runs for every image in every epoch.
Prints what it did as JSON.
"""

import json
import sys

import torch
from torch import nn
from torch.nn import functional

from bench.peer_torch import directory
from bench.plan import BLOCK_RATE, MOMENTUM, NETWORKS, RATE
from bench.torch_models import DEVICE, Classifier, backbone, channels, freeze


def evaluate(model: nn.Module, loader) -> tuple[float, int]:
    """Accuracy and number of images."""
    right = seen = 0
    with torch.inference_mode():
        for pixels, labels in loader:
            pixels = pixels.to(DEVICE, memory_format=torch.channels_last)
            right += (model(pixels).argmax(1).cpu() == labels).sum().item()
            seen += len(labels)
    return right / seen, seen


def main(name: str, folder: str, mode: str, epochs: int, size: int, batch: int) -> None:
    """Trains, validates after every epoch, tests."""
    network = NETWORKS[name]
    train, val, test = (
        directory(f"{folder}/{split}", size, batch, shuffle=split == "train")
        for split in ("train", "val", "test")
    )
    base = backbone(network)
    # eval: BatchNorm keeps its stored statistics, and there is no dropout.
    model = Classifier(network, base, channels(network, base, size)).to(DEVICE).eval()
    if mode == "last":
        freeze(model, network)
    else:
        model.backbone.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    rate = BLOCK_RATE if mode == "last" else RATE
    optimizer = torch.optim.SGD(trained, rate, momentum=MOMENTUM)
    for epoch in range(epochs):
        for pixels, labels in train:
            pixels = pixels.to(DEVICE, memory_format=torch.channels_last)
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(pixels), labels.to(DEVICE))
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: val accuracy {evaluate(model, val)[0]:.3f}")
    accuracy, seen = evaluate(model, test)
    facts = {
        "test_accuracy": accuracy, "test_images": seen, "epochs": epochs,
        "trained_parameters": sum(p.numel() for p in trained),
    }  # fmt: skip
    print(json.dumps(facts))


if __name__ == "__main__":
    words, numbers = sys.argv[1:4], [int(n) for n in sys.argv[4:7]]
    main(words[0], words[1], words[2], numbers[0], numbers[1], numbers[2])
