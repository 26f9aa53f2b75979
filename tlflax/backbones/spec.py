"""What is known about a network besides its layers: contract, origin, licence. No jax here."""

import dataclasses
import importlib
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tlflax.backbones.chain import Chain


@dataclasses.dataclass(frozen=True)
class Contract:
    """How pixels must reach the network; it belongs to the weights, not to the user's pipeline.

    The pipeline delivers RGB uint8 ``[B, H, W, 3]``; the chain computes
    ``(x[..., order] * scale - mean) / std`` once, inside the model.

    Attributes:
      order: ``RGB``, ``BGR``, or ``L`` (luma; one channel).
      scale: factor applied to 0..255 first.
      mean: per channel, in scaled units, in the order given by ``order``.
      std: per channel, in scaled units.
      method: resize interpolation, ``nearest``, ``bilinear`` or ``bicubic``.
      antialias: whether downscaling averages over source pixels (PIL) or samples (TF default).
      fit: ``squash`` (whole image, aspect ratio lost) or ``crop`` (shorter side, centre crop).
      crop_fraction: for ``crop``: side of the crop over the resized shorter side.
    """

    order: str = "RGB"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    method: str = "bilinear"
    antialias: bool = True
    fit: str = "squash"
    crop_fraction: float = 1.0

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> "Contract":
        """The contract from its fields as JSON gives them back."""
        known: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()
        }
        return cls(**known)

    def sentence(self) -> str:
        """One line for people: ``RGB, x * 0.00784 - (1, 1, 1), ...``."""
        resize = f"{self.method}{', antialiased' if self.antialias else ''}, {self.fit}"
        return f"{self.pixels()}; resize {resize}"

    def same_pixels(self, other: "Contract") -> bool:
        """Whether both prepare the values alike; ``(x / 255 - 0.5) / 0.5`` is ``x / 127.5 - 1``."""
        lines = [
            [c.scale / s for s in c.std] + [m / s for m, s in zip(c.mean, c.std, strict=True)]
            for c in (self, other)
        ]
        close = all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(*lines, strict=True))
        return self.order == other.order and close

    def pixels(self) -> str:
        """The part of it that is about values and channels."""
        text = f"{self.order}, x * {self.scale:.6g}"
        if any(self.mean):
            text += f" - ({', '.join(f'{m:g}' for m in self.mean)})"
        if any(s != 1.0 for s in self.std):
            text += f", / ({', '.join(f'{s:g}' for s in self.std)})"
        return text


@dataclasses.dataclass(frozen=True)
class Source:
    """An official weight file.

    Attributes:
      url: where the publisher serves it: ``https://...``, ``hf:OWNER/REPOSITORY/FILE`` on the
        Hugging Face hub, or ``kaggle:OWNER/MODEL/FRAMEWORK/VARIATION/VERSION`` (a folder).
      hash: ``md5:...``, ``sha256:...`` or ``sha256-prefix:...`` as published, or ``None`` where the
        publisher gives none.
      file: name by which `weights_dir` is searched; by default the last part of ``url``.
    """

    url: str
    hash: str | None = None
    file: str = ""

    @property
    def file_name(self) -> str:
        """The official file (or folder) name, by which `weights_dir` is searched."""
        return self.file or self.url.rsplit("/", 1)[-1]


@dataclasses.dataclass(frozen=True)
class Spec:
    """One entry of the zoo table.

    Attributes:
      name: zoo name, e.g. ``mobilenet_v2_0.35``.
      build: ``module:function`` returning the `Chain`; called with ``options``.
      options: keyword arguments of ``build``.
      contract: input contract of the official weights.
      size: side in pixels the official weights were trained at.
      min_size: smallest side the chain accepts.
      form: naming and layout of the weights: ``keras`` (layers named as in Keras), ``torch``
        (torchvision, timm), ``hub`` (TensorFlow Hub), ``graph`` (a user's own Keras network).
      default_endpoint: where ``auto`` cuts; by default at the last block.
      source: official weight file, or ``None``.
      packaged: file inside the package that holds the weights, or ``None``.
      top_layers: layers of the source's classifier (in ``torch`` form: module paths), which are
        left out on loading.
      licence: licence of the official weights.
      top1: published ImageNet top-1 accuracy in percent, or ``None``.
      parameters: parameter count without the classifier, as the source framework prints it.
      aliases: other frameworks' or shorter names -> block names.
    """

    name: str
    build: str
    options: dict[str, Any]
    contract: Contract
    size: int
    min_size: int
    form: str = "keras"
    default_endpoint: str = ""
    source: Source | None = None
    packaged: str | None = None
    top_layers: tuple[str, ...] = ()
    licence: str = ""
    top1: float | None = None
    parameters: int | None = None
    aliases: dict[str, str] = dataclasses.field(default_factory=dict)

    def chain(self) -> "Chain":
        """Builds the Linen chain (imports jax and flax)."""
        module, function = self.build.split(":")
        return getattr(importlib.import_module(module), function)(**self.options)
