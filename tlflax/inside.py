"""Looking inside: what a finished run, an opened model and an untrained classifier share.

`tlflax.evaluate.interpretation` computes, `tlflax.report.inside` draws.
"""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tlflax.errors import DataError
from tlflax.given import Given
from tlflax.picture import Picture

if TYPE_CHECKING:
    from tlflax.evaluate.interpretation import Classes, GradCam, Lens


class Inside:
    """Methods of whatever has a network with values in it.

    A class that inherits them has ``model`` and ``variables``, or its own ``_looked_at``.
    """

    def _looked_at(self) -> tuple[Any, dict[str, Any]]:
        """The `tlflax.model.Model` and its variables."""
        return self.model, self.variables  # type: ignore[attr-defined]

    @functools.cached_property
    def _lens(self) -> "Lens":
        from tlflax.evaluate.interpretation import Lens

        return Lens(*self._looked_at())

    def layers(self) -> dict[str, tuple[int, ...]]:
        """Name of every layer up to the cut -> shape of its output for one image, in order.

        Blocks are called after their last layer.
        """
        return dict(self._lens.shapes)

    def activations(self, images: Any, endpoints: str | Sequence[str] = "auto") -> dict:
        """Outputs of layers for some images.

        Args:
          images: RGB uint8 ``[N, H, W, 3]``, Pillow images, or paths of image files and folders.
          endpoints: one or several names, as `python -m tlflax.zoo NAME` lists them: blocks, their
            aliases, layers inside them; ``auto`` is where the network is cut.

        Returns:
          Name as asked for -> float32 ``[N, ...]``: maps are ``[N, h, w, channels]``. What ``auto``
          means stands under its own name, which `layers` lists last.

        Raises:
          ConfigError: there is no such layer, or it lies above the cut.
          DataError: the images cannot be used.
        """
        names = [endpoints] if isinstance(endpoints, str) else list(endpoints)
        for name in names:
            self._lens.resolve(name)
        return self._lens.activations(Given(images, self._lens.model).all(), names)

    def grad_cam(self, images: Any, endpoint: str = "auto", classes: "Classes" = None) -> "GradCam":
        """Where images speak for a class: Grad-CAM (Selvaraju et al., arXiv:1610.02391).

        Args:
          images: RGB uint8 ``[N, H, W, 3]``, Pillow images, or paths of image files and folders.
          endpoint: any layer whose output is a map; ``auto`` is the last block that has one. The
            map is as coarse as the layer's; earlier layers are finer and less telling.
          classes: for all images one class name or label, or one for each; default: what the
            classifier says of each image.

        Raises:
          ConfigError: there is no such layer or class, or the layer has no map.
          DataError: the images cannot be used.
        """
        self._lens.resolve_map(endpoint)
        return self._lens.grad_cam(Given(images, self._lens.model).all(), endpoint, classes)

    def show_activations(
        self, image: Any, endpoints: str | Sequence[str] = "auto", channels: int = 7
    ) -> Picture:
        """Draws the outputs of layers for one image: the channels that vary most over it.

        Args:
          image: RGB uint8 ``[H, W, 3]``, a Pillow image, or the path of an image file.
          endpoints: as in `activations`.
          channels: how many of each layer.

        Raises:
          TlflaxError: as `activations`; more than one image.
        """
        from tlflax.report import inside

        names = [endpoints] if isinstance(endpoints, str) else list(endpoints)
        for name in names:
            self._lens.resolve(name)
        given = Given(image, self._lens.model)
        if len(given) != 1:
            raise DataError(f"show_activations draws one image, got {len(given)}")
        pixels = given.all()
        found = self._lens.activations(pixels, names)
        return Picture(inside.activations(pixels[0], {k: v[0] for k, v in found.items()}, channels))

    def show_grad_cam(
        self, images: Any, endpoint: str = "auto", classes: "Classes" = None
    ) -> Picture:
        """Draws images, each beside itself with its Grad-CAM over it.

        Args:
          images: as in `grad_cam`.
          endpoint: as in `grad_cam`.
          classes: as in `grad_cam`.
        """
        from tlflax.report import inside

        self._lens.resolve_map(endpoint)
        given = Given(images, self._lens.model)
        found = self._lens.grad_cam(given.all(), endpoint, classes)
        names, n = self._lens.model.classes, np.arange(len(given))
        shares = found.probabilities[n, found.classes]
        captions = [f"{names[k]} {p:.0%}" for k, p in zip(found.classes, shares, strict=True)]
        title = (
            f"Grad-CAM at {found.endpoint}: where each image speaks for the class named above it"
        )
        return Picture(inside.overlays(found.pixels, found.heat, captions, title))
