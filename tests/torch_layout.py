"""Weight files as torchvision, timm and akamaster publish them, made without torch.

Every weight is drawn from a generator seeded by its own name, so the live torch network (see
scripts/make_torch_goldens.py), the stored goldens and these files agree without sharing any array.
Names and shapes come from the live networks too (tests/goldens/torch_weights.npz), not from ours.
"""

import dataclasses
import functools
import io
import re
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from keras_layout import generator
from safetensors.numpy import save_file

GOLDENS = Path(__file__).parent / "goldens"


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a network's golden files are made and read.

    Attributes:
      sides: image sides of the goldens.
      gains: pattern of a weight's name -> factor on 1 / sqrt(fan-in), the first that fits; those
        of no pattern have sqrt(2), which makes up for a ReLU before.
      slow: sides whose golden test is one of the `slow` ones.
    """

    sides: tuple[int, ...]
    gains: dict[str, float] = dataclasses.field(default_factory=dict)
    slow: tuple[int, ...] = ()


# The ends of residual branches are small, so that the sum of many stays of order one.
BASIC = {
    r"conv1\.weight": 1.0,
    r".*downsample.*": 1.0,
    # On maps of one or two pixels most of a kernel's weights meet the padding.
    r"layer4\.\d\.conv1\.weight": 2.5,
    r"layer4\.\d\.conv2\.weight": 0.9,
    r"layer\d\.\d+\.conv2\.weight": 0.3,
}
BOTTLENECK = {r"conv1\.weight": 1.0, r".*\.conv3\.weight": 0.3, r".*downsample.*": 1.0}
MOBILENET = {
    r"features\.0\.0\.weight": 1.0,
    # What expands, and the last convolution, see a sum and no ReLU.
    r"features\.(1[0-9]|[2-9])\.(conv\.0\.)?0\.weight": 1.0,
    r"features\.\d+\.conv\.1\.0\.weight": 1.8,
    r"features\.\d+\.conv\.2\.weight": 0.8,
    # The same in timm's names.
    r"conv_stem\.weight|conv_head\.weight|blocks\.[1-6]\.\d\.conv_pw\.weight": 1.0,
    r"blocks\.[1-6]\.\d\.conv_dw\.weight": 1.8,
    r"blocks\.\d\.\d\.conv_pwl\.weight": 0.8,
}
EFFICIENTNET = {
    r"conv_stem\.weight": 1.0,
    r"blocks\.\d\.\d\.conv_pw\.weight": 1.3,
    r"conv_head\.weight": 1.0,
    r"blocks\.[0-3]\.\d\.conv_dw\.weight": 1.9,
    r"blocks\.4\.\d\.conv_dw\.weight": 1.8,
    r"blocks\.6\.\d\.conv_dw\.weight": 1.2,
    r"blocks\.5\.\d\.conv_dw\.weight": 2.0,
    r".*\.se\..*weight": 1.5,
    r"blocks\.\d\.0\.conv_pwl\.weight": 1.5,
    r"blocks\.\d\.[1-9]\.conv_pwl\.weight": 2.0,
    # The same in torchvision's names, whose stages count from 1.
    r"features\.[08]\.0\.weight": 1.0,
    r"features\.[2-7]\.\d\.block\.0\.0\.weight": 1.3,
    r"features\.[2-4]\.\d\.block\.1\.0\.weight": 1.9,
    r"features\.[56]\.\d\.block\.1\.0\.weight": 1.8,
    r"features\.7\.\d\.block\.1\.0\.weight": 1.2,
    r".*\.fc[12]\.weight": 1.5,
    r"features\.\d\.0\.block\.3\.0\.weight": 1.5,
    r"features\.\d\.[1-9]\.block\.3\.0\.weight": 2.0,
}
# LayerNorm keeps these in bounds by itself.
NORMALISED = {
    r".*(fc2|mlp\.3|attn\.proj|out_proj)\.weight": 0.5,
    r".*(qkv\.|in_proj_)weight": 1.5,
    r".*": 1.0,
}
NETWORKS = {
    "resnet18": Layout((32, 150), BASIC),
    "resnet34": Layout((64,), BASIC, slow=(64,)),
    "torch_resnet50": Layout((64,), BOTTLENECK),
    "cifar_resnet20": Layout((32, 33), BASIC),
    "cifar_resnet32": Layout((32,), BASIC, slow=(32,)),
    "cifar_resnet44": Layout((32,), BASIC, slow=(32,)),
    "cifar_resnet56": Layout((32,), BASIC),
    "torch_mobilenet_v2_1.0": Layout((32, 150), MOBILENET, slow=(150,)),
    "torch_efficientnet_b0": Layout((64, 150), EFFICIENTNET, slow=(150,)),
    "convnext_tiny": Layout((64, 150), NORMALISED, slow=(150,)),
    "vit_s16": Layout((64, 224), NORMALISED, slow=(224,)),
    "vit_b16": Layout((64,), NORMALISED, slow=(64,)),
    "torch_vit_b16": Layout((64,), NORMALISED, slow=(64,)),
}


def draw(name: str, shape: tuple[int, ...], gains: dict[str, float]) -> np.ndarray:
    """Numbers for one weight in torch's shape; activations stay of order one."""
    kind = name.rpartition(".")[2]
    if kind == "num_batches_tracked":
        return np.array(1, np.int64)
    noise = generator(name).standard_normal(shape, np.float32)
    if len(shape) in (2, 4):
        # [out, in, kh, kw]; a depthwise kernel has in = 1, and so sums over its window alone.
        gain = next((g for p, g in gains.items() if re.fullmatch(p, name)), np.sqrt(2.0))
        return noise * np.float32(gain / np.sqrt(np.prod(shape[1:])))
    if kind == "running_var":
        return np.exp(noise * np.float32(0.3))
    if kind in ("gamma", "layer_scale"):
        return noise * np.float32(0.3)
    # Normalisation scales are the only vectors called weight.
    return noise * np.float32(0.1) + np.float32(kind == "weight")


