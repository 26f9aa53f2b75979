r"""Fine-tune any backbone on any images: a converged head, then fine-tuning.

    python -m tlflax.main --config configs/finetune.py --workdir runs/pets \
        --config.data=folder:pets --config.backbone=mobilenet_v2_1.0

Stage ``head`` trains a linear layer on the frozen network's features, which are computed once.
Stage ``tune`` trains the last quarter of the blocks on augmented images, and ends with the mixture
of its first and its last weights that has the smallest calibrated validation loss (WiSE-FT); the
first ones, the result of ``head``, are among them: on a few hundred images plain fine-tuning often
makes things worse.

Measured with ``mobilenet_v2_0.35`` (Keras' ImageNet weights), 224 px, ``tune="from block_13"``, a
fifth of the training images for validation; test accuracy for seeds 0, 1, 2 (they change the
validation cut and the order; the test images are the same), 95 % Wilson interval of one run at
the mean. "Frozen" are runs with ``--config.tune_epochs=0``.

    images (training, test)     frozen          mean              fine-tuned      mean
    cats / dogs    (1000, 400)  .965 .963 .958  .962 (.938-.977)  .958 .958 .958  .958 (.933-.973)
    ten foods       (750, 500)  .686 .694 .690  .690 (.648-.729)  .728 .730 .706  .721 (.680-.759)
    potato leaves   (360, 120)  .950 .958 .942  .950 (.895-.977)  1.00 .983 .975  .986 (.945-.997)
    five flowers    (600, 200)  .635 .650 .665  .650 (.582-.713)  .680 .670 .695  .682 (.614-.742)

On cats and dogs fine-tuning loses 5 of 1200 answers, well inside the interval; it does not gain
there. The recipe was chosen by five-fold cross-validation on the training images alone (mean of
the four sets: frozen .806, this one .827; on cats and dogs .961 and .968), after test results of
earlier recipes had been seen (cats and dogs .959 and lower); they were not used to choose. A frozen
run takes 20-50 s, a fine-tuned one 70-200 s, on 2 CPU cores shared with other jobs, November 2026.

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
            "augment": ref("tune_augment"),
            "interpolate": True,
        },
    )
    return config
