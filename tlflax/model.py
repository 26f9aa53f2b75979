"""A classifier: a backbone cut at an endpoint, and a head."""

import copy
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tlflax import tree
from tlflax.architecture import Architecture as Architecture
from tlflax.backbones import inventory
from tlflax.backbones.chain import Chain
from tlflax.backbones.names import resolve_endpoint
from tlflax.backbones.spec import Spec
from tlflax.convert.load import take
from tlflax.convert.store import Weights, load_weights
from tlflax.errors import ConfigError, ConvertError
from tlflax.heads import Head
from tlflax.policy.checks import refuse_cutmix
from tlflax.policy.policy import Policy, apply_rules
from tlflax.policy.rules import Anatomy
from tlflax.policy.stage import Stage


class Classifier(nn.Module):
    """``backbone`` up to ``endpoint``, then ``head``.

    Attributes:
      backbone: the chain.
      head: the head.
      endpoint: layer at which the backbone is cut.
    """

    backbone: nn.Module
    head: nn.Module
    endpoint: str

    def __call__(
        self, x: jax.Array, *, start: str | None = None, train: bool = False, **inside: Any
    ) -> jax.Array:
        """Logits ``[B, classes]`` from images, or from the output of block ``start``.

        ``inside``: ``record`` and ``shift`` of `Chain`, for looking at its layers.
        """
        # The endpoint may lie inside a block, where a chain cannot start.
        if start != self.endpoint:
            x = self.backbone(x, start=start, stop=self.endpoint, train=train, **inside)
        return self.head(x, train=train)

    def features(self, x: jax.Array, *, stop: str | None = None) -> jax.Array:
        """Output of ``stop`` (default: the endpoint) with stored BatchNorm statistics."""
        return self.backbone(x, stop=stop or self.endpoint)


