"""Fine-tune any backbone on any images."""

from tlflax.config import base


def get_config(arg: str = ""):
    """See the module's docstring."""
    config = base(backbone="mobilenet_v2_1.0", data="", weights="official")
    with config.unlocked():
        config.head_epochs = 30
        config.head_lr = 1e-3
        config.tune = "from block_13"
        config.tune_epochs = 12
        config.tune_lr = 1e-4
    ref = config.get_ref
    config.stages = (
        {
            "name": "head",
            "epochs": ref("head_epochs"),
            "lr": ref("head_lr"),
            "schedule": "cosine",
            "label_smoothing": 0.1,
        },
        {
            "name": "tune",
            "epochs": ref("tune_epochs"),
            "train": (ref("tune"),),
            "lr": ref("tune_lr"),
            "schedule": "cosine",
            "warmup": 0.1,
            "label_smoothing": 0.1,
            "augment": "flip_crop",
        },
    )
    return config
