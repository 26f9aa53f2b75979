"""Classes of different size: what their images weigh, and whether anything is done about them."""

from collections.abc import Mapping, Sequence

import numpy as np

from tlflax.errors import ConfigError, listing, suggest
from tlflax.policy.stage import Stage

# The largest class may have this many times the images of the smallest without a warning.
_LARGEST_RATIO = 5
# Class weights are usual up to here on average; beyond, they are a learning rate in disguise.
_LARGEST_MEAN = 2.0


def class_weights(stage: Stage, counts: Mapping[str, int]) -> dict[str, float]:
    """Weight of each class in the loss of a stage, by name in label order; empty without weights.

    ``balanced`` is n / (K * n_c), as in scikit-learn's ``compute_class_weight``: every class has
    the same weight in total, and the mean over the training images is 1, so that learning rates
    mean what they mean without weights.

    Args:
      stage: with ``class_weights`` ``none``, ``balanced`` or a dict; classes that a dict does not
        name weigh 1.
      counts: training images by class name, in label order.

    Raises:
      ConfigError: the dict names an unknown class.
    """
    if stage.class_weights == "none":
        return {}
    if stage.class_weights == "balanced":
        # Of a class without images no weight is ever used.
        share = sum(counts.values()) / sum(n > 0 for n in counts.values())
        return {name: share / max(n, 1) for name, n in counts.items()}
    assert isinstance(stage.class_weights, Mapping)
    for name in stage.class_weights:
        if name not in counts:
            hint = suggest(name, counts)
            raise ConfigError(
                f"stage {stage.name!r}: class_weights names {name!r}, which is no class{hint} "
                f"(classes: {listing(counts)})"
            )
    return {name: float(stage.class_weights.get(name, 1.0)) for name in counts}


def vector(weights: Mapping[str, float]) -> np.ndarray | None:
    """Weights as a train step takes them, float32 ``[K]``; ``None`` for none."""
    return np.array(list(weights.values()), np.float32) if weights else None


def check_imbalance(stages: Sequence[Stage], counts: Mapping[str, int]) -> list[str]:
    """Looks for classes that will be neglected, and for weights that cannot be meant.

    Args:
      stages: in order.
      counts: training images by class name, in label order.

    Returns:
      One sentence per finding, each with its fix.

    Raises:
      ConfigError: see `class_weights`.
    """
    warnings: list[str] = []
    weights = {stage.name: class_weights(stage, counts) for stage in stages}
    present = {name: n for name, n in counts.items() if n}
    unaware = [s.name for s in stages if not weights[s.name] and s.sampling == "shuffle"]
    if unaware and present and max(present.values()) > _LARGEST_RATIO * min(present.values()):
        largest = max(present, key=lambda name: present[name])
        small = sorted(
            (name for name in present if present[largest] > _LARGEST_RATIO * present[name]),
            key=lambda name: present[name],
        )
        named = listing((f"{name!r} ({present[name]})" for name in small), 5)
        which = f"stage{'s' * (len(unaware) > 1)} {listing(map(repr, unaware), 5)}"
        warnings.append(
            f"the training classes are unbalanced: {largest!r} has {present[largest]} images, "
            f"more than {_LARGEST_RATIO} times as many as {named}; the smaller ones will be "
            f"neglected in {which}: add class_weights='balanced' or sampling='balanced', and look "
            "at balanced_accuracy"
        )
    for stage in stages:
        given = weights[stage.name]
        if not given:
            continue
        if stage.sampling == "balanced":
            warnings.append(
                f"stage {stage.name!r} has class_weights and sampling='balanced': what is rare is "
                "made up for twice; leave one of them out"
            )
        mean = sum(given[name] * n for name, n in counts.items()) / sum(counts.values())
        if not 1 / _LARGEST_MEAN <= mean <= _LARGEST_MEAN:
            warnings.append(
                f"the class_weights of stage {stage.name!r} are {mean:.3g} on average over the "
                "training images: the loss and its gradient are as many times larger, which is "
                "another learning rate; divide the weights by that number"
            )
    return warnings
