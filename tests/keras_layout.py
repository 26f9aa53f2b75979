"""Weight files as the Keras project publishes them, made without Keras from seeded numbers.

Every weight is drawn from a generator seeded by its own name, so the live Keras network (see
scripts/make_goldens.py), the stored goldens and these files agree without sharing any array.
"""

import dataclasses
import functools
import hashlib
import re
import types
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from tlflax import tree
from tlflax.backbones.inventory import measure
from tlflax.backbones.table import get
from tlflax.convert.rules import KERAS_COUNTED

FOLDER = Path(__file__).resolve().parent / "goldens"
# The size at which networks are built and their goldens made, where they accept it.
SIZE = 64


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a network's published file looks, and how its golden files are made and read.

    Attributes:
      style: of the file, see `write_h5`.
      sides: image sides of the goldens; an odd one where padding could go wrong.
      unmarked: pattern of the Keras layers that our chain does not mark.
      through_file: whether the golden test writes and reads the file; else the arrays alone.
      slow: sides whose golden test is one of the `slow` ones.
      parallel: whether branches run side by side, so that only the blocks have one order.
      beside: parameters that Keras counts in layers which are the contract here.
    """

    style: str = "keras2"
    sides: tuple[int, ...] = (SIZE,)
    unmarked: str = ".*_pad"
    through_file: bool = True
    slow: tuple[int, ...] = ()
    parallel: bool = False
    beside: int = 0


# Padding, and the strided selection that Keras makes by pooling with a window of one.
RESNET_V2 = r".*_pad|max_pooling2d(_\d+)?"
# Layers that are the contract here (rescaling by 1/255, normalisation), padding, and Dropout.
EFFICIENTNET = {"unmarked": r"rescaling(_\d)?|normalization|.*_pad|.*_drop", "beside": 7}
NETWORKS = {
    "vgg16": Layout("vgg2016", (64, 75)),
    "vgg19": Layout("vgg2016"),
    "resnet50": Layout(sides=(64, 75), parallel=True),
    "resnet101": Layout(parallel=True, through_file=False, slow=(64,)),
    "resnet152": Layout(parallel=True, through_file=False, slow=(64,)),
    "resnet50_v2": Layout(sides=(64, 75), unmarked=RESNET_V2),
    "resnet101_v2": Layout(unmarked=RESNET_V2, through_file=False, slow=(64,)),
    "resnet152_v2": Layout(unmarked=RESNET_V2, through_file=False, slow=(64,)),
    "mobilenet_0.25": Layout(unmarked=r"conv_pad_\d+", sides=(64, 75)),
    "mobilenet_0.5": Layout(unmarked=r"conv_pad_\d+", slow=(64,)),
    "mobilenet_0.75": Layout(unmarked=r"conv_pad_\d+", slow=(64,)),
    "mobilenet_1.0": Layout(unmarked=r"conv_pad_\d+"),
    "mobilenet_v2_0.35": Layout("mobl"),
    "mobilenet_v2_0.5": Layout("mobl", slow=(64,)),
    "mobilenet_v2_0.75": Layout("mobl", slow=(64,)),
    "mobilenet_v2_1.0": Layout("mobl", (64, 75)),
    "mobilenet_v2_1.3": Layout("mobl", slow=(64,)),
    "mobilenet_v2_1.4": Layout("mobl", slow=(64,)),
    "squeezenet_1.1": Layout("keras1", sides=(64, 75), parallel=True),
    "inception_v3": Layout("counted", (75, 150), parallel=True, slow=(150,)),
    "efficientnet_b0": Layout(sides=(64, 75), **EFFICIENTNET),
    **{
        f"efficientnet_b{i}": Layout(through_file=False, slow=(64,), **EFFICIENTNET)
        for i in range(1, 8)
    },
}
GOLDENS_FOLDER = Path(__file__).resolve().parent / "goldens"
# (network, image side) of every golden file.
GOLDENS = [(name, side) for name, layout in NETWORKS.items() for side in layout.sides]

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


# Layers that see the pixels; what they are divided by is about the root mean square of these.
FIRST = ("block1_conv1", "conv1_conv", "conv1", "Conv1", "stem1_conv", "stem_conv")
# Layers that no ReLU precedes: no factor 2 for the half that a ReLU takes away.
LINEAR = re.compile(r"Conv1|Conv_1|.*_expand")
# The last convolution of a residual branch: small, so that 50 sums of branches stay of order one.
BRANCH_END = re.compile(r"conv\d_block\d+_3_conv")
# EfficientNet's layers: swish takes away more than ReLU does, the gate about half.
SWISH = (
    (re.compile(r"block\d[a-z]_expand_conv|top_conv"), 1.0),
    (re.compile(r"block[1-4][a-z]_dwconv"), 1.6),
    # On maps of 4x4 and 2x2 pixels many of a kernel's weights meet the padding.
    (re.compile(r"block[57][a-z]_dwconv"), 1.9),
    (re.compile(r"block6[a-z]_dwconv"), 2.8),
    (re.compile(r"block\da_project_conv"), 1.5),
    (re.compile(r"block\d[b-z]_project_conv"), 0.5),
    (re.compile(r"block\d[a-z]_se_(reduce|expand)"), 1.0),
)
# EfficientNet's stages begin anew, and so do its gates, which see few channels: swish would let
# small values vanish and large ones grow.
RENEWED = re.compile(r"block\da_project_bn|block\d[a-z]_se_(reduce|expand)")


def pixels(spec) -> float:
    """Root mean square of a prepared image, roughly: Caffe's pixels are about -110..110."""
    return 75.0 if spec.contract.order == "BGR" else 1.0


