"""Finding blocks by the names people use for them.

Accepted, in this order: a block name (`block5_pool`, `block_13_project_BN`), an alias of the
spec, a group prefix (`block5` = all blocks `block5_*`, `block_13` = `block_13_project_BN`), the
name of a layer inside a block (`block_13_expand_relu`).
"""

from collections.abc import Mapping, Sequence

from tlflax.errors import ConfigError, suggest


def group(name: str, blocks: Sequence[str]) -> list[str]:
    """Blocks whose name is ``name`` or begins with ``name_``: ``block_1`` never means block_13."""
    return [b for b in blocks if b == name or b.startswith(f"{name}_")]


def resolve_endpoint(
    name: str,
    blocks: Sequence[str],
    layers: Mapping[str, str],
    aliases: Mapping[str, str],
    backbone: str,
    default: str = "",
) -> str:
    """Returns the layer at which to cut.

    Args:
      name: what the user wrote; ``auto`` means ``default``.
      blocks: block names in order.
      layers: layer name -> block that contains it.
      aliases: other names -> block names.
      backbone: zoo name, for the message.
      default: the network's own default endpoint; empty for the last block.

    Raises:
      ConfigError: no such endpoint; the message has the nearest names.
    """
    if name in ("auto", "last", ""):
        return default or blocks[-1]
    name = aliases.get(name, name)
    if name in layers:
        return name
    found = group(name, blocks)
    if found:
        return found[-1]
    raise ConfigError(
        f"unknown endpoint {name!r} for {backbone}{suggest(name, [*blocks, *layers])} "
        f"(`python -m tlflax.zoo {backbone}` lists them)"
    )
