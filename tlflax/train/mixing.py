"""Mixup and cutmix of one batch, inside the compiled step.

Mixup (Zhang et al. 2018, arXiv:1710.09412) replaces each row by ``share * row + (1 - share) *
partner`` with ``share ~ Beta(alpha, alpha)``, cutmix (Yun et al. 2019, arXiv:1905.04899) pastes a
box of the partner into it; the label is mixed by the same shares. One share or box serves the
whole batch, as in both papers' code.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

# Far above the number of parts of a batch, whose dropout keys are folded from 0, 1, ...
MIXING = 2**30


def mix(
    batch: Mapping[str, jax.Array], key: jax.Array, mixup: float, cutmix: float
) -> dict[str, jax.Array]:
    """Mixes the real rows of a batch (weight above 0) with each other; padding stays as it is.

    Args:
      batch: ``image [B, ...]`` (pixels, maps ``[B, H, W, C]``, tokens or vectors), ``label [B]``,
        ``weight [B]``.
      key: of this step; nothing else is random.
      mixup: Beta parameter, 0 = off.
      cutmix: Beta parameter, 0 = off; needs maps. With both on, each batch has one of them, each
        with probability 1/2.

    Returns:
      The batch with mixed images (uint8 becomes float32 in 0..255), ``label`` the one of the larger
      share, ``other [B]`` the one of the smaller, and ``share [B]`` of the larger, 0.5 to 1.
    """
    of_partners, of_kind, of_share, of_box = jax.random.split(key, 4)
    partner = _partners(of_partners, batch["weight"])
    images = batch["image"].astype(jnp.float32)
    trailing = (1,) * (images.ndim - 1)
    own = jnp.ones(trailing)  # the row's own part of each position, the same for all rows
    if mixup:
        own = jnp.full(trailing, jax.random.beta(of_share, mixup, mixup))
    if cutmix:
        keep = _outside_a_box(of_box, cutmix, images.shape[1:3])[..., None]
        own = jnp.where(jax.random.bernoulli(of_kind), keep, own) if mixup else keep
    # In this form rows that are their own partner, all padding among them, stay to the bit.
    mixed = images + (1 - own) * (images[partner] - images)
    kept = own.mean()
    first, second = batch["label"], batch["label"][partner]
    dtype = batch["image"].dtype
    return {
        **batch,
        "image": mixed.astype(dtype) if jnp.issubdtype(dtype, jnp.floating) else mixed,
        "label": jnp.where(kept >= 0.5, first, second),
        "other": jnp.where(kept >= 0.5, second, first),
        "share": jnp.full(first.shape, jnp.maximum(kept, 1 - kept)),
    }


def _partners(key: jax.Array, weight: jax.Array) -> jax.Array:
    """A random permutation of the rows of weight above 0; each other row is its own partner."""
    draws = jax.random.uniform(key, weight.shape)
    real = jnp.argsort(weight <= 0, stable=True)  # real rows in order, then the padding in order
    shuffled = jnp.argsort(jnp.where(weight > 0, draws, 2.0), stable=True)
    return jnp.zeros_like(real).at[real].set(shuffled)


def _outside_a_box(key: jax.Array, alpha: float, sides: tuple[int, ...]) -> jax.Array:
    """0 inside a random box and 1 outside of it, float32 ``[H, W]``.

    The box has the proportions of the map, its centre is anywhere in it, and what sticks out is
    cut off: the share that is left is counted, not the one that was drawn.
    """
    of_area, of_centre = jax.random.split(key)
    side = jnp.sqrt(1 - jax.random.beta(of_area, alpha, alpha))
    inside = []
    for length, centre in zip(sides, jax.random.uniform(of_centre, (2,)), strict=True):
        low = jnp.round(length * (centre - side / 2))
        high = jnp.round(length * (centre + side / 2))
        at = jnp.arange(length)
        inside.append((at >= low) & (at < high))
    return 1.0 - (inside[0][:, None] & inside[1][None, :])
