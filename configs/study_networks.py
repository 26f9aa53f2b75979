r"""Which network: the same head on several frozen backbones, on the same images.

    python -m tlflax.main --config configs/study_networks.py:mobilenet_v2_1.0,resnet50,my_cnn.h5 \
        --workdir runs/networks --config.data=folder:pets

After the colon stand names of `python -m tlflax.zoo` and files of Keras models of your own,
separated by commas (without it: ``mobilenet_v2_0.35,squeezenet_1.1``). Each sees the images at
the size of its weights. The page runs/networks/compare.html has accuracy with intervals over
parameters, seconds per epoch and images per second of inference, says which differences these
test images can tell, and recommends one for accuracy, speed, size and training time.

Measured on ten foods (600 training, 150 validation, 500 test images) with the real ImageNet
weights of ``mobilenet_v2_0.35``, ``squeezenet_1.1`` and a user's file of Tiny Darknet, 20 epochs
each, November 2026; test accuracy with its 95 % Wilson interval, and, on two CPU cores shared with
other jobs, seconds of training and images per second of inference:

    mobilenet_v2_0.35   .696 (.654-.735)   423,018 parameters   16 s   406 images/s
    squeezenet_1.1      .660 (.617-.700)   727,626               9 s   182
    tiny_darknet        .658 (.615-.698)   918,778              14 s   114

No two are separable on these images (McNemar, Holm: p >= .25). The page recommends the first for
accuracy, speed and size, by its validation accuracy, and the last for training time.

Keys to override, beside those of `tlflax.config.DEFAULTS`:
  --config.tune="last 25%"           also train these blocks, at a tenth of the head's rate
  --config.scaling=unit              how images are prepared for your own models
  --config.head_epochs, head_lr, tune_epochs, tune_lr
"""

from pathlib import Path

from tlflax.config import base


def get_config(arg: str = ""):
    """See the module's docstring; ``arg`` lists the backbones."""
    backbones = [b.strip() for b in (arg or "mobilenet_v2_0.35,squeezenet_1.1").split(",")]
    config = base(backbone=backbones[0], select="loss")
    with config.unlocked():
        config.head_epochs = 20
        config.head_lr = 1e-3
        config.tune = "last 25%"
        config.tune_epochs = 0
        config.tune_lr = 1e-4
        config.scaling = "auto"
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
        },
    )

    def entry(backbone: str) -> dict:
        own = Path(backbone).suffix in (".h5", ".hdf5", ".keras") or "/" in backbone
        if not own:
            return {"name": backbone, "backbone": backbone}
        preprocessing = ref("scaling")
        return {"name": Path(backbone).stem, "backbone": backbone, "preprocessing": preprocessing}

    config.runs = tuple(entry(b) for b in backbones)
    return config
