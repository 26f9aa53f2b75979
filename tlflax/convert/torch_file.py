"""Reads torch's weight files without torch: all forms of `torch.save`, and safetensors.

`torch.save` has written three forms: today's zip archives (``NAME/data.pkl`` and one member
``NAME/data/KEY`` per storage); until torch 1.6, pickles one after the other (magic number,
protocol, facts on the system, the object, storage keys) with the storages behind; and, before
0.2, tar archives (``storages``, ``tensors``, ``pickle``). Nothing of a pickle is ever run, see
`tlflax.convert.torch_pickle`.
"""

import functools
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from tlflax.convert.torch_pickle import (
    BFLOAT16,
    Refused,
    Storage,
    StorageType,
    Tensor,
    fail,
    load,
    state_of,
    widened,
)
from tlflax.errors import ConvertError

_MAGIC = 0x1950A86A20F9469CFC6C
# Prefixes of wrappers: DataParallel's, torch.compile's, and Lightning's attribute.
_PREFIXES = ("module.", "_orig_mod.", "model.")
# safetensors' names of the dtypes.
_SAFETENSORS = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": BFLOAT16,
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}


def read_torch(path: Path) -> dict[str, np.ndarray]:
    """Reads the state dict of a file written by `torch.save`.

    Args:
      path: of any name; the first bytes tell the form.

    Returns:
      Arrays by parameter name, in file order; ``module.`` in front of all names is taken away,
      bfloat16 is widened to float32, other dtypes are as stored.

    Raises:
      ConvertError: damaged, not of torch, or not made of tensors alone.
    """
    try:
        with open(path, "rb") as file:
            start, size = file.read(512), path.stat().st_size
            file.seek(0)
            if start.startswith(b"PK"):
                arrays = _read_zip(file, size)
            elif start[257:262] == b"ustar":
                arrays = _read_tar(file, size)
            else:
                arrays = _read_legacy(file, size)
    except Refused as error:
        raise fail(path, str(error)) from error
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, tarfile.TarError) as error:
        raise fail(path, f"{error}. It may be truncated: copy it again") from error
    except (struct.error, ValueError, TypeError, LookupError, RuntimeError) as error:
        raise fail(path, f"damaged ({error}). Copy it again") from error
    return _unprefixed(arrays)


