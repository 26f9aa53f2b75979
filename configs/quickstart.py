"""Handwritten digits from ten images of each: scratch, frozen, fine-tuned.

DOCSTRING
"""

from tlflax.config import base

_AUGMENT = "shift_rotate(rotation=10.0, shift=0.06, zoom=0.1)"


def get_config(arg: str = ""):
    """See the module's docstring."""
    config = base(
        data="digits",
        backbone="glyph_cnn",
        weights="official",
        image_size=32,
        per_class=10,
        data_splits={"val": 100, "test": 0.2},
        baseline=True,
        baseline_epochs=40,
        baseline_lr=3e-3,
    )
    with config.unlocked():
        config.head_epochs = 30
        config.head_lr = 1e-2
        config.tune = "all"
        config.tune_epochs = 15
        config.tune_lr = 1e-3
    ref = config.get_ref
    config.stages = (
        {
            "name": "head",
            "epochs": ref("head_epochs"),
            "lr": ref("head_lr"),
            "schedule": "cosine",
        },
        {
            "name": "tune",
            "epochs": ref("tune_epochs"),
            "train": (ref("tune"),),
            "lr": ref("tune_lr"),
            "schedule": "cosine",
            "warmup": 0.1,
            "augment": _AUGMENT,
        },
    )
    return config
