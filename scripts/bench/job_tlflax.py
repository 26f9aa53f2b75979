"""The whole jobs of scripts/bench.py as a tlflax config.

    python -m tlflax.main --config scripts/bench/job_tlflax.py:frozen --config.data=folder:PATH \
        --config.backbone=vgg16 --config.image_size=150 --config.job_epochs=10 --workdir DIR

``frozen`` trains a linear head on the frozen network, ``hidden`` one with a hidden layer, ``last``
the blocks of the rule ``--config.job_first`` and a linear head.
"""

from bench.plan import BLOCK_RATE, RATE
from tlflax.config import base


def get_config(arg: str = "frozen"):
    """Returns the config of one job.

    Args:
      arg: ``frozen``, ``hidden`` or ``last``.
    """
    config = base(weights="none", hidden=(128,) if arg == "hidden" else ())
    with config.unlocked():
        config.job_epochs = 10
        config.job_first = "from block5_conv1"
        config.job_lr = BLOCK_RATE if arg == "last" else RATE
    stage = {
        "name": "job",
        "epochs": config.get_ref("job_epochs"),
        "lr": config.get_ref("job_lr"),
        "optimizer": "momentum",
    }
    if arg == "last":
        # The reference is resolved when the config is read, after the command line.
        stage["train"] = (config.get_ref("job_first"),)
    config.stages = (stage,)
    return config