def _unprefixed(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    def shared() -> str:
        return next((p for p in _PREFIXES if all(n.startswith(p) for n in arrays)), "")

    while arrays and (prefix := shared()):
        arrays = {name.removeprefix(prefix): array for name, array in arrays.items()}
    return arrays


def _resolved(found: Any, size: int) -> dict[str, np.ndarray]:
    tensors = state_of(found)
    # Tensors may share stored numbers, but not so that a small file fills the memory.
    claimed = sum(tensor.size() for tensor in tensors.values())
    if claimed > size:
        raise Refused(f"its tensors claim {claimed:,} numbers, the file has {size:,} bytes")
    return {name: tensor.read() for name, tensor in tensors.items()}


# --- zip


def _read_zip(file: IO[bytes], size: int) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        root = _checked_root(archive, size)
        members = set(archive.namelist())
        order = "little"
        if f"{root}byteorder" in members:
            order = archive.read(f"{root}byteorder").decode("latin1")

        @functools.cache
        def storage(dtype: np.dtype, key: str, numel: int) -> Storage:
            name = f"{root}data/{key}"
            if name not in members:
                raise Refused(f"its stored numbers {name} are missing")
            if archive.getinfo(name).file_size != numel * dtype.itemsize:
                raise Refused(f"its stored numbers {name} are of another length")

            @functools.cache
            def fetch() -> np.ndarray:
                data = np.frombuffer(archive.read(name), dtype)
                return data.byteswap() if order == "big" else data

            return Storage(dtype, numel, fetch)

        def tensor_of(pid: Any) -> Storage:
            dtype, key, numel = _storage_id(pid)
            return storage(dtype, key, numel)

        with archive.open(f"{root}data.pkl") as pickled:
            return _resolved(load(pickled, tensor_of), size)


def _checked_root(archive: zipfile.ZipFile, size: int) -> str:
    """The folder that all members lie in, with its slash.

    Raises:
      Refused: this is no plain archive of `torch.save`. Members are never written to disk, but
        whoever made such names or sizes meant no good.
    """
    names = archive.namelist()
    for name in names:
        if name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/"):
            raise Refused(f"its member {name[:80]!r} points outside the archive")
    claimed = sum(member.file_size for member in archive.infolist())
    if claimed > size:
        raise Refused(
            f"its members claim {claimed:,} bytes, the file has {size:,}; torch.save does not "
            "compress"
        )
    roots = {n[: -len("data.pkl")] for n in names if n.endswith("/data.pkl") and n.count("/") == 1}
    if len(roots) != 1:
        raise Refused(f"a zip archive without data.pkl (it has {', '.join(names[:4])})")
    (root,) = roots
    if f"{root}constants.pkl" in names or any(n.startswith(f"{root}code/") for n in names):
        raise Refused(
            "a TorchScript archive, which is a program; save the model's state_dict() with "
            "torch.save instead"
        )
    return root


def _storage_id(pid: Any) -> tuple[np.dtype, str, int]:
    """dtype, key and length from ``("storage", class, key, device, numel, ...)``."""
    if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage"):
        if isinstance(pid, tuple) and pid[:1] == ("module",):
            raise Refused("it holds a whole pickled model; save model.state_dict() instead")
        raise Refused("its pickle points to something else than stored numbers")
    _, kind, key, _, numel = pid[:5]
    known = isinstance(kind, StorageType) and isinstance(key, (str, int))
    if not known or not isinstance(numel, int) or numel < 0:
        raise Refused("its pickle describes its stored numbers wrongly")
    return kind.dtype, str(key), numel


# --- pickles one after the other


def _read_legacy(file: IO[bytes], size: int) -> dict[str, np.ndarray]:
    if file.read(1) != b"\x80":
        raise Refused("it does not begin like one; was a web page saved in its place?")
    file.seek(0)
    if load(file) != _MAGIC:
        raise Refused("a pickle, but not of torch.save (no magic number)")
    load(file)  # protocol version, 1001 ever since
    system = load(file)
    if isinstance(system, dict) and not system.get("little_endian", True):
        raise Refused("written on a big-endian machine")
    stored: dict[str, np.ndarray] = {}
    dtypes: dict[str, np.dtype] = {}

    def tensor_of(pid: Any) -> Storage:
        dtype, key, numel = _storage_id(pid)
        if dtypes.setdefault(key, dtype) != dtype:
            raise Refused(f"its stored numbers {key} are of two kinds")
        view = pid[5] if len(pid) > 5 else None
        if view is None:
            return Storage(dtype, numel, lambda: stored[key])
        _, offset, count = view
        if not 0 <= offset <= offset + count <= numel:
            raise Refused(f"a part of its stored numbers {key} reaches beyond them")
        return Storage(dtype, count, lambda: stored[key][offset : offset + count])

    found = load(file, tensor_of)
    keys = load(file)
    if not isinstance(keys, list) or {str(k) for k in keys} != set(dtypes):
        raise Refused("its list of stored numbers does not match its tensors")
    for key in map(str, keys):
        stored[key] = _stored(file, dtypes[key], size)
    return _resolved(found, size)


def _stored(file: IO[bytes], dtype: np.dtype, limit: int) -> np.ndarray:
    """Numbers behind their count (int64)."""
    (numel,) = struct.unpack("<q", file.read(8))
    if not 0 <= numel * dtype.itemsize <= limit:
        raise Refused(f"it claims {numel:,} numbers, more than the file has bytes for")
    data = file.read(numel * dtype.itemsize)
    if len(data) < numel * dtype.itemsize:
        raise Refused("it ends too early. It may be truncated: copy it again")
    return np.frombuffer(data, dtype)


# --- tar


def _read_tar(file: IO[bytes], size: int) -> dict[str, np.ndarray]:
    with tarfile.open(fileobj=file, mode="r:") as archive:

        def member(name: str) -> IO[bytes]:
            try:
                info = archive.getmember(name)
                opened = archive.extractfile(info) if info.isfile() else None
            except KeyError:
                opened = None
            if opened is None:
                raise Refused(f"a tar archive without {name!r}, so not one of torch.save")
            return opened

        storages = member("storages")
        stored: dict[Any, Storage] = {}
        for _ in range(load(storages)):
            key, _, kind = load(storages)
            if not isinstance(kind, StorageType):
                raise Refused("its stored numbers are of an unknown kind")
            data = _stored(storages, kind.dtype, size)
            stored[key] = Storage(data.dtype, data.size, functools.partial(np.asarray, data))
        for key, root, offset, count in load(storages):
            data = stored[root].fetch()[offset : offset + count]
            stored[key] = Storage(data.dtype, data.size, functools.partial(np.asarray, data))
        tensors = member("tensors")
        made: dict[int, Tensor] = {}
        for _ in range(load(tensors)):
            key, storage, _ = load(tensors)
            # The number of axes takes four bytes; the four behind it are unused.
            (axes,) = struct.unpack("<i4x", tensors.read(8))
            if not 0 <= axes <= 32:
                raise Refused(f"a tensor with {axes} axes")
            numbers = struct.unpack(f"<{2 * axes + 1}q", tensors.read(8 * (2 * axes + 1)))
            shape, strides = numbers[:axes], numbers[axes:-1]
            made[int(key)] = Tensor(stored[storage], numbers[-1], shape, strides)

        def tensor_of(pid: Any) -> Tensor:
            if isinstance(pid, tuple) or int(pid) not in made:
                raise Refused("it holds a whole pickled model; save model.state_dict() instead")
            return made[int(pid)]

        return _resolved(load(member("pickle"), tensor_of), size)


# --- safetensors


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a safetensors file of another program (timm, Hugging Face).

    Returns:
      As `read_torch`.

    Raises:
      ConvertError: damaged, or of a dtype that is not read.
    """
    from safetensors import SafetensorError, deserialize

    try:
        found = deserialize(path.read_bytes())
    except (SafetensorError, OSError) as error:
        raise ConvertError(
            f"cannot read {path} as safetensors: {error}. It may be truncated: copy it again"
        ) from error
    arrays = {}
    for name, entry in found:
        kind = entry["dtype"]
        if kind not in _SAFETENSORS:
            raise ConvertError(f"cannot read {path}: {name} is of type {kind}")
        numbers = np.frombuffer(entry["data"], _SAFETENSORS[kind])
        arrays[name] = widened(numbers.reshape(entry["shape"]))
    return _unprefixed(arrays)
