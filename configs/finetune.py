"""Fine-tune any backbone on any images: a converged head, then fine-tuning that earns its place.

    python -m tlflax.main --config configs/finetune.py --workdir runs/pets \
        --config.data=folder:pets --config.backbone=mobilenet_v2_1.0

Stage ``head`` trains a linear layer on the frozen network's features, which are computed once.
Stage ``tune`` trains the last quarter of the blocks on augmented images, and ends with the mixture
of its first and its last weights that has the smallest validation loss (WiSE-FT). If no mixture
beats the head, the head stays: on a few hundred images plain fine-tuning often makes things worse.

Keys to override, beside those of `tlflax.config.DEFAULTS`:
  --config.tune="from block_13"     which blocks the second stage trains ("last 25%")
  --config.tune_epochs=0            the frozen stage alone
  --config.head_epochs, head_lr, tune_lr, tune_augment
"""

from tlflax.config import base


def get_config(arg: str = ""):
    """Returns the config; ``arg`` is not used."""
    config = base(backbone="mobilenet_v2_1.0", select="loss")
    with config.unlocked():
        config.head_epochs = 30
        config.head_lr = 1e-3
        config.tune = "last 25%"
        config.tune_epochs = 12
        config.tune_lr = 1e-3
        config.tune_augment = "flip_crop"
    ref = config.get_ref
    config.stages = (
        {
            "name": "head",
            "epochs": ref("head_epochs"),
            "lr": ref("head_lr"),
            "schedule": "cosine",
            # Smoothing keeps the converged head from becoming overconfident.
            "label_smoothing": 0.1,
        },
        {
            "name": "tune",
            "epochs": ref("tune_epochs"),
            "train": (ref("tune"),),
            "lr": ref("tune_lr"),
            "schedule": "cosine",
            "warmup": 0.1,
            "clip": 1.0,
            "label_smoothing": 0.1,
            "augment": ref("tune_augment"),
            "interpolate": True,
        },
    )
    return config
