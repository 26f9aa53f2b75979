"""What stored features depend on. Two runs share rows if and only if all of it is equal."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from tlflax import tree
from tlflax.backbones.chain import BlockDef
from tlflax.model import Model
from tlflax.train.state import above
from tlflax.versions import versions_of

# Raised when the same weights and pixels would give other numbers than before.
_FORMAT = 1
# What decodes and resizes the images, and what computes.
_PACKAGES = ("tlflax", "jax", "pillow", "opencv-python-headless")


def below(
    variables: Mapping[str, Any], boundary: str, blocks: tuple[str, ...]
) -> dict[str, tree.Flat]:
    """Leaves of the frozen prefix: ``{"params": ..., "batch_stats": ...}``, flat."""
    found = {}
    for collection, leaves in variables.items():
        flat = tree.flatten(leaves)
        kept = above(flat, boundary, blocks)
        found[collection] = {p: v for p, v in flat.items() if p not in kept}
    return found


def identify(
    model: Model,
    boundary: str,
    weights: str,
    pooled: bool,
    dtype: str,
    precision: str = "float32",
) -> tuple[str, dict[str, Any]]:
    """Name of the store of a frozen prefix, and the facts that the name is a hash of.

    Args:
      model: structure.
      boundary: last block of the prefix.
      weights: digest of its leaves.
      pooled: whether rows are averages over the map.
      dtype: of the stored rows.
      precision: in which the prefix is computed.
    """
    names = tuple(model.anatomy.blocks)
    upto = names.index(boundary) + 1 if boundary in names else len(names)
    blocks = structure(model.chain.blocks[:upto])
    facts = {
        "format": _FORMAT,
        "backbone": model.spec.name,
        "boundary": boundary,
        "pooled": pooled,
        "image_size": model.architecture.image_size,
        "contract": dataclasses.asdict(model.spec.contract),
        "weights": weights,
        "blocks": hashlib.sha256(blocks.encode()).hexdigest(),
        "dtype": dtype,
        "precision": precision,
        "platform": jax.default_backend(),
        "versions": versions_of(*_PACKAGES),
    }
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32], facts


def structure(blocks: Sequence[BlockDef]) -> str:
    """What the blocks compute, as text that is the same in every process."""
    parts = [[b.name, f"{b.cls.__module__}.{b.cls.__qualname__}", b.options] for b in blocks]
    # Options may be functions (activations), whose own text has an address in it.
    return json.dumps(parts, default=lambda value: value.__name__)


def image_key(content_hash: str) -> bytes:
    """Key of an unchanged image, from the SHA-256 (hex) of its encoded bytes."""
    return bytes.fromhex(content_hash)


def view_key(content_hash: str, augment: str, view: int) -> bytes:
    """Key of the ``view``-th augmented version of an image."""
    return hashlib.sha256(f"{content_hash}|{augment}|{view}".encode()).digest()