def draw(layer: str, weight: str, shape: tuple[int, ...], pixels: float = 1.0) -> np.ndarray:
    """Numbers for one weight in Keras' shape; activations stay of order one through 150 layers."""
    rng = generator(f"{layer}/{weight}")
    noise = rng.standard_normal(shape, np.float32)
    if weight in ("kernel", "depthwise_kernel"):
        # He scaling; a depthwise kernel [kh, kw, C, 1] sums over its window alone.
        fan_in = np.prod(shape[:2] if weight == "depthwise_kernel" else shape[:3])
        gain = 1.0 if LINEAR.fullmatch(layer) else np.sqrt(2.0)
        if layer in FIRST:
            gain = 1 / pixels
        elif swish := [g for pattern, g in SWISH if pattern.fullmatch(layer)]:
            gain = swish[0]
        elif BRANCH_END.fullmatch(layer):
            gain *= 0.15
        return noise * np.float32(gain / np.sqrt(fan_in))
    if weight == "gamma":
        return 1 + noise * np.float32(0.1)
    if weight == "moving_variance":
        return np.exp(noise * np.float32(0.3))
    return noise * np.float32(1.0 if RENEWED.fullmatch(layer) else 0.1)


def draw_image(side: int) -> np.ndarray:
    return generator(f"image/{side}").integers(0, 256, (1, side, side, 3), dtype=np.uint8)


def is_depthwise(layer: str) -> bool:
    """Whether a layer's kernel is a depthwise one, by its Keras name."""
    return layer.endswith("_depthwise") or "_dw" in layer


@functools.cache
def inventory(spec_name: str) -> tuple[dict, tuple[str, ...]]:
    """Abstract variables of the whole chain and its layers in order, traced once a process."""
    spec = get(spec_name)
    blocks, variables = measure(spec.chain(), max(spec.min_size, SIZE))
    return variables, tuple(layer for block in blocks for layer in block.layers)


# Two networks at a time: the deep ones are 240 MB each.
@functools.lru_cache(maxsize=2)
def keras_arrays(spec_name: str) -> Mapping[str, dict[str, np.ndarray]]:
    """``layer -> weight -> array`` in Keras' names, shapes and order; weightless layers are empty.

    Only names and shapes come from our chain, never an array.
    """
    spec, (shapes, names) = get(spec_name), inventory(spec_name)
    layers: dict[str, dict] = {n: {} for n in names}
    statistics = tree.flatten(shapes.get("batch_stats", {}))
    normalised = {p.split("/")[-2] for p in statistics}
    for collection in shapes:
        for path, leaf in tree.flatten(shapes[collection]).items():
            *_, layer, ours = path.split("/")
            name, shape = NAMES[collection, ours], tuple(leaf.shape)
            if name == "bias" and layer in normalised:
                name = "beta"
            if name == "kernel" and is_depthwise(layer):
                name, shape = "depthwise_kernel", (shape[0], shape[1], shape[3], shape[2])
            layers[layer][name] = draw(layer, name, shape, pixels(spec))
    ordered = {
        layer: dict(sorted(weights.items(), key=lambda w: ORDER.index(w[0])))
        for layer, weights in layers.items()
    }
    if spec.name.startswith("efficientnet"):
        # As published: what the contract calls deviations are variances there.
        mean, std = (np.array(v, np.float32) for v in (spec.contract.mean, spec.contract.std))
        prepared = {"mean": mean, "variance": std, "count": np.array(0)}
        ordered = {"rescaling": {}, "normalization": prepared} | ordered
    if NETWORKS[spec_name].parallel:
        # Keras stores side by side what we compute branch by branch, and loads by position.
        with np.load(FOLDER / f"{spec_name}_{NETWORKS[spec_name].sides[0]}.npz") as golden:
            order = [str(layer) for layer in golden["layers"]]  # padding included
            ordered = {layer: ordered[layer] for layer in order if layer in ordered}
    # Shared by the tests of a process.
    return types.MappingProxyType(ordered)