class Model:
    """A classifier's structure: names, shapes, policies. Holds no parameters.

    Args:
      architecture: what to build.

    Raises:
      ConfigError: unknown backbone, endpoint or head option, image too small.
    """

    def __init__(self, architecture: Architecture):
        self.spec: Spec = architecture.spec()
        size = architecture.image_size or self.spec.size
        if size < self.spec.min_size:
            raise ConfigError(
                f"image_size {size} is too small for {self.spec.name}: it needs at least "
                f"{self.spec.min_size} pixels"
            )
        architecture.check_head()
        # Of training; a run's own matter, and no part of the architecture.
        self.precision = "float32"
        # Weights that came in the same file as the network.
        self.brought: Weights | None = None
        self.chain: Chain = self.spec.chain()
        self.all_blocks, shapes = inventory.measure(self.chain, size)
        self.endpoint = resolve_endpoint(
            architecture.endpoint,
            [b.name for b in self.all_blocks],
            inventory.layer_to_block(self.all_blocks),
            self.spec.aliases,
            self.spec.name,
            self.spec.default_endpoint,
        )
        names = [b.name for b in self.all_blocks]
        if self.endpoint in names:
            self.blocks = self.all_blocks[: names.index(self.endpoint) + 1]
            kept = {b.name for b in self.blocks}
            shapes = {c: {k: v for k, v in x.items() if k in kept} for c, x in shapes.items()}
        else:  # a layer inside a block
            self.blocks, shapes = inventory.measure(self.chain, size, self.endpoint)
        self._backbone_shapes = {c: v for c, v in shapes.items() if v}
        self.architecture = dataclasses.replace(
            architecture, backbone=self.spec.name, endpoint=self.endpoint, image_size=size
        )

    def pretrained(self, weights: str, weights_dir: str | None = None) -> Weights | None:
        """Finds and converts weights: ``official``, ``none`` or a path.

        Raises:
          TlflaxError: not found, unreadable, or they do not fit.
        """
        if weights == "none":
            return None
        if self.brought is None:
            return load_weights(self.spec, self.chain, weights, weights_dir)
        if weights != "official":
            raise ConfigError(
                f"{self.spec.name} brings its own weights; leave weights at 'official', or 'none' "
                "for random ones"
            )
        return self.brought

    def with_classes(self, classes: tuple[str, ...]) -> "Model":
        """The same network for other classes; nothing below the head is traced again.

        Raises:
          ConfigError: the head is for another number of them.
        """
        other = copy.copy(self)
        other.architecture = dataclasses.replace(self.architecture, classes=tuple(classes))
        other.architecture.check_head()
        for name in ("abstract", "anatomy", "_initialise"):
            other.__dict__.pop(name, None)
        return other

    def resized(self, image_size: int) -> "Model":
        """The same network for another image size."""
        return Model(dataclasses.replace(self.architecture, image_size=image_size))

    def computing(self, precision: str) -> "Model":
        """The same network whose backbone computes in ``float32`` or ``bfloat16``.

        Variables are float32 all the same: `tlflax.train.step` casts them inside its functions.
        """
        other = copy.copy(self)
        other.precision = precision
        return other

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        return self.architecture.classes

    def module(self, live: frozenset[str] = frozenset(), *, remat: bool = False) -> Classifier:
        """The Linen module.

        Args:
          live: blocks that use batch statistics when training.
          remat: whether the backward pass recomputes each block (see `Chain`).
        """
        a = self.architecture
        head = Head(len(a.classes), a.head, tuple(a.hidden), a.dropout, a.activation, a.output)
        chain = Chain(self.chain.blocks, self.chain.contract, live, self.precision, remat)
        return Classifier(chain, head, self.endpoint)

    @functools.cached_property
    def abstract(self) -> dict:
        """Shapes of all variables: ``{"params": {...}, "batch_stats": {...}}``."""
        module = self.computing("float32").module()
        key, features = jax.random.key(0), jax.ShapeDtypeStruct(self._features, jnp.float32)
        # The backbone has been traced already.
        head = jax.eval_shape(lambda k, x: module.init(k, x, start=self.endpoint), key, features)
        found: dict[str, dict] = {"params": {}, "batch_stats": {}}
        for collection, leaves in self._backbone_shapes.items():
            found[collection] = {"backbone": leaves}
        for collection, leaves in head.items():
            found[collection] = {**found[collection], **leaves}
        return found

    @property
    def _features(self) -> tuple[int, ...]:
        """Shape of what the head gets, for one image."""
        return (1, *self.blocks[-1].shape)

    def init(self, seed: int, *, head_only: bool = False) -> dict:
        """Random variables (float32), the same for the same seed.

        Args:
          seed: of all values.
          head_only: leaves the backbone out (`load` brings it), which spares compiling the
            random numbers of every layer: 5-10 s. The head's values are the same.
        """
        key, size = jax.random.key(seed), self.architecture.image_size
        if head_only:
            features = jnp.zeros(self._features, jnp.float32)
            variables = self._initialise(key, features, start=self.endpoint)
        else:
            variables = self._initialise(key, jnp.zeros((1, size, size, 3), jnp.uint8))
        return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}

    @functools.cached_property
    def _initialise(self):
        # Kept, because the baseline starts from random values too and compiling takes seconds:
        # on CPU a quarter of them with little optimisation, to the same bits (glyph_cnn, jax
        # 0.10.2: 1.8 s of CPU time, not 7.9).
        little = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
        module = self.computing("float32").module()
        return jax.jit(module.init, static_argnames="start", compiler_options=little)

    def load(self, variables: Mapping, weights: Weights) -> dict:
        """Replaces the backbone of ``variables`` by pretrained weights, all of it.

        Raises:
          ConvertError: the weights do not fit.
        """
        target = {c: v["backbone"] for c, v in self.abstract.items() if "backbone" in v}
        try:
            taken = take(weights.variables, target, weights.source)
        except ConvertError as error:
            a = self.architecture
            if a.own is None or a.image_size == self.spec.size:
                raise
            raise ConfigError(
                f"image_size {a.image_size} does not fit {a.backbone} cut at {a.endpoint!r}, whose "
                f"weights are for {self.spec.size} pixels; use that, or an earlier endpoint"
            ) from error
        loaded = {c: dict(v) for c, v in variables.items()}
        for collection, leaves in taken.items():
            loaded.setdefault(collection, {})["backbone"] = jax.tree.map(jnp.asarray, leaves)
        return loaded

    @functools.cached_property
    def anatomy(self) -> Anatomy:
        """The names that rules can refer to."""
        names = [b.name for b in self.blocks]
        layers = inventory.layer_to_block(self.blocks)
        every = {b.name: None for b in self.all_blocks} | inventory.layer_to_block(self.all_blocks)
        above = [name for name in every if name not in names and name not in layers]
        return Anatomy(
            blocks=tuple(names),
            above=tuple(above),
            paths=tuple(tree.flatten(self.abstract["params"])),
            aliases=self.spec.aliases,
            layers=layers,
            endpoint=self.endpoint,
        )

    def policy(self, stage: Stage) -> Policy:
        """Applies a stage's rules.

        Raises:
          PolicyError: see `tlflax.policy.policy.apply_rules`, or cutmix has nothing to cut.
        """
        sizes = {
            c: {p: int(np.prod(v.shape)) for p, v in tree.flatten(self.abstract[c]).items()}
            for c in ("params", "batch_stats")
        }
        policy = apply_rules(
            stage.train, self.anatomy, sizes["params"], sizes["batch_stats"], stage.bn
        )
        if stage.cutmix and policy.boundary is not None:
            refuse_cutmix(stage, policy.boundary, self.shape_at(policy.boundary))
        return policy

    def averaged(self, boundary: str) -> bool:
        """Whether frozen features at a boundary are averages: all that a pooling head reads."""
        return boundary == self.endpoint and self.architecture.head == "gap"

    def shape_at(self, boundary: str) -> tuple[int, ...]:
        """Shape of the features of one image that a step above a boundary begins with."""
        shapes = {b.name: b.shape for b in self.blocks}
        # A cut inside a block is the last entry under the block's name.
        shape = shapes.get(boundary, self.blocks[-1].shape)
        return shape[-1:] if self.averaged(boundary) else shape
