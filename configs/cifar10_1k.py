r"""CIFAR-10 with 1,000 training images: from scratch, features, fine-tuning, other networks.

    python -m tlflax.main --config configs/cifar10_1k.py:vgg16_tune --workdir runs/cifar \
        --config.data=folder:cifar
    python -m tlflax.main --config configs/cifar10_1k.py:study_ways --workdir runs/ways \
        --config.data=folder:cifar

One run (the tutorial's cells): 800 images train, 200 validate (stratified, seed 42), the whole
test split tests once. Without a variant, scratch.
  scratch        Conv 32, 64, 128 with pooling, Flatten, Dense 128, Dropout 0.5; Adam, 20 epochs
  vgg16          frozen VGG16, average, Dense 256, Dropout 0.5; Adam, 20 epochs
  vgg16_tune     10 epochs of the head, 10 of the last block as well at Adam 1e-5
  resnet50, mobilenet_v2, inception_v3
                 frozen, average, Dense 128, Dropout 0.5; 10 epochs. InceptionV3 takes 75 px at
                 least: images are enlarged (--config.image_size=96 enlarges them for any network)
  literal        vgg16_tune as the tutorial's code has it, with the warning that it deserves (the
                 others: --config.preprocessing=unit)
Several runs, compared on the same test images in WORKDIR/compare.html (the tutorial's exercises):
  study_ways     scratch, features, fine-tuned
  study_depth    none, the last quarter, the last half, all of the blocks fine-tuned
  study_networks the networks above; others: study_networks=vgg16,mobilenet_v2_0.35. Those that
                 need larger images than the others get --config.enlarged_size (75 for
                 InceptionV3: give it too, with --config.image_size above that)
  beside         vgg16_tune and literal
  binary         cats and dogs, 200 images each (160 train, 40 validate), all three ways

What the tutorial gets wrong, and what this does instead: all networks get pixels / 255, where
VGG16 and ResNet50 want BGR minus the channel means and MobileNetV2 -1..1. Networks bring their own
preparation here; ``preprocessing='unit'`` is needed to have it wrong, and is warned of.

Data: your own folder, as above, or ``tfds:cifar10`` without it, prepared once with ``python
scripts/prepare_data.py cifar10``; of every class 80 images train (``--config.per_class``; 0 for
all), 200 images in all validate (``--config.data_splits.val``, a number of images here; 0.2 for a
small folder); a folder without ``test/`` gives a fifth to the test first. ``binary`` wants classes
cat and dog.

Measured on CIFAR-10 images saved as JPEG (800 train, 200 validate; 1,000 test images), November
2026, with ``mobilenet_v2_0.35`` and its real ImageNet weights in the place of VGG16, whose weights
could not be had (``--config.backbone=mobilenet_v2_0.35 --config.tune="from block_16"``); test
accuracy with its 95 % Wilson interval, and seconds of training on two CPU cores shared with other
jobs:

    study_ways       scratch .397 (.367-.428) 33 s; features .316 (.288-.345) 15 s; fine-tuned .341
                     (.312-.371) 28 s: at 32 px a network for 224 px says less than 800 images do
    the same, images enlarged (--config.image_size=96)
                     scratch .406 (.376-.437) 20 min; features .621 (.591-.651) 16 s; fine-tuned
                     .650 (.620-.679) 49 s; each better than the one before (McNemar, Holm: p < .01)
    study_depth      none (8 s), last 25 (37 s) and all (46 s) .316 (.288-.345): at 1e-5 nothing
                     better than the head was found on the validation images; last 50 .352
                     (.323-.382) 32 s, better than each of them (McNemar, Holm: p = .033)
    literal          .346 (.317-.376) 21 s; its pixels are wrong, but at 32 px no cost of that is
                     seen: beside, it is .5 points better (interval -2.6 to 3.6, McNemar p = .80)
    vgg16, vgg16_tune are features and fine-tuned of study_ways with this network
    resnet50, mobilenet_v2
                     .328 (.300-.358) 8 s: with the stand-in they are one and the same run
    inception_v3     .527 (.496-.558) 16 s: its 75 px are what the others lack
    binary           scratch .550 (.481-.617) 14 s, features and fine-tuned .570 (.501-.637) 6 and
                     10 s, of 200 images: no difference can be seen
    study_networks   mobilenet_v2_0.35 .328 (.300-.358), squeezenet_1.1 .429 (.399-.460),
                     cifar_resnet20 .836 (.812-.858), 6 s each, each better than the one before
                     (McNemar, Holm: p < .001); this last one was trained on CIFAR-10, on these
                     training and validation images among others

The tutorial's own networks ran at random weights for an epoch a stage only (8 images a class, 40
test images): vgg16_tune .075 in 45 s, resnet50 .125 in 28 s, mobilenet_v2 .075 in 26 s,
inception_v3 .100 in 80 s. That says that they run, nothing of accuracy.

Keys to override, beside those of `tlflax.config.DEFAULTS`:
  --config.head_epochs, head_lr, tune_epochs, tune_lr, scratch_epochs, scratch_lr
  --config.tune="from block5_conv1"   the blocks of the second stage, for another --config.backbone
Of ``beside``, the keys that `literal` names in this file stay its own when they are overridden.
"""

