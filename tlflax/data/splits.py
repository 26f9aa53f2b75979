"""Cutting validation and test images out of the training images, by content.

Pure functions of (content hashes, labels, seed). An image's place depends on its bytes only:
renaming, reordering or adding files moves (almost) nothing, and identical bytes never end up
on both sides of a cut.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from tlflax.errors import ConfigError


def order_key(seed: int, content_hash: str) -> str:
    """The place of an image among the images of its class."""
    return hashlib.sha256(f"{seed}/{content_hash}".encode()).hexdigest()


def check_amount(name: str, amount: float | int) -> None:
    """Refuses anything but a fraction (0 < f < 1) or a number of images (int >= 1).

    Raises:
        ConfigError: the amount is neither.
    """
    whole = isinstance(amount, int | np.integer) and not isinstance(amount, bool)
    fraction = isinstance(amount, float | np.floating) and 0 < amount < 1
    if not fraction and not (whole and amount >= 1):
        raise ConfigError(
            f"data_splits: {name}={amount!r} is neither a fraction (0.2) nor a number of images "
            f"(200), nor {'test' if name == 'val' else 'val'!r}"
        )


def ambiguous(hashes: Sequence[str], labels: np.ndarray) -> set[str]:
    """Returns the contents that occur under more than one label."""
    seen: dict[str, int] = {}
    return {h for h, y in zip(hashes, labels.tolist(), strict=True) if seen.setdefault(h, y) != y}


def targets(counts: np.ndarray, amount: float | int, name: str, pool: np.ndarray) -> np.ndarray:
    """Returns how many images of each class to cut, int [classes].

    Args:
        counts: images of each class that are still there, int [classes].
        amount: a fraction of `pool`, or a number of images over all classes.
        name: the split, for errors.
        pool: images of each class that the fraction refers to, int [classes].

    Raises:
        ConfigError: a number of images smaller than the number of classes, or not smaller
            than the number of images.
    """
    if isinstance(amount, float | np.floating):
        wanted = np.floor(pool * float(amount) + 0.5).astype(int)
    else:
        classes = int((counts > 0).sum())
        if amount < classes or amount >= counts.sum():
            raise ConfigError(
                f"data_splits: {name}={amount} must be at least the number of classes "
                f"({classes}) and less than the number of images ({counts.sum()})"
            )
        # Largest remainder: shares add up to the number asked for.
        share = counts * (int(amount) / counts.sum())
        wanted = np.floor(share).astype(int)
        rest = int(amount) - int(wanted.sum())
        wanted[np.argsort(wanted - share, kind="stable")[:rest]] += 1
    # One at least, and one left over for training.
    return np.minimum(np.maximum(wanted, 1), np.maximum(counts - 1, 0))


def cut(
    hashes: Sequence[str], labels: np.ndarray, amounts: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts about `amounts[c]` images out of each class `c`.

    Identical images move together. Contents that occur under two labels stay: whichever label
    is right, such an image measures nothing. At least one image of each class stays.

    Args:
        hashes: N content hashes.
        labels: int [N].
        amounts: images to cut from each class, int [classes].
        seed: decides the order within each class.

    Returns:
        Positions that stay and positions that are cut, both ascending.
    """
    fixed = ambiguous(hashes, labels)
    taken: list[int] = []
    for label, amount in enumerate(amounts.tolist()):
        members = np.flatnonzero(labels == label)
        groups: dict[str, list[int]] = defaultdict(list)
        for i in members.tolist():
            if hashes[i] not in fixed:
                groups[hashes[i]].append(i)
        order = sorted(groups, key=lambda h: order_key(seed, h))
        chosen: list[int] = []
        for content in order:
            if len(chosen) + len(groups[content]) <= amount:
                chosen += groups[content]
        if not chosen and amount and order and len(groups[order[0]]) < len(members):
            chosen = groups[order[0]]  # a group larger than the amount is better than nothing.
        taken += chosen
    out = np.sort(np.asarray(taken, np.int64))
    return np.setdiff1d(np.arange(len(labels)), out), out


def limit_per_class(
    hashes: Sequence[str], labels: np.ndarray, per_class: int, seed: int
) -> np.ndarray:
    """Returns ascending positions of `per_class` images of each class, distinct ones first."""
    kept: list[int] = []
    for label in np.unique(labels):
        copies: dict[str, int] = defaultdict(int)
        ranked = []
        for i in np.flatnonzero(labels == label).tolist():
            ranked.append((copies[hashes[i]], order_key(seed, hashes[i]), i))
            copies[hashes[i]] += 1
        kept += [i for _, _, i in sorted(ranked)[:per_class]]
    return np.sort(np.asarray(kept, np.int64))


def shared(first: Sequence[str], second: Sequence[str]) -> list[tuple[int, int]]:
    """Returns (position in first, position in second) for each of `second` found in `first`."""
    where: dict[str, int] = {}
    for i, content in enumerate(first):
        where.setdefault(content, i)
    return [(where[h], j) for j, h in enumerate(second) if h in where]
