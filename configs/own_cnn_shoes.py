r"""Your own Keras CNN on new classes: before training, with a new head, fine-tuned.

    python -m tlflax.main --config configs/own_cnn_shoes.py --workdir runs/shoes \
        --config.data=folder:shoes --config.backbone=leaves.h5

The network (``.h5``, ``.keras`` or SavedModel; no Keras needed) loses its last layer and gets a
softmax over the folder's classes. The head alone trains (Nadam, 10 epochs), then everything (Adam
1e-5, 10 epochs); batches of 8, images sheared, zoomed and flipped as by ImageDataGenerator. The
test images are read once, at the end, by three networks: the one with the untrained head, the one
after the first stage, and the final one. predictions.csv lists every test image: file, label,
predicted, probability, correct.

Variants:
  shoes     as above (also without a variant)
  literal   what the tutorial's code does, with the warnings that it deserves
  beside    both, one beside the other in WORKDIR/compare.html

What the tutorial gets wrong, and what this does instead:
  - Nothing was ever frozen: layers of a loaded Keras model are trainable, so the "frozen" stage
    trains everything with a random head, and "unfreezing" changes nothing but the rate. Here the
    first stage trains the head alone. `literal` trains everything twice and is warned of both.
  - Validation images are augmented like training images. Evaluation never is here; there is no
    key for it, so `literal` does not do it either.
  - 17 of 18 test images right is an interval of 74 to 99 %. Every accuracy has its interval here,
    and fewer than 100 test images are warned of.

Pixels are divided by 255, as in the tutorial; say otherwise with ``--config.preprocessing`` (raw,
for a network that begins with its own Rescaling, unit, unit_bgr, tf, torch, caffe, or auto). Images
are shown at the network's own size, 64 in the tutorial.

Measured with potatoes.h5, a user's own CNN for 256 px (six convolutions, 183,552 parameters below
its classifier, trained on the potato leaves of PlantVillage), on photos of potato leaves of another
origin, EarlyBlight and Healthy (192 train, 48 validate, 80 test images), on which its own
classifier is not accurate either: there are no photos of shoes here. November 2026; test accuracy
with its 95 % Wilson interval, and seconds on two CPU cores shared with other jobs:

                     before             after the head     at the end
    shoes (333 s)    .500 (.393-.607)   .600 (.490-.700)   .613 (.503-.712)
    literal (442 s)  .500 (.393-.607)   .762 (.659-.842)   .762 (.659-.842)

Before training the last layer is zero, so that all images get one answer: half of them are right.
On the 48 validation images: shoes .625 (.484-.748) after the head, .688 (.547-.801) at the end;
literal .833 (.704-.913), and no epoch of the second stage was better, so that its end is the same
state. Here the literal recipe, which trains everything at 1e-3 from the start, does better: what
this network knows of other photos is worth little, and a rate of 1e-5 moves it little in 10 epochs.
On 80 images the difference is uncertain (``beside``: 15 points, interval 2.5 to 27.5, McNemar
p = .036); ``--config.tune_lr=1e-4`` is the thing to try.

Keys to override, beside those of `tlflax.config.DEFAULTS`:
  --config.head_epochs, head_lr, tune_epochs, tune_lr, augment
  --config.head_train="head"   the blocks of the first stage ("all" in literal)
  --config.tune="all"   the blocks of the second stage (``python -m tlflax.zoo leaves.h5``)
Of ``beside``, the keys that `literal` names in this file stay its own when they are overridden.
"""

from tlflax.config import base, variant

VARIANTS = {
    "shoes": {},
    "literal": {"head_train": "all"},
    "beside": {"runs": ({"name": "corrected"}, {"name": "literal", "head_train": "all"})},
}


def get_config(arg: str = ""):
    """See the module's docstring."""
    config = base(
        preprocessing="unit",
        batch_size=8,
        augment="keras_idg(shear_range=0.2, zoom_range=0.2, horizontal_flip=True)",
        evaluate_start=True,
        evaluate_stages=True,
    )
    with config.unlocked():
        config.head_train = "head"
        config.head_epochs = 10
        config.head_lr = 1e-3
        config.tune = "all"
        config.tune_epochs = 10
        config.tune_lr = 1e-5
        config.update(VARIANTS[variant(arg, VARIANTS)])
    ref = config.get_ref
    config.stages = (
        {
            "name": "head",
            "epochs": ref("head_epochs"),
            "train": (ref("head_train"),),
            "optimizer": "nadam",
            "lr": ref("head_lr"),
            "augment": ref("augment"),
        },
        {
            "name": "tune",
            "epochs": ref("tune_epochs"),
            "train": (ref("tune"),),
            "lr": ref("tune_lr"),
            "augment": ref("augment"),
        },
    )
    return config
