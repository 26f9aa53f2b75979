r"""VGG16 on cats and dogs: frozen, with augmentation, with its fifth block fine-tuned.

    python -m tlflax.main --config configs/cats_dogs_vgg16.py:block5 --workdir runs/cats \
        --config.data=folder:pets

Variants (the Keras tutorial's steps; without one, frozen):
  frozen       features, Flatten, Dense 256, one sigmoid unit; Adam, 10 epochs
  frozen_aug   the same on flipped, rotated and zoomed images
  block5       frozen first, then everything from block5_conv1 at RMSprop 1e-5, 10 epochs
  block5_aug   the same, the second stage on augmented images
  literal      what the tutorial's code does, with the warnings that it deserves
  literal_frozen  the same for its first step
  beside       block5 and literal, one beside the other in WORKDIR/compare.html

What the tutorial gets wrong, and what this does instead:
  - VGG16 gets pixels / 255; its weights want BGR minus the channel means. The network brings its
    own preparation here; ``preprocessing='unit'`` is needed to have it wrong, and is warned of.
  - The test images are the validation images. Here a fifth of the training images is cut out
    for validation, and the test images are read once.
  - The augmentation layers are added after the head, where no image passes. A stage's ``augment``
    works on images here, before the network, and never in evaluation; there is no place after the
    head, so `literal` has no augmentation, which is what those layers amount to.
  - block5 is tuned by Adam at its default rate (the text says RMSprop, very low) together with a
    random head. Here the head converges first, then both go on at 1e-5. (In block5_aug the head's
    stage sees plain images, whose features are computed once.)

Measured on 1,000 photos (800 train, 200 validate; 400 test images), 150 px, November 2026, with
``mobilenet_v2_0.35`` and its real weights in VGG16's place, whose weights could not be
had (``--config.backbone=mobilenet_v2_0.35 --config.tune="from block_16"``); test accuracy
with its 95 % Wilson interval, and seconds on two CPU cores shared with other jobs:

    frozen          .915 (.884-.939)   33 s
    frozen_aug      .912 (.881-.936)   119 s
    block5          .915 (.884-.939)   54 s
    block5_aug      .915 (.884-.939)   151 s
    literal_frozen  .910 (.878-.934)   41 s; these images chose its state, so it is no estimate
    literal         .910 (.878-.934)   79 s; the same

400 images cannot tell them apart (``beside``: block5 and literal differ by 0.5 points, interval
-2.2 to 3.2, McNemar p = .86). VGG16 itself ran at random weights for an epoch a stage only
(block5_aug, 24 photos, 8 test images: .500 in 125 s; that says that it runs, nothing of accuracy).
The head of ``literal`` is kinder than the tutorial's: its last layer starts at zero here, so that
the first steps send nothing random into the network.

Data: your own folder of class folders, as above, or ``tfds:cats_vs_dogs`` without it, prepared once
with ``python scripts/prepare_data.py cats_vs_dogs`` (no test split: a fifth is cut out).
Microsoft's own PetImages has broken files: ``--config.on_bad_image=skip``. The tutorial's 4,000
images a class are ``--config.per_class=4000``.

Keys to override, beside those of `tlflax.config.DEFAULTS`:
  --config.head_epochs, head_lr, head_augment, tune_epochs, tune_lr, tune_optimizer,
           tune_augment
  --config.tune="from block5_conv1"   the blocks of the second stage, for another --config.backbone
Of ``beside``, the keys that `literal` names in this file stay its own when they are overridden.
"""

from tlflax.config import base, variant

AUGMENT = "keras_layers(flip=horizontal, rotation=0.1, zoom=0.1)"

LITERAL = {"preprocessing": "unit", "data_splits": {"val": "test", "test": 0.2}}
BLOCK5 = LITERAL | {"head_epochs": 0, "tune_optimizer": "adam", "tune_lr": 1e-3}

VARIANTS = {
    "frozen": {"tune_epochs": 0},
    "frozen_aug": {"tune_epochs": 0, "head_augment": AUGMENT},
    "block5": {},
    "block5_aug": {"tune_augment": AUGMENT},
    "literal": BLOCK5,
    "literal_frozen": LITERAL | {"tune_epochs": 0},
    "beside": {"runs": ({"name": "corrected"}, {"name": "literal"} | BLOCK5)},
}


def get_config(arg: str = ""):
    """See the module's docstring."""
    config = base(
        data="tfds:cats_vs_dogs",
        backbone="vgg16",
        image_size=150,
        head="flatten",
        hidden=(256,),
        output="sigmoid",
    )
    with config.unlocked():
        config.head_epochs = 10
        config.head_lr = 1e-3
        config.head_augment = "none"
        config.tune = "from block5_conv1"
        config.tune_epochs = 10
        config.tune_lr = 1e-5
        config.tune_optimizer = "rmsprop"
        config.tune_augment = "none"
        config.update(VARIANTS[variant(arg, VARIANTS)])
    ref = config.get_ref
    config.stages = (
        {
            "name": "head",
            "epochs": ref("head_epochs"),
            "lr": ref("head_lr"),
            "augment": ref("head_augment"),
        },
        {
            "name": "block5",
            "epochs": ref("tune_epochs"),
            "train": (ref("tune"),),
            "optimizer": ref("tune_optimizer"),
            "lr": ref("tune_lr"),
            "augment": ref("tune_augment"),
        },
    )
    return config
