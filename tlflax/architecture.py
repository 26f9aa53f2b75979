"""What a classifier is made of, in plain values: enough to build it again."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tlflax.backbones import table
from tlflax.backbones.spec import Contract, Spec
from tlflax.convert.own_contract import other_contract
from tlflax.heads import check_head


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Everything needed to build the classifier again, e.g. from a run directory.

    Attributes:
      backbone: zoo name.
      endpoint: where to cut, as the user wrote it or resolved.
      classes: class names, in label order.
      image_size: side of the square input in pixels; 0 = the size of the official weights.
      head: ``gap`` or ``flatten``.
      hidden: widths of the head's hidden layers.
      dropout: rate before the logits.
      activation: of the hidden layers.
      output: ``softmax``, or ``sigmoid``: one unit for two classes (see `tlflax.heads.Head`).
      preprocessing: ``auto``, or the name of another input contract than that of a zoo network's
        weights (see `tlflax.convert.own_contract`).
      own: for a network that is not of the zoo, what rebuilds it: ``graph`` (JSON text) and
        ``contract`` (fields).
    """

    backbone: str
    endpoint: str
    classes: tuple[str, ...]
    image_size: int
    head: str = "gap"
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    activation: str = "relu"
    output: str = "softmax"
    preprocessing: str = "auto"
    own: Mapping[str, Any] | None = None

    def check_head(self) -> None:
        """Raises `ConfigError` where a head option has no meaning."""
        options = (self.head, self.activation, self.dropout, self.output)
        check_head(*options, len(self.classes))

    def spec(self) -> Spec:
        """The backbone's entry: of the zoo, with another input contract, or the user's own.

        Raises:
          ConfigError: unknown backbone or preprocessing.
        """
        if self.own is not None:
            from tlflax.backbones.graph import graph_spec

            return graph_spec(self.backbone, self.own["graph"], Contract.read(self.own["contract"]))
        spec = table.get(self.backbone)
        if self.preprocessing == "auto":
            return spec
        contract = other_contract(spec.contract, self.preprocessing)
        options = spec.options | {"contract": contract}
        return dataclasses.replace(spec, contract=contract, options=options)

    @property
    def misprepared(self) -> str:
        """The warning where ``preprocessing`` is not what a zoo network's weights need.

        An empty string where there is nothing to say.
        """
        if self.own is not None or self.preprocessing == "auto":
            return ""
        right, found = table.get(self.backbone).contract, self.spec().contract
        if found.same_pixels(right):
            return ""
        return (
            f"preprocessing={self.preprocessing!r} gives {self.backbone} pixels as "
            f"{found.pixels()}; its weights were trained on {right.pixels()}: its features are not "
            "what they were trained to be; leave preprocessing out"
        )