@functools.cache
def _weights() -> dict[str, np.ndarray]:
    with np.load(GOLDENS / "torch_weights.npz") as file:
        return {key: file[key] for key in file.files}


def weight_shapes(network: str, style: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the live network's state dict, in its order."""
    stored = _weights()
    names, shapes = (stored[f"{network}.{style}.{k}"] for k in ("names", "shapes"))
    return {str(n): tuple(int(d) for d in s if d >= 0) for n, s in zip(names, shapes, strict=True)}


# One network at a time: the largest has 350 MB.
@functools.lru_cache(maxsize=1)
def torch_arrays(network: str, style: str) -> dict[str, np.ndarray]:
    """The whole state dict, classifier included, as the published file has it."""
    gains = NETWORKS[network].gains
    return {n: draw(n, s, gains) for n, s in weight_shapes(network, style).items()}


# --- files


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def integer(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def integers(values) -> bytes:
    return b"(" + b"".join(map(integer, values)) + b"t"


NEW_DICT = b"ccollections\nOrderedDict\n)R"
_STORAGES = {
    "f8": "DoubleStorage",
    "f4": "FloatStorage",
    "f2": "HalfStorage",
    "u2": "BFloat16Storage",  # its bits
    "i8": "LongStorage",
    "b1": "BoolStorage",
}


def view_pickle(
    kind: str, key: str, numel: int, offset: int, shape, strides, legacy=False
) -> bytes:
    """The opcodes by which torch.save pickles a tensor: a part of ``numel`` stored numbers."""
    storage = text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu")
    # The last element of the old form says which part of another storage this one is.
    storage = b"(" + storage + integer(numel) + (b"N" if legacy else b"") + b"tQ"
    arguments = storage + integer(offset) + integers(shape) + integers(strides) + b"\x89" + NEW_DICT
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def tensor_pickle(array: np.ndarray, key: str, legacy: bool) -> bytes:
    """The opcodes of a contiguous tensor with a storage of its own."""
    strides = [s // array.itemsize for s in np.empty(array.shape, array.dtype).strides]
    kind = _STORAGES[array.dtype.str[1:]]
    return view_pickle(kind, key, array.size, 0, array.shape, strides, legacy)


def state_pickle(arrays: dict[str, np.ndarray], legacy: bool, prefix: str = "") -> bytes:
    """The opcodes of an OrderedDict of tensors, without the frame of a pickle."""
    pairs = (
        text(prefix + n) + tensor_pickle(a, str(i), legacy)
        for i, (n, a) in enumerate(arrays.items())
    )
    return NEW_DICT + b"(" + b"".join(pairs) + b"u"


def write_pth(path: Path, arrays: dict[str, np.ndarray], pickled: bytes | None = None) -> Path:
    """Writes a state dict as torch.save does since 1.6.

    Args:
      path: destination.
      arrays: the state dict; ``data/0`` has the numbers of the first.
      pickled: opcodes in place of those that make the state dict.
    """
    with zipfile.ZipFile(path, "w") as archive:
        pickled = state_pickle(arrays, False) if pickled is None else pickled
        archive.writestr("archive/data.pkl", b"\x80\x02" + pickled + b".")
        archive.writestr("archive/byteorder", "little")
        for i, array in enumerate(arrays.values()):
            archive.writestr(f"archive/data/{i}", np.ascontiguousarray(array).tobytes())
        archive.writestr("archive/version", "3\n")
    return path


def write_legacy(path: Path, arrays: dict[str, np.ndarray], wrapped: bool = False) -> Path:
    """Writes a state dict as torch.save did before 1.6.

    Args:
      path: destination.
      arrays: the state dict.
      wrapped: as akamaster's training program does: ``{"state_dict": ..., "best_prec1": ...}``,
        with the ``module.`` of DataParallel before every name.
    """
    file = io.BytesIO()
    file.write(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")  # the magic number
    file.write(b"\x80\x02M\xe9\x03.")  # protocol 1001
    file.write(b"\x80\x02}(" + text("little_endian") + b"\x88u.")
    state = state_pickle(arrays, True, "module." if wrapped else "")
    if wrapped:
        accuracy = text("best_prec1") + b"G" + struct.pack(">d", 91.73)
        state = b"}(" + text("state_dict") + state + accuracy + b"u"
    file.write(b"\x80\x02" + state + b".")
    keys = b"".join(text(str(i)) for i in range(len(arrays)))
    file.write(b"\x80\x02](" + keys + b"e.")
    for array in arrays.values():
        file.write(struct.pack("<q", array.size) + np.ascontiguousarray(array).tobytes())
    path.write_bytes(file.getvalue())
    return path


def write_tar(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    """Writes a state dict as torch.save did before 0.2: a tar archive of three members."""
    storages, tensors = io.BytesIO(), io.BytesIO()
    for file in (storages, tensors):
        file.write(b"\x80\x02" + integer(len(arrays)) + b".")
    pairs = []
    for key, (name, array) in enumerate(arrays.items(), start=100):
        kind = _STORAGES[array.dtype.str[1:]]
        entry = integer(key) + text("cpu") + f"ctorch\n{kind}\n".encode()
        storages.write(b"\x80\x02" + entry + b"\x87.")
        storages.write(struct.pack("<q", array.size) + np.ascontiguousarray(array).tobytes())
        entry = integer(key + 1000) + integer(key) + f"ctorch\n{kind[:-7]}Tensor\n".encode()
        tensors.write(b"\x80\x02" + entry + b"\x87.")
        strides = [s // array.itemsize for s in np.empty(array.shape, array.dtype).strides]
        tensors.write(struct.pack("<i4x", array.ndim))
        tensors.write(np.array([*array.shape, *strides, 0], "<i8").tobytes())
        pairs.append(text(name) + b"P" + str(key + 1000).encode() + b"\n")
    storages.write(b"\x80\x02].")  # no storage is a part of another
    pickled = b"\x80\x02" + NEW_DICT + b"(" + b"".join(pairs) + b"u."
    members = {"storages": storages.getvalue(), "tensors": tensors.getvalue(), "pickle": pickled}
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_official(folder: Path, file_name: str, arrays: dict[str, np.ndarray]) -> Path:
    """Writes the file in the form in which it is published."""
    path = folder / file_name
    if path.suffix == ".safetensors":
        save_file(arrays, path, metadata={"format": "pt"})
        return path
    return (
        write_legacy(path, arrays, wrapped=True)
        if path.suffix == ".th"
        else write_pth(path, arrays)
    )