from tlflax.backbones.table import get
from tlflax.config import base, variant

SCRATCH = {"backbone": "simple_cnn", "weights": "none", "head": "flatten", "hidden": (128,)}
COMPARED = {"hidden": (128,), "head_epochs": 10, "tune_epochs": 0}
TUNED = {"head_epochs": 10, "tune_epochs": 10}

VARIANTS = {
    "scratch": SCRATCH,
    "vgg16": {},
    "vgg16_tune": TUNED,
    "resnet50": COMPARED | {"backbone": "resnet50"},
    "mobilenet_v2": COMPARED | {"backbone": "mobilenet_v2_1.0"},
    "inception_v3": COMPARED | {"backbone": "inception_v3", "image_size": 75},
    "study_ways": {},
    "study_depth": {},
    "study_networks": COMPARED,
    "binary": {
        "classes": ("cat", "dog"),
        "per_class": 160,
        "data_splits": {"val": 80, "test": 0.2},
    },
    "literal": TUNED | {"preprocessing": "unit"},
    "beside": TUNED
    | {"runs": ({"name": "corrected"}, {"name": "literal", "preprocessing": "unit"})},
}
NETWORKS = "vgg16,resnet50,mobilenet_v2_1.0,inception_v3"
DEPTHS = {"last 25": "last 25%", "last 50": "last 50%", "all": "all"}


def get_config(arg: str = ""):
    """See the module's docstring."""
    # "study_networks=a,b": the networks to compare.
    name, _, networks = arg.partition("=")
    name = variant(name if name == "study_networks" else arg, VARIANTS)
    config = base(
        data="tfds:cifar10",
        per_class=80,
        data_splits={"val": 200, "test": 0.2},
        seed=42,
        backbone="vgg16",
        image_size=32,
        hidden=(256,),
        dropout=0.5,
    )
    with config.unlocked():
        config.head_epochs = 20
        config.head_lr = 1e-3
        config.tune = "from block5_conv1"
        config.tune_epochs = 0
        config.tune_lr = 1e-5
        config.scratch_epochs = 20
        config.scratch_lr = 1e-3
        config.update(VARIANTS[name])
    ref = config.get_ref
    scratch = (
        {
            "name": "scratch",
            "epochs": ref("scratch_epochs"),
            "train": ("all",),
            "lr": ref("scratch_lr"),
        },
    )
    config.stages = (
        {"name": "head", "epochs": ref("head_epochs"), "lr": ref("head_lr")},
        {
            "name": "tune",
            "epochs": ref("tune_epochs"),
            "train": (ref("tune"),),
            "lr": ref("tune_lr"),
        },
    )
    if name == "scratch":
        config.stages = scratch
    if name in ("study_ways", "binary"):
        config.runs = (
            {"name": "scratch", "stages": scratch} | SCRATCH,
            {"name": "features"},
            {"name": "fine-tuned"} | TUNED,
        )
    if name == "study_depth":
        depths = [{"name": k, "tune": rule} | TUNED for k, rule in DEPTHS.items()]
        config.runs = ({"name": "none"}, *depths)
    if name == "study_networks":
        chosen = (networks or NETWORKS).split(",")
        large = [n for n in chosen if get(n).min_size > config.image_size]
        with config.unlocked():
            config.enlarged_size = max((get(n).min_size for n in large), default=config.image_size)
        # --config.image_size is for all others.
        enlarged = {"image_size": ref("enlarged_size")}
        config.runs = tuple(
            {"name": n, "backbone": n} | (enlarged if n in large else {}) for n in chosen
        )
    return config
