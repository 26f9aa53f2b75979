"""Zoo entries with torchvision's or timm's weights and layer arithmetic. Import-light: no jax."""

from tlflax.backbones.spec import Spec

SPECS: tuple[Spec, ...] = ()

SYNONYMS: dict[str, str] = {}

SUGGESTED: dict[str, str] = {}
