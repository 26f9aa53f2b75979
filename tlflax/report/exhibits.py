"""What the report shows besides numbers: pictures, as plain arrays."""

import dataclasses

import numpy as np

Array = np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """Training images of one class."""

    name: str
    pictures: list[Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Preview:
    """What an augmentation makes of some training images.

    Attributes:
      augment: as the config says it.
      stages: names of the stages that use it.
      rows: class name of an image, and the image followed by versions of it.
    """

    augment: str
    stages: list[str]
    rows: list[tuple[str, list[Array]]]


@dataclasses.dataclass(frozen=True, eq=False)
class Look:
    """One image and where it speaks for the class that the classifier gave it.

    Attributes:
      index: position among the predictions.
      pixels: uint8 [S, S, 3], as the network sees it.
      heat: float [h, w], not below 0.
    """

    index: int
    pixels: Array
    heat: Array


@dataclasses.dataclass(frozen=True, eq=False)
class Activations:
    """Outputs of layers for one image.

    Attributes:
      index: position among the predictions.
      pixels: uint8 [S, S, 3], as the network sees it.
      outputs: layer -> float [...] without batch; a map is [h, w, channels].
    """

    index: int
    pixels: Array
    outputs: dict[str, Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Exhibits:
    """Everything of it.

    Attributes:
      samples: of the training images.
      previews: one for each distinct augmentation.
      looks: first mistakes, then right answers.
      activations: of one image; ``None`` for none.
    """

    samples: list[Sample] = dataclasses.field(default_factory=list)
    previews: list[Preview] = dataclasses.field(default_factory=list)
    looks: list[Look] = dataclasses.field(default_factory=list)
    activations: Activations | None = None
