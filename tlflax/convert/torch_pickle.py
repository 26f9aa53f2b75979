"""Unpickling what `torch.save` writes, without torch and without running anything.

A pickle is a program that may call whatever it can import. This unpickler imports nothing: the
few names it knows build tensors (as recipes, see `Tensor`), plain containers and numbers; every
other name ends the reading with an error.
"""

import dataclasses
import pickle
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from tlflax.errors import ConvertError

# torch's storage classes -> dtype of the bytes. bfloat16 has none in numpy, see `Tensor.read`.
BFLOAT16 = np.dtype([("bfloat16", "<u2")])
DTYPES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": BFLOAT16,
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


class Refused(Exception):
    """The pickle holds something that is not read; the text says what."""


def widened(array: Any) -> np.ndarray:
    """bfloat16 bits as the float32 numbers they are the upper half of; others as they are."""
    if array.dtype != BFLOAT16:
        return array
    return np.asarray(array["bfloat16"].astype(np.uint32) << 16).view(np.float32)


class _Sealed:
    """Nothing in a pickle can change what it made, or what it calls."""

    __slots__ = ()

    def __setstate__(self, state):
        raise Refused("its pickle changes what it calls")


@dataclasses.dataclass(frozen=True)
class StorageType(_Sealed):
    """A storage class of torch: the dtype of its numbers."""

    dtype: np.dtype


@dataclasses.dataclass
class Storage(_Sealed):
    """``numel`` numbers of one dtype in a row; ``fetch`` gives them once the file is read."""

    dtype: np.dtype
    numel: int
    fetch: Callable[[], np.ndarray]


