"""Whole Keras models, without Keras: `.h5`, `.keras`.

HDF5 (Keras 1 to 3): the attribute ``model_config`` is the network as JSON, the group
``model_weights`` has a group per layer. A model inside the model is *one* group with all its
weights. A `.keras` file is a zip with ``config.json`` and ``model.weights.h5``.
"""

import dataclasses
import io
import json
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tlflax.convert import hdf5
from tlflax.convert.keras_weights import by_class_path, by_layer_group
from tlflax.errors import ConvertError, listing

Layered = dict[str, dict[str, np.ndarray]]

# The largest config of a Keras application is 1 MB; Keras stores its archives uncompressed.
_TEXT, _ARCHIVE, _EXPANSION = 1 << 26, 1 << 28, 100


@dataclasses.dataclass(frozen=True)
class KerasModel:
    """A Keras model as it was saved.

    Attributes:
      config: ``{"class_name": ..., "config": ...}`` as Keras serialises a model.
      weights: layer path -> weight kind -> array. The path leads through nested models
        (``outer/inner``) and does not name the model itself; kinds are those of Keras (kernel,
        bias, gamma, moving_mean, ...), a depthwise kernel always being ``depthwise_kernel``.
      version: of Keras, e.g. ``2.4.0``; empty if the file does not say.
    """

    config: dict[str, Any]
    weights: Layered
    version: str = ""


def read_keras_model(path: Path) -> KerasModel:
    """Reads a whole model from `.h5`, `.hdf5` or `.keras`.

    Raises:
      ConvertError: damaged, hostile, or weights without a model.
    """
    try:
        return _read_archive(path) if path.suffix == ".keras" else _read_hdf5(path)
    except ConvertError as error:
        if path.name in str(error):
            raise
        raise ConvertError(f"{path}: {error}") from error


def _read_hdf5(path: Path) -> KerasModel:
    with hdf5.opened(path, str(path)) as file:
        if "model_config" not in file.attrs:
            raise ConvertError(
                f"{path} has no model_config: it holds weights alone. Save the whole model "
                "(model.save), or name the zoo network they belong to"
            )
        config = read_config(hdf5.text(file.attrs["model_config"]), path.name)
        root = hdf5.member(file, "model_weights")
        # Keras 1 wrote none into the group.
        version = hdf5.text(root.attrs.get("keras_version", file.attrs.get("keras_version", "1")))
        return KerasModel(config, by_layer_group(config, root, path.name), version)


def read_config(text: str, what: str) -> dict[str, Any]:
    """Parses a model's JSON.

    Raises:
      ConvertError: not the JSON of a model.
    """
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConvertError(f"{what}: the model's configuration is no JSON: {error}") from error
    if not isinstance(config, dict) or not {"class_name", "config"} <= set(config):
        raise ConvertError(f"{what}: its configuration is not that of a Keras model")
    return config


def _read_archive(path: Path) -> KerasModel:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {i.filename: i for i in archive.infolist()}
            _check_entries(entries, path)
            config = read_config(_entry(archive, entries, "config.json", path).decode(), path.name)
            about = {}
            if "metadata.json" in entries:
                about = json.loads(_entry(archive, entries, "metadata.json", path))
            weights = io.BytesIO(_entry(archive, entries, "model.weights.h5", path))
    except ConvertError:
        raise
    except (zipfile.BadZipFile, OSError, EOFError, zlib.error, RuntimeError, ValueError) as error:
        # RuntimeError: encrypted, or an unknown compression; ValueError: no JSON, no UTF-8.
        raise ConvertError(
            f"cannot read {path} as a .keras file: {error}. It may be truncated or of another "
            "kind: download it again and compare its size"
        ) from error
    with hdf5.opened(weights, f"model.weights.h5 in {path}") as file:
        arrays = hdf5.arrays_below(file, skip=("optimizer",))
        layered = by_class_path(config, arrays, path.name)
    version = about.get("keras_version", "3") if isinstance(about, dict) else "3"
    return KerasModel(config, layered, str(version))


def _check_entries(entries: dict[str, zipfile.ZipInfo], path: Path) -> None:
    """Nothing is unpacked to disk here; still, an archive that tries to is not worth reading."""
    for name, entry in entries.items():
        parts = PurePosixPath(name.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or ":" in name.split("/")[0]:
            raise ConvertError(f"{path}: its entry {name!r} leads out of the archive; not read")
        limit = max(_ARCHIVE, _EXPANSION * entry.compress_size)
        if entry.file_size > (_TEXT if name.endswith(".json") else limit):
            raise ConvertError(
                f"{path}: its entry {name!r} unpacks to {entry.file_size:,} bytes from "
                f"{entry.compress_size:,}; not read"
            )


def _entry(archive: zipfile.ZipFile, entries: dict, name: str, path: Path) -> bytes:
    if name not in entries:
        raise ConvertError(
            f"{path} is a zip without {name}, so it is no Keras model; it has "
            f"{listing(entries, 6) or 'nothing'}"
        )
    with archive.open(name) as file:
        # The size in the directory can lie; not more than it says is unpacked.
        data = file.read(entries[name].file_size + 1)
    if len(data) != entries[name].file_size:
        raise ConvertError(f"{path}: its entry {name!r} is not of the size that it claims")
    return data
