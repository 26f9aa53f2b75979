"""What is legal but almost surely not meant: warnings that name the fix."""

from collections.abc import Sequence

from tlflax.errors import PolicyError
from tlflax.policy.policy import Policy
from tlflax.policy.stage import Stage

# Below this a batch's own mean and variance are too noisy to normalise with.
_SMALL_BATCH = 16


def refuse_cutmix(stage: Stage, boundary: str, shape: Sequence[int]) -> None:
    """Refuses cutmix where a step begins with something that cannot be cut.

    Args:
      stage: its ``cutmix`` is on.
      boundary: last block of the frozen prefix.
      shape: of its output for one image, as the step gets it.

    Raises:
      PolicyError: it is no map of more than one position.
    """
    if len(shape) == 3 and max(shape[:2]) > 1:
        return
    kind = {1: "averages over its map", 2: "tokens"}.get(len(shape), "a map of one position")
    raise PolicyError(
        f"stage {stage.name!r}: cutmix needs pixels or feature maps to cut, but up to {boundary} "
        f"nothing is trained, and the step begins with {kind}; use mixup, which mixes these, or "
        "train blocks as well (train=('last 1',))"
    )


def check_stages(
    stages: Sequence[Stage], policies: Sequence[Policy], batch_size: int, pretrained: bool
) -> list[str]:
    """Looks for stages that cannot do what their author expects.

    Args:
      stages: in order.
      policies: one for each stage.
      batch_size: images per step.
      pretrained: whether the backbone starts from pretrained weights.

    Returns:
      One sentence per finding, each with its fix.
    """
    warnings: list[str] = []
    head_trained = False
    for i, (stage, policy) in enumerate(zip(stages, policies, strict=True)):
        rows = {r.block: r for r in policy.rows}
        backbone = [r for r in policy.rows if r.block != "head" and r.parameters]
        trained = [r for r in backbone if r.trained]
        if i and policy.multipliers == policies[i - 1].multipliers:
            # A head may well be trained in two stages; other rules that come to the same are a
            # mistake, and so are blocks that are named twice.
            meant = not trained and stage.train == stages[i - 1].train
            warnings += _repetition(stage, stages[i - 1], meant, bool(trained))
        for target in stage.stop.on_training:
            warnings.append(
                f"stage {stage.name!r} stops at {target}: images that it may learn by heart say "
                f"when it is good; stop at {target.replace('train', 'val')} or with patience=5"
            )
        fastest = max((r.multiplier for r in trained), default=0.0)
        if pretrained and trained and not head_trained and fastest >= rows["head"].multiplier > 0:
            warnings.append(
                f"stage {stage.name!r} trains {trained[0].block} and above together with a fresh "
                "head at the same rate: random gradients will damage the pretrained weights; "
                "train the head alone first or give the blocks a multiplier such as 0.1"
            )
        gaps = [r.block for r in backbone if not r.trained]
        if trained:
            order = [r.block for r in backbone]
            gaps = [b for b in gaps if order.index(b) > order.index(trained[0].block)]
            if gaps:
                warnings.append(
                    f"stage {stage.name!r} freezes {gaps[0]} above the trained "
                    f"{trained[0].block}: gradients still pass through it, nothing is saved"
                )
        if stage.bn == "train" and not policy.live:
            warnings.append(
                f"stage {stage.name!r} has bn='train', but no wholly trained block has BatchNorm: "
                "it changes nothing; train whole blocks (train=...) or leave bn out"
            )
        if policy.boundary is not None and (stage.mixup or stage.cutmix):
            kind = " and ".join(k for k in ("mixup", "cutmix") if getattr(stage, k))
            warnings.append(
                f"stage {stage.name!r}: {kind} works on the output of {policy.boundary}, not on "
                "pixels, because nothing up to there is trained (mixing of features, 'manifold "
                "mixup'); for pixels train all blocks (train='all')"
            )
        part = -(-batch_size // stage.accumulate)
        if policy.live and part < _SMALL_BATCH:
            cut = f" cut into {stage.accumulate} (accumulate)" if stage.accumulate > 1 else ""
            warnings.append(
                f"stage {stage.name!r} uses batch statistics (bn='train') with batches of "
                f"{batch_size}{cut}: too few to normalise with; use bn='stored' or batches of "
                f"{_SMALL_BATCH * stage.accumulate} or more"
            )
        elif policy.live and stage.accumulate > 1:
            warnings.append(
                f"stage {stage.name!r} uses the statistics of {part} images at a time "
                f"(bn='train', accumulate={stage.accumulate}), not of the whole batch of "
                f"{batch_size}; use bn='stored' or remat=True for the same update in less memory"
            )
        if stage.accumulate > batch_size:
            warnings.append(
                f"stage {stage.name!r} cuts batches of {batch_size} into {stage.accumulate} parts "
                f"(accumulate): the rest is padding; use accumulate={batch_size} or less"
            )
        head_trained = head_trained or rows["head"].trained
    return warnings


def _repetition(stage: Stage, last: Stage, meant: bool, backbone: bool) -> list[str]:
    """What to say of a stage that trains the parameters that the one before it trained.

    Args:
      stage: the stage.
      last: the one before it.
      meant: whether another rate is all that was wanted.
      backbone: whether there are blocks of the backbone among them.
    """
    what = f"stage {stage.name!r} trains exactly what {last.name!r} trained"
    same = ("lr", "optimizer", "schedule", "label_smoothing", "weight_decay", "clip")
    seen = ("bn", "augment", "mixup", "cutmix", "class_weights", "sampling")
    if any(getattr(stage, field) != getattr(last, field) for field in seen):
        return []
    if all(getattr(stage, field) == getattr(last, field) for field in same):
        return [
            f"{what}, at the same rate: it only adds epochs; change its rules (train=...) or its lr"
        ]
    if meant:
        return []
    fix = f"leave train=... out of {last.name!r} to train the head on frozen blocks first"
    if not backbone:
        fix = "name blocks below the cut (train=('last 1',)) to fine-tune them"
    return [
        f"{what}, at another rate: it unfreezes nothing; {fix}, or use one stage with a schedule"
    ]
