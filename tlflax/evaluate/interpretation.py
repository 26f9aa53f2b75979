"""Looking inside a classifier: the outputs of its layers, and where it found a class.

Layers are asked for by the names that `python -m tlflax.zoo NAME` lists: blocks, their aliases, and
the layers inside them. Images are evaluated as in a prediction: stored BatchNorm statistics, no
dropout, no augmentation, float32.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tlflax.backbones.names import group
from tlflax.errors import ConfigError, listing, suggest
from tlflax.model import Model

Shape = tuple[int, ...]
Classes = int | str | Sequence[int | str] | np.ndarray | None


@dataclasses.dataclass(frozen=True, eq=False)
class GradCam:
    """Where N images speak for a class, at one endpoint with an h x w map.

    Attributes:
      endpoint: name of the layer.
      classes: int32 [N], the class that was asked about.
      heat: float32 [N, h, w], not below 0: how much the activations at each position raise the
        logit of that class; all zero where none does. Not scaled: maps of different images can
        be compared.
      probabilities: float32 [N, K], what the classifier says of each image.
      pixels: uint8 [N, S, S, 3], the images as the network sees them.
      outputs: name of a further layer -> float32 [...], its output for the first image.
    """

    endpoint: str
    classes: np.ndarray
    heat: np.ndarray
    probabilities: np.ndarray
    pixels: np.ndarray
    outputs: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


def is_map(shape: Shape) -> bool:
    """Whether an output without batch is a map ``(H, W, C)`` of more than one position."""
    return len(shape) == 3 and shape[0] * shape[1] > 1


def _groups(blocks: Sequence[str]) -> list[str]:
    """Blocks and the prefixes by which they are called: block5_pool, block5."""
    parts = [block.split("_") for block in blocks]
    return [*blocks, *("_".join(p[:i]) for p in parts for i in range(len(p) - 1, 0, -1))]


class Lens:
    """Looks at the layers of one classifier; compiled functions are kept.

    Args:
      model: structure.
      variables: of the whole classifier.
      batch_size: images that are computed together.
    """

    def __init__(self, model: Model, variables: dict[str, Any], batch_size: int = 16):
        self.model, self._variables, self._batch_size = model, variables, batch_size
        self._module = model.computing("float32").module()
        self._compiled: dict[tuple, Callable] = {}
        head = variables["params"].get("head", {}).get("logits", {})
        # One unit z for two classes: its logits are (0, z), so class 0 is told by -z.
        self._one_unit = "bias" in head and head["bias"].shape[0] < len(model.classes)

    @functools.cached_property
    def shapes(self) -> dict[str, Shape]:
        """Name of each layer up to the cut -> shape of its output without batch, in order."""
        return {
            layer: shape
            for block in self.model.blocks
            for layer, shape in zip(block.layers, block.layer_shapes, strict=True)
        }

    @functools.cached_property
    def maps(self) -> list[str]:
        """Blocks up to the cut whose output is a map, in order; a cut inside a block is one."""
        names = dict.fromkeys([*(b.name for b in self.model.blocks), self.model.endpoint])
        return [n for n in names if n in self.shapes and is_map(self.shapes[n])]

    def spread(self) -> list[str]:
        """An early, a middle and the last block with a map, or as many as there are.

        The early one is the first with parameters: paddings and scalings before it show the image.
        Where no block has a map, layers inside them stand in (the patches of a transformer).
        """
        weighted = {b.name for b in self.model.blocks if b.parameters}
        first = next((i for i, name in enumerate(self.maps) if name in weighted), 0)
        found = self.maps[first:] or self._layer_maps
        ends = [0, len(found) // 2, len(found) - 1] if found else []
        return list(dict.fromkeys(found[i] for i in ends))

    @property
    def _layer_maps(self) -> list[str]:
        return [layer for layer, shape in self.shapes.items() if is_map(shape)]

    def resolve(self, name: str) -> str:
        """The layer that a name means: a block, an alias, a group such as ``block5``, a layer.

        Raises:
          ConfigError: there is no such layer, or it lies above the cut.
        """
        if name == "auto":
            return self.model.endpoint
        blocks = [b.name for b in self.model.blocks]
        wanted = self.model.spec.aliases.get(name, name)
        if wanted in self.shapes:
            return wanted
        # A cut inside a block leaves the block's name without an output.
        if found := [b for b in group(wanted, blocks) if b in self.shapes]:
            return found[-1]
        every = [layer for b in self.model.all_blocks for layer in (b.name, *b.layers)]
        if wanted in every or group(wanted, every):
            raise ConfigError(
                f"endpoint {name!r} lies above the cut at {self.model.endpoint!r}: this classifier "
                f"ends there (it has {listing(blocks[-4:])})"
            )
        valid = [*_groups(blocks), *self.shapes, *self.model.spec.aliases]
        raise ConfigError(
            f"unknown endpoint {name!r} of {self.model.spec.name}{suggest(name, valid)} "
            f"(blocks: {listing(blocks)})"
        )

    def resolve_map(self, name: str = "auto") -> str:
        """The layer whose output is a map.

        Args:
          name: ``auto`` is the last block that has one.

        Raises:
          ConfigError: it has none; the message says which do.
        """
        if name == "auto" and self.maps:
            return self.maps[-1]
        layer = self.resolve(name)
        if is_map(self.shapes[layer]):
            return layer
        maps = self.maps or self._layer_maps
        shape = "x".join(map(str, self.shapes[layer]))
        have = f"; these have: {listing(maps[::-1])}" if maps else "; no layer of it has one"
        raise ConfigError(
            f"endpoint {layer!r} of {self.model.spec.name} has no map of positions "
            f"(its output is {shape}){have}"
        )

    def activations(self, pixels: np.ndarray, endpoints: Sequence[str]) -> dict[str, np.ndarray]:
        """Outputs of layers, from one pass.

        Args:
          pixels: uint8 [N, S, S, 3] at the network's size.
          endpoints: names.

        Returns:
          Name -> float32 [N, ...]; ``auto`` stands under the name of the layer that it means.

        Raises:
          ConfigError: there is no such layer.
        """
        names = {n if n != "auto" else self.model.endpoint: self.resolve(n) for n in endpoints}
        layers = tuple(dict.fromkeys(names.values()))

        def outputs(variables: Any, images: jax.Array) -> dict[str, jax.Array]:
            record: dict[str, jax.Array] = {}
            self._module.apply(variables, images, record=record)
            # What no one asked for, the compiler drops.
            return {layer: record[layer].astype(jnp.float32) for layer in layers}

        run = self._keep(("activations", layers), outputs)
        parts = [
            {k: np.asarray(v)[:rows] for k, v in run(self._variables, batch).items()}
            for batch, rows in self._batches(pixels)
        ]
        return {n: np.concatenate([p[layer] for p in parts]) for n, layer in names.items()}

    def grad_cam(
        self,
        pixels: np.ndarray,
        endpoint: str = "auto",
        classes: Classes = None,
        also: Sequence[str] = (),
    ) -> GradCam:
        """Grad-CAM (Selvaraju et al., arXiv:1610.02391).

        The gradient of the class's logit (before the softmax) with respect to the endpoint's
        output is averaged over positions; with these weights the channels are added up, and what
        is below zero is cut. A head of one sigmoid unit z has z for class 1, and -z for class 0.

        Args:
          pixels: uint8 [N, S, S, 3] at the network's size.
          endpoint: name of a layer whose output is a map; ``auto`` is the last such block.
          classes: for all images one label or name, or one each; default: the predicted ones.
          also: names of further layers whose outputs for the first image come along.

        Raises:
          ConfigError: there is no such layer or class, or the layer has no map.
        """
        layer = self.resolve_map(endpoint)
        further = tuple(self.resolve(name) for name in also)
        asked = self._labels(classes, len(pixels))
        run = self._keep(("cam", layer, further), functools.partial(self._cam, layer, further))
        found: list[tuple[np.ndarray, ...]] = []
        outputs: dict[str, np.ndarray] = {}
        for first, (batch, rows) in enumerate(self._batches(pixels)):
            mine = np.full(len(batch), -1, np.int32)
            mine[:rows] = asked[first * len(batch) :][:rows]
            *parts, inner = run(self._variables, batch, mine)
            found.append(tuple(np.asarray(v)[:rows] for v in parts))
            outputs = outputs or {k: np.asarray(inner[k]) for k in further}
        heat, labels, probabilities = (np.concatenate(part) for part in zip(*found, strict=True))
        return GradCam(layer, labels, heat, probabilities, np.asarray(pixels), outputs)

    def _cam(
        self,
        layer: str,
        further: tuple[str, ...],
        variables: Any,
        images: jax.Array,
        asked: jax.Array,
    ):
        """Heat [B, h, w], labels [B], probabilities [B, K]; ``asked`` is -1 for the predicted.

        Last the outputs [...] of further layers for the first image.
        """

        def score(shift: jax.Array):
            record: dict[str, jax.Array] = {}
            logits: Any = self._module.apply(variables, images, shift={layer: shift}, record=record)
            labels = jnp.where(asked < 0, logits.argmax(-1), asked)
            own = jnp.take_along_axis(logits, labels[:, None], -1)[:, 0]
            if self._one_unit:
                own = jnp.where(labels == 1, own, -logits[:, 1])
            # Images do not see each other, so the gradient of the sum is each one's own.
            inner = {name: record[name][0].astype(jnp.float32) for name in further}
            return own.sum(), (record[layer], labels, jax.nn.softmax(logits), inner)

        zeros = jnp.zeros((len(images), *self.shapes[layer]), jnp.float32)
        gradient, (outputs, labels, probabilities, inner) = jax.grad(score, has_aux=True)(zeros)
        weights = gradient.mean((1, 2), keepdims=True)
        heat = jax.nn.relu((weights * outputs).sum(-1))
        return heat, labels.astype(jnp.int32), probabilities, inner

    def _labels(self, classes: Classes, n: int) -> np.ndarray:
        """int32 [N], -1 for the predicted class."""
        names = self.model.classes
        if classes is None:
            return np.full(n, -1, np.int32)
        single = isinstance(classes, int | str | np.integer)
        given = [classes] * n if single else list(classes)  # pyright: ignore
        if len(given) != n:
            raise ConfigError(f"{len(given)} classes for {n} images: give one, or one for each")
        labels = []
        for value in given:
            if isinstance(value, str):
                if value not in names:
                    hint = suggest(value, names)
                    raise ConfigError(f"no class {value!r}{hint} (classes: {listing(names)})")
                value = names.index(value)
            if not 0 <= int(value) < len(names):
                raise ConfigError(f"no class {value} (0..{len(names) - 1}: {listing(names)})")
            labels.append(int(value))
        return np.array(labels, np.int32)

    def _keep(self, key: tuple, function: Callable) -> Callable:
        if key not in self._compiled:
            self._compiled[key] = jax.jit(function)
        return self._compiled[key]

    def _batches(self, pixels: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
        """Yields images and how many of them are real: all batches have the same shape."""
        rows = min(self._batch_size, len(pixels))
        for first in range(0, len(pixels), rows):
            part = pixels[first : first + rows]
            padded = np.zeros((rows, *pixels.shape[1:]), np.uint8)
            padded[: len(part)] = part
            yield padded, len(part)
