"""Where a report looks into the network; known before anything is trained."""

from collections.abc import Callable, Sequence
from typing import Any

from tlflax.errors import ConfigError
from tlflax.evaluate.interpretation import Lens
from tlflax.model import Model

Places = dict[str, dict[str, Any]]


def where_to_look(
    model: Model, look_at: str | Sequence[str] = (), grad_cam: str = "auto"
) -> Places:
    """The layers of a report's pictures.

    Args:
      model: structure.
      look_at: layers or blocks whose outputs are shown; none for three blocks with a map, from an
        early one to the last.
      grad_cam: layer or block; ``auto`` is the last block with a map.

    Returns:
      The report's entries ``activations``, with ``layers``, and ``grad_cam``, with ``endpoint``;
      each with the ``reason`` where there is none, which is ``None`` where there is.

    Raises:
      ConfigError: there is no such layer, it lies above the cut, or Grad-CAM's has no map.
    """
    lens = Lens(model, {"params": {}})  # names and shapes need no values
    names = [look_at] if isinstance(look_at, str) else list(look_at)
    layers = [_resolve("look_at", name, lens.resolve) for name in names] or lens.spread()
    reason = None if layers else f"no layer of {model.spec.name} has a map of positions"
    return {
        "activations": {"layers": list(dict.fromkeys(layers)), "reason": reason},
        "grad_cam": _grad_cam(lens, grad_cam),
    }


def _grad_cam(lens: Lens, name: str) -> dict[str, str | None]:
    if name != "auto":
        return {"endpoint": _resolve("grad_cam", name, lens.resolve_map), "reason": None}
    try:
        return {"endpoint": lens.resolve_map(), "reason": None}
    except ConfigError as error:
        return {"endpoint": None, "reason": str(error)}


def _resolve(key: str, name: Any, resolve: Callable[[str], str]) -> str:
    if not isinstance(name, str):
        raise ConfigError(f"{key}: the name of a layer or block is a text, got {name!r}")
    try:
        return resolve(name)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from error