def counted(layers) -> dict[str, str]:
    """InceptionV3's layers -> their names in the published file, from counters that begin at 1."""
    names = {}
    for kind, pattern in KERAS_COUNTED.items():
        mine = [layer for layer in layers if re.fullmatch(pattern, layer)]
        names |= {layer: f"{kind}_{i}" for i, layer in enumerate(mine, start=1)}
    return names


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


def slashed(layer: str) -> str:
    """A SqueezeNet layer name of ours -> as it stands in the published file."""
    return re.sub(r"^(fire\d+)_", r"\1/", layer)


# style -> how it calls a layer, and a weight of it; by default our name, and `layer/weight:0`.
LAYER_NAMES = {"mobl": mobl, "keras1": slashed}
WEIGHT_NAMES = {
    "vgg2016": lambda layer, weight, n: f"{layer}_{'W' if weight == 'kernel' else 'b'}_1:0",
    "keras1": lambda layer, weight, n: f"uniform{n}" if weight == "kernel" else f"{layer}_b",
    "keras3": lambda layer, weight, n: f"{layer}/{weight.removeprefix('depthwise_')}",
}


def keras_order(name: str) -> list[str]:
    """All layers as Keras goes through them, padding too; the order in which it loads weights."""
    side = NETWORKS[name].sides[0]
    with np.load(GOLDENS_FOLDER / f"{name}_{side}.npz") as file:
        return [str(layer) for layer in file["layers"]]


def write_h5(path, arrays, style="keras2", root="", order=()):
    """Writes an HDF5 weight file.

    Args:
      path: destination.
      arrays: as `keras_arrays` gives them.
      style: ``keras2`` (`Conv1/Conv1/kernel:0`, backend and version at the root), ``counted``
        (the published InceptionV3: as keras2, layers counted from 1), ``vgg2016``
        (`block1_conv1/block1_conv1_W_1:0`, nothing but layer_names at the root), ``mobl`` (as
        keras2 with the layer names of the published MobileNetV2 files), ``keras1``
        (`fire2/expand3x3/uniform4` beside `fire2/expand3x3/fire2/expand3x3_b`, nothing but
        layer_names at the root) or ``keras3`` (as keras2, but without `:0` and with the depthwise
        kernel called kernel).
      root: group that holds the layers, ``model_weights`` in whole-model files.
      order: all layers as they stand in the file (`keras_order`); by default those of ``arrays``.
    """
    assert not order or not set(arrays) - set(order)
    called = LAYER_NAMES.get(style, str)
    if style == "counted":
        numbered = counted(inventory("inception_v3")[1])
        called = lambda layer: numbered.get(layer, layer)  # noqa: E731
    weight_name = WEIGHT_NAMES.get(style, lambda layer, weight, n: f"{layer}/{weight}:0")
    arrays = {name: arrays.get(name, {}) for name in order or arrays}
    with h5py.File(path, "w") as file:
        group = file.create_group(root) if root else file
        group.attrs["layer_names"] = [b"input_1", *(called(n).encode() for n in arrays)]
        if style not in ("vgg2016", "keras1"):
            group.attrs["backend"] = b"tensorflow"
            group.attrs["keras_version"] = b"2.4.0"
        group.create_group("input_1").attrs["weight_names"] = []
        with_weights = [name for name, weights in arrays.items() if weights]
        for name, weights in arrays.items():
            layer = group.create_group(called(name))
            number = with_weights.index(name) + 1 if weights else 0
            stored = {weight_name(called(name), w, number): a for w, a in weights.items()}
            layer.attrs["weight_names"] = [s.encode() for s in stored]
            for key, array in stored.items():
                layer.create_dataset(key, data=array)
    return path


def positions(size: int) -> np.ndarray:
    """Flat positions of the eight stored values of an array with ``size`` elements."""
    return np.linspace(0, size - 1, 8).astype(np.int64)