@dataclasses.dataclass
class Tensor(_Sealed):
    """How a tensor lies in its storage; all counts are in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def size(self) -> int:
        """How many numbers it has.

        Raises:
          Refused: it has no possible shape, or reaches beyond its storage.
        """
        counts = (self.offset, *self.shape, *self.strides)
        if len(self.shape) != len(self.strides) or not all(_is_count(c) for c in counts):
            raise Refused("a tensor has an impossible shape")
        size = int(np.prod(self.shape, dtype=object))
        axes = zip(self.shape, self.strides, strict=True)
        reach = self.offset + sum((n - 1) * s for n, s in axes) + 1
        # An expanded tensor (stride 0) could claim any size.
        if size and (reach > self.storage.numel or size > self.storage.numel):
            raise Refused(f"a tensor of shape {self.shape} reaches beyond its stored numbers")
        return size

    def read(self) -> np.ndarray:
        """The numbers; read-only, and in the memory of the storage where that has their type.

        Raises:
          Refused: see `size`.
        """
        if not self.size():
            return np.zeros(self.shape, np.float32)
        data = self.storage.fetch()
        if data.dtype != self.storage.dtype or data.shape != (self.storage.numel,):
            raise Refused("its stored numbers are not as its pickle says")
        strides = [s * data.itemsize for s in self.strides]
        view = np.lib.stride_tricks.as_strided
        return widened(view(data[self.offset :], self.shape, strides, writeable=False))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value >= 0


class _Dict(dict):
    """Every kind of dict; attributes that torch hangs on it (`_metadata`) are left out."""

    __slots__ = ()

    def __setstate__(self, state):
        pass


class _Inert:
    """Stands for an object that says nothing about weights."""

    __slots__ = ()

    def __new__(cls, *args):
        return object.__new__(cls)

    def __setstate__(self, state):
        pass


class _Maker(_Sealed):
    """Something the pickle may call."""

    __slots__ = ("function",)

    def __init__(self, function: Callable):
        self.function = function

    def __call__(self, *args):
        return self.function(*args)


def _rebuild(storage, offset, shape, strides, *ignored) -> Tensor:
    if not isinstance(storage, Storage):
        raise Refused("a tensor without stored numbers")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(data, *ignored):
    return data


def _encode(text, encoding="latin1") -> bytes:
    # How Python 3 writes bytes in protocol 2.
    if not isinstance(text, str) or encoding != "latin1":
        raise Refused("text in an unknown encoding")
    return text.encode("latin1")


class _NumpyType:
    """A numpy dtype of numbers; its byte order and alignment are numpy's defaults."""

    __slots__ = ("dtype",)

    def __init__(self, code, *ignored):
        if not isinstance(code, str) or code[:1] not in "fiub?" or len(code) > 3:
            raise Refused("numpy data other than numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state):
        pass


def _scalar(kind, data):
    if not isinstance(kind, _NumpyType) or not isinstance(data, bytes):
        raise Refused("numpy data other than numbers")
    return np.frombuffer(data, kind.dtype, 1)[0].item()


_KNOWN: dict[str, Any] = {
    "collections.OrderedDict": _Dict,
    "collections.Counter": _Dict,
    "argparse.Namespace": _Inert,
    "torch._utils._rebuild_tensor": _rebuild,
    "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.nn.parameter.Parameter": _parameter,
    "torch.Size": tuple,
    "torch.device": _Inert,
    "_codecs.encode": _encode,
    "numpy.dtype": _NumpyType,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
}
_TORCH_DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int8", "uint8")
# Types that a pickle may also make by NEWOBJ, which takes nothing but classes.
_CLASSES = (_Dict, _Inert)


class Unpickler(pickle.Unpickler):
    """Reads one pickle.

    Args:
      file: opened for bytes; ends up behind the pickle.
      tensor_of: what a persistent id stands for.
    """

    def __init__(self, file: IO[bytes], tensor_of: Callable[[Any], Any] | None = None):
        # latin1 reads the byte strings of Python 2.
        super().__init__(file, encoding="latin1")
        self._tensor_of = tensor_of

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name. Never imports."""
        full = f"{module}.{name}"
        if module in ("torch", "torch.cuda") and name in DTYPES:
            return StorageType(DTYPES[name])
        if module in ("torch", "torch.cuda") and name.endswith("Tensor"):
            return _Inert
        known = _KNOWN.get(full)
        if module == "torch" and name in _TORCH_DTYPES:
            return _Inert()
        if known is None:
            raise Refused(
                f"its pickle asks for {full[:80]}, which is no part of tensor data (nothing was "
                "run); if this is a whole pickled model, save model.state_dict() instead"
            )
        return known if known in _CLASSES else _Maker(known)

    def persistent_load(self, pid: Any) -> Any:
        """The storage (or, in the oldest files, tensor) that the pickle points to."""
        if self._tensor_of is None:
            raise Refused("its pickle points to data that is not there")
        return self._tensor_of(pid)


def load(file: IO[bytes], tensor_of: Callable[[Any], Any] | None = None) -> Any:
    """Reads one pickle from ``file``.

    Raises:
      Refused: it is damaged, or holds something that is not read.
    """
    try:
        return Unpickler(file, tensor_of).load()
    except Refused:
        raise
    except Exception as error:  # a damaged or hostile pickle can raise nearly anything
        raise Refused(f"its pickle is damaged ({type(error).__name__}: {error})") from error


# Where checkpoints keep their weights, in order of preference.
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights")
# What training programs keep beside them; tensors in there are no weights.
_BESIDE = ("optimizer", "lr_scheduler", "scheduler", "scaler", "amp", "args", "config", "epoch")


def state_of(found: Any) -> dict[str, Tensor]:
    """The state dict in what was unpickled; wrappers and training state are left behind.

    Where a checkpoint has averaged weights (``model_ema``, ``state_dict_ema``) as well, the plain
    ones are taken.

    Raises:
      Refused: there is none, or not one alone.
    """
    if not isinstance(found, dict):
        raise Refused(f"it holds no dict of tensors but one {type(found).__name__.strip('_')}")
    for key in _WRAPPERS:
        if isinstance(found.get(key), dict):
            return state_of(found[key])
    tensors: dict[str, Tensor] = {}
    for key, value in found.items():
        if isinstance(value, Tensor) and isinstance(key, str):
            tensors[key] = value
        elif value is None or isinstance(value, (int, float, str, _Inert)):
            continue  # epoch, accuracy, name of the architecture
        elif not (isinstance(key, str) and key.startswith(_BESIDE)):
            raise Refused(
                f"beside {len(tensors)} tensors it holds {_shown(key)}, a "
                f"{type(value).__name__.strip('_')}; save model.state_dict() alone"
            )
    if not tensors:
        keys = ", ".join(_shown(k) for k in list(found)[:5])
        raise Refused(f"it holds no tensors (its keys: {keys or 'none'})")
    return tensors


def _shown(key: Any) -> str:
    """A key for messages; the text of a nested one could be of any length."""
    return repr(key[:40]) if isinstance(key, str) else f"a {type(key).__name__}"


def fail(path, reason: str) -> ConvertError:
    """The error for a torch file, in one line."""
    return ConvertError(f"cannot read {path} as a torch file: {' '.join(reason.split())[:300]}")
