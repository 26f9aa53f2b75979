r"""How much of a pretrained network to train: nothing, a quarter, half, all of it, or from scratch.

    python -m tlflax.main --config configs/study_freezing.py --workdir runs/freezing \
        --config.data=folder:pets

Five runs on the same images, and a page that compares them (runs/freezing/compare.html): accuracy
with intervals, seconds, which differences these test images can tell, a recommendation. ``frozen``
trains the head until it has converged; ``last_25``, ``last_50`` and ``all`` go on from there with
that share of the blocks at a tenth of the head's rate; ``scratch`` has as many epochs from random
values. Without augmentation, so that the output of frozen blocks is computed once.

Measured on ten foods (600 train, 150 validate, 500 test images) at 160 px with the real weights of
``mobilenet_v2_0.35`` (``--config.backbone=mobilenet_v2_0.35 --config.image_size=160``), November
2026; test accuracy with its 95 % Wilson interval, parameters trained, and seconds on two CPU cores
shared with other jobs:

    frozen     .656 (.613-.696)     12,810 of 423,018     26 s
    last_25    .656 (.613-.696)    323,498                49 s
    last_50    .638 (.595-.679)    380,858                68 s
    all        .634 (.591-.675)    408,938               132 s
    scratch    .126 (.100-.158)    408,938               438 s

Each of the first four is better than ``scratch`` (McNemar, Holm: p < .001); among them nothing is
separable on these images.

Keys to override, beside those of `tlflax.config.DEFAULTS`:
  --config.head_epochs, head_lr, tune_epochs, tune_lr, tune_augment, scratch_lr
"""

from tlflax.config import base


def get_config(arg: str = ""):
    """Returns the config; ``arg`` is not used."""
    config = base(backbone="mobilenet_v2_1.0", select="loss")
    with config.unlocked():
        config.head_epochs = 20
        config.head_lr = 1e-3
        config.tune_epochs = 8
        config.tune_lr = 1e-4
        config.tune_augment = "none"
        config.scratch_epochs = 28
        config.scratch_lr = 1e-3
    ref = config.get_ref
    head = {
        "name": "head",
        "epochs": ref("head_epochs"),
        "lr": ref("head_lr"),
        "schedule": "cosine",
    }
    scratch = {
        "name": "scratch",
        "epochs": ref("scratch_epochs"),
        "train": ("all",),
        "lr": ref("scratch_lr"),
        "schedule": "cosine",
        "warmup": 0.05,
        "bn": "train",
        "augment": ref("tune_augment"),
    }

    def tuned(rule: str) -> tuple[dict, ...]:
        tune = {
            "name": "tune",
            "epochs": ref("tune_epochs"),
            "train": (rule,),
            "lr": ref("tune_lr"),
            "schedule": "cosine",
            "warmup": 0.1,
            "augment": ref("tune_augment"),
        }
        return head, tune

    config.stages = (head,)
    config.runs = (
        {"name": "frozen"},
        {"name": "last_25", "stages": tuned("last 25%")},
        {"name": "last_50", "stages": tuned("last 50%")},
        {"name": "all", "stages": tuned("all")},
        {"name": "scratch", "weights": "none", "stages": (scratch,)},
    )
    return config
