"""Weight files as the Keras project publishes them, made without Keras from seeded numbers.

Every weight is drawn from a generator seeded by its own name, so the live Keras network (see
scripts/make_goldens.py), the stored goldens and these files agree without sharing any array.
"""

import functools
import hashlib
import types
from collections.abc import Mapping

import h5py
import numpy as np

from tlflax import tree
from tlflax.backbones.inventory import abstract_variables, describe
from tlflax.backbones.table import get

# The size at which every network is built; no layer's weights depend on it.
SIZE = 64
# (network, image side): the standard size everywhere, an odd one where padding could go wrong.
GOLDENS = [
    ("vgg16", 64),
    ("vgg19", 64),
    ("mobilenet_v2_0.35", 64),
    ("mobilenet_v2_0.5", 64),
    ("mobilenet_v2_0.75", 64),
    ("mobilenet_v2_1.0", 64),
    ("mobilenet_v2_1.3", 64),
    ("mobilenet_v2_1.4", 64),
    ("vgg16", 75),
    ("mobilenet_v2_1.0", 75),
]

# Our leaves -> Keras' names, in the order in which Keras writes a layer's weights.
NAMES = {
    ("params", "kernel"): "kernel",
    ("params", "scale"): "gamma",
    ("params", "bias"): "bias",
    ("batch_stats", "mean"): "moving_mean",
    ("batch_stats", "var"): "moving_variance",
}
ORDER = ("kernel", "depthwise_kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")


def generator(name: str) -> np.random.Generator:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return np.random.Generator(np.random.PCG64(seed))


def draw(layer: str, weight: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers for one weight in Keras' shape; activations stay of order one through 50 layers."""
    rng = generator(f"{layer}/{weight}")
    noise = rng.standard_normal(shape, np.float32)
    if weight in ("kernel", "depthwise_kernel"):
        # He scaling; a depthwise kernel [kh, kw, C, 1] sums over its window alone.
        fan_in = np.prod(shape[:2] if weight == "depthwise_kernel" else shape[:3])
        # What is not behind a ReLU needs no factor 2 for the half that a ReLU takes away;
        # VGG's first layer gets pixels of about -110..110.
        linear = layer in ("Conv1", "Conv_1") or layer.endswith("_expand")
        gain = 1 / 75 if layer == "block1_conv1" else 1.0 if linear else np.sqrt(2.0)
        return noise * np.float32(gain / np.sqrt(fan_in))
    if weight == "gamma":
        return 1 + noise * np.float32(0.1)
    if weight == "moving_variance":
        return np.exp(noise * np.float32(0.3))
    return noise * np.float32(0.1)


def draw_image(side: int) -> np.ndarray:
    return generator(f"image/{side}").integers(0, 256, (1, side, side, 3), dtype=np.uint8)


@functools.cache
def keras_arrays(spec_name: str) -> Mapping[str, dict[str, np.ndarray]]:
    """``layer -> weight -> array`` in Keras' names, shapes and order; weightless layers are empty.

    Only names and shapes come from our chain, never an array.
    """
    chain = get(spec_name).chain()
    layers: dict[str, dict] = {n: {} for b in describe(chain, SIZE) for n in b.layers}
    shapes = abstract_variables(chain, SIZE)
    normalised = {p.split("/")[-2] for p in tree.flatten(shapes["params"]) if p.endswith("/scale")}
    for collection in shapes:
        for path, leaf in tree.flatten(shapes[collection]).items():
            *_, layer, ours = path.split("/")
            name, shape = NAMES[collection, ours], tuple(leaf.shape)
            if name == "bias" and layer in normalised:
                name = "beta"
            if name == "kernel" and layer.endswith("_depthwise"):
                name, shape = "depthwise_kernel", (shape[0], shape[1], shape[3], shape[2])
            layers[layer][name] = draw(layer, name, shape)
    ordered = {
        layer: dict(sorted(weights.items(), key=lambda w: ORDER.index(w[0])))
        for layer, weights in layers.items()
    }
    # Shared by the tests of a process.
    return types.MappingProxyType(ordered)


def write_h5(path, arrays, style="keras2", root=""):
    """Writes an HDF5 weight file.

    Args:
      path: destination.
      arrays: as `keras_arrays` gives them.
      style: ``keras2`` (`Conv1/Conv1/kernel:0`, backend and version at the root), ``vgg2016``
        (`block1_conv1/block1_conv1_W_1:0`, nothing but layer_names at the root), ``mobl`` (as
        keras2 with the layer names of the published MobileNetV2 files) or ``keras3`` (as keras2,
        but without `:0` and with the depthwise kernel called kernel).
      root: group that holds the layers, ``model_weights`` in whole-model files.
    """
    with h5py.File(path, "w") as file:
        group = file.create_group(root) if root else file
        names = ["input_1", *(mobl(n) if style == "mobl" else n for n in arrays)]
        group.attrs["layer_names"] = [n.encode() for n in names]
        if style != "vgg2016":
            group.attrs["backend"] = b"tensorflow"
            group.attrs["keras_version"] = b"2.4.0"
        group.create_group("input_1").attrs["weight_names"] = []
        for name, weights in zip(names[1:], arrays.values(), strict=True):
            layer = group.create_group(name)
            stored = {}
            for weight, array in weights.items():
                if style == "vgg2016":
                    stored[f"{name}_{'W' if weight == 'kernel' else 'b'}_1:0"] = array
                elif style == "keras3":
                    stored[f"{name}/{weight.removeprefix('depthwise_')}"] = array
                else:
                    stored[f"{name}/{weight}:0"] = array
            layer.attrs["weight_names"] = [s.encode() for s in stored]
            for key, array in stored.items():
                layer.create_dataset(key, data=array)
    return path


def mobl(layer: str) -> str:
    """A MobileNetV2 layer name of today -> as it stands in the published weight files."""
    if layer.startswith("expanded_conv_"):
        index, kind = "0", layer.removeprefix("expanded_conv_")
    elif layer.startswith("block_"):
        _, index, kind = layer.split("_", 2)
    else:
        return layer
    if kind.endswith("_BN"):
        return f"bn{index}_conv_{index}_bn_{kind.removesuffix('_BN')}"
    return f"mobl{index}_conv_{index}_{kind}"


def positions(size: int) -> np.ndarray:
    """Flat positions of the eight stored values of an array with ``size`` elements."""
    return np.linspace(0, size - 1, 8).astype(np.int64)
