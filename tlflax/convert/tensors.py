"""safetensors files of ours: variables by slash-joined path, facts as JSON in the metadata."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tlflax import tree
from tlflax.atomic import replacing
from tlflax.errors import ConvertError


def save_variables(path: Path, variables: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Writes ``{"params": ..., "batch_stats": ...}`` atomically.

    Args:
      path: destination; its folder is made.
      variables: nested dicts of arrays.
      facts: JSON-able; each value becomes one metadata entry.
    """
    from safetensors.numpy import save

    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {p: np.ascontiguousarray(a) for p, a in tree.flatten(variables).items()}
    metadata = {"format": "tlflax"} | {k: json.dumps(v) for k, v in sorted(facts.items())}
    # safetensors writes metadata in the order of a hash map, another one each time; the header is
    # written here (its length in 8 bytes, JSON padded to 8), so that equal content is equal bytes.
    plain = save(arrays)
    end = 8 + int.from_bytes(plain[:8], "little")
    header = {"__metadata__": metadata} | json.loads(plain[8:end])
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.write(memoryview(plain)[end:])


def read_facts(path: Path) -> dict[str, Any]:
    """Reads the metadata alone.

    Raises:
      ConvertError: not a safetensors file, or not one of ours.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ConvertError(
            f"cannot read {path} as safetensors: {error}. It may be truncated: copy it again"
        ) from error
    if metadata.get("format") != "tlflax":
        raise ConvertError(
            f"{path} is a safetensors file of another program; convert the original weight file "
            "with `python -m tlflax.convert`"
        )
    return {k: json.loads(v) for k, v in metadata.items() if k != "format"}


def is_ours(path: Path) -> bool:
    """Whether a safetensors file was written by `save_variables`; also if it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            return (file.metadata() or {}).get("format") == "tlflax"
    except (SafetensorError, OSError):
        return True  # whoever reads it next says what is wrong with it


def load_variables(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads variables and facts.

    Raises:
      ConvertError: see `read_facts`.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    facts = read_facts(path)
    try:
        arrays = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ConvertError(f"cannot read {path} as safetensors: {error}") from error
    return tree.unflatten({k: v.astype(np.float32) for k, v in arrays.items()}), facts
