"""TensorFlow Hub's variables, made without TensorFlow from seeded numbers.

As in `keras_layout`: every variable is drawn from a generator seeded by its own name, so that
TensorFlow (`hub_tensorflow`), the goldens and our chain agree without sharing any array. The
names and shapes are written down here from TF-Slim's code, not taken from our table.
"""

import re

import numpy as np
from keras_layout import generator

SCOPE = "resnet_v2_50"
# The last convolution of a residual branch: small, so that sums of branches stay of order one.
BRANCH_END = re.compile(r".*/conv3/weights")
# (network, image side): even and odd maps before the pooling, whose padding depends on that.
GOLDENS = [("hub_resnet50_v2", 64), ("hub_resnet50_v2", 66)]


def norm(scope: str, channels: int) -> dict[str, tuple[int, ...]]:
    kinds = ("gamma", "beta", "moving_mean", "moving_variance")
    return {f"{scope}/{kind}": (channels,) for kind in kinds}


def conv(scope: str, size: int, before: int, after: int, bias: bool) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {f"{scope}/weights": (size, size, before, after)}
    return found | ({f"{scope}/biases": (after,)} if bias else norm(f"{scope}/BatchNorm", after))


def slim_resnet_v2(units=(3, 4, 6, 3)) -> dict[str, tuple[int, ...]]:
    """Variable -> shape, in slim's order, without the classifier."""
    shapes, before = conv(f"{SCOPE}/conv1", 7, 3, 64, True), 64
    for block, count in enumerate(units, start=1):
        inner = 32 * 2**block
        for unit in range(1, count + 1):
            scope = f"{SCOPE}/block{block}/unit_{unit}/bottleneck_v2"
            shapes |= norm(f"{scope}/preact", before)
            if before != 4 * inner:
                shapes |= conv(f"{scope}/shortcut", 1, before, 4 * inner, True)
            shapes |= conv(f"{scope}/conv1", 1, before, inner, False)
            shapes |= conv(f"{scope}/conv2", 3, inner, inner, False)
            shapes |= conv(f"{scope}/conv3", 1, inner, 4 * inner, True)
            before = 4 * inner
    return shapes | norm(f"{SCOPE}/postnorm", before)


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers for one variable; activations stay of order one through the network."""
    noise = generator(name).standard_normal(shape, np.float32)
    kind = name.rsplit("/", 1)[-1]
    if kind in ("weights", "kernel", "depthwise_kernel"):
        # He scaling; a depthwise kernel [kh, kw, C, 1] sums over its window alone.
        fan_in = np.prod(shape[:2] if kind == "depthwise_kernel" else shape[:3])
        gain = 1.0 if name == f"{SCOPE}/conv1/weights" else np.sqrt(2.0)
        gain *= 0.2 if BRANCH_END.fullmatch(name) else 1.0
        return noise * np.float32(gain / np.sqrt(fan_in))
    if kind == "gamma":
        return 1 + noise * np.float32(0.1)
    if kind == "moving_variance":
        return np.exp(noise * np.float32(0.3))
    return noise * np.float32(0.1)


def slim_arrays() -> dict[str, np.ndarray]:
    """The whole network's variables."""
    return {name: draw(name, shape) for name, shape in slim_resnet_v2().items()}
