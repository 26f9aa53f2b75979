"""Batches in parts on CPU: what a few images need stays in the processor's cache.

The maps of a whole batch do not: 32 images of 160x160 fill 78 MB in one layer of MobileNetV2, and
every elementwise pass then waits for the memory. In parts of 200,000 pixels (8 images of 160x160,
4 of 224x224), images/s of a forward pass on 2 cores with AVX-512: MobileNetV2 at 160 149 -> 203,
EfficientNet-B0 at 224 55 -> 69, VGG16 at 150 21 -> 24, ResNet50 43 -> 47, InceptionV3 89 -> 90.

Of full fine-tuning steps only those gain that are led by elementwise passes and depthwise
convolutions (MobileNetV2 37 -> 46 in two parts, 52 in four); the weight gradients of VGG16 and
ResNet50 want the whole batch (5.0 -> 1.8, 10.4 -> 7.7 in two parts).
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from tlflax import tree
from tlflax.policy.policy import Policy
from tlflax.policy.stage import Stage

if TYPE_CHECKING:
    from tlflax.train.loop import Job

_PIXELS = 204_800


def parts_of(rows: int, side: int, *, gradients: bool = False) -> int:
    """Into how many parts a batch of images is best cut; 1 on GPU and TPU, which want it whole.

    Args:
      rows: images on one device.
      side: of an image, in pixels.
      gradients: whether each map is kept for its gradient: half as many images then.
    """
    if jax.default_backend() != "cpu":
        return 1
    most = max(1, _PIXELS // (1 + gradients) // (side * side))
    return -(-rows // most)


def gains(parameters: Mapping[str, Any]) -> bool:
    """Whether a training step of a network with these (flat) parameters is faster in parts."""
    return any(
        len(leaf.shape) == 4 and leaf.shape[2] == 1 and leaf.shape[0] > 1
        for leaf in parameters.values()
    )


def parts_of_stage(job: "Job", stage: Stage, policy: Policy) -> int:
    """Into how many parts a stage cuts its batches: what it says, or else what is fastest."""
    if stage.accumulate > 1 or policy.live or policy.boundary is not None:
        # Live BatchNorm sees whole batches unless the user cuts them; above a boundary maps are
        # small already.
        return stage.accumulate
    if not gains(tree.flatten(job.model.abstract["params"])):
        return 1
    rows = -(-min(job.batch_size, len(job.streams.train_labels)) // job.placement.multiple)
    return parts_of(rows, job.model.architecture.image_size, gradients=True)


def in_parts(function: Callable[[jax.Array], Any], images: jax.Array) -> Any:
    """``function(images)``, computed in parts where that is faster.

    Args:
      function: maps ``[b, H, W, C]`` to ``[b, ...]``, row by row.
      images: ``[B, H, W, C]``.
    """
    rows = images.shape[0]
    parts = parts_of(rows, images.shape[1])
    if parts == 1:
        return function(images)
    size = -(-rows // parts)
    # Zeros fill the last part: one program for all parts.
    padded = jnp.pad(images, [(0, parts * size - rows), *[(0, 0)] * (images.ndim - 1)])
    found = jax.lax.map(function, padded.reshape(parts, size, *images.shape[1:]))
    return found.reshape(parts * size, *found.shape[2:])[:rows]
