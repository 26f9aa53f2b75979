r"""Feature vectors of TensorFlow Hub on ten foods, 75 images of each: as they are, or fine-tuned.

    python -m tlflax.main --config configs/food101_10pct.py:resnet50_v2 --workdir runs/food \
        --config.data=folder:foods --config.classes="()"
    python -m tlflax.main --config configs/food101_10pct.py:both --workdir runs/both \
        --config.data=folder:foods --config.classes="()"

Variants: NETWORK is resnet50_v2 (without a variant) or efficientnet_b0, the tutorial's two feature
vectors.
  NETWORK              as it is: feature vector (frozen), one Dense layer; Adam, 5 epochs
  NETWORK_fine_tuned   then 5 epochs of its last quarter as well, at a tenth of the rate
  NETWORK_full         then 5 epochs of all of it, from the pretrained start, at a tenth of the rate
  literal              resnet50_v2 as the tutorial's code has it, with the warning that it deserves
Several runs, compared on the same test images in WORKDIR/compare.html:
  both                 the two networks as they are; others: both=mobilenet_v2_0.35,squeezenet_1.1
  modes                the three kinds of transfer, of resnet50_v2
  beside               resnet50_v2 and literal

What the tutorial gets wrong, and what this does instead: the 2,500 test images are the validation
images. Here 15 of the 75 training images a class are cut out for validation (75 labelled images a
class are all there is); the test images are read once. (Pixels / 255, which the tutorial gives to
the modules, are right: what the modules make of them is part of the networks here.)

Every run has TensorBoard files (``tensorboard --logdir runs``), keeps its best checkpoint by
validation, and stops when three epochs in a row bring nothing better.

Data: your own folder with all of its classes, as above, or the tutorial's ten classes of
``tfds:food101`` without both flags, prepared once with ``python scripts/prepare_data.py food101``;
60 images of each class train (``--config.per_class``). The weights are read with ``pip install -e
".[tf]"``.

Measured on ten foods, November 2026, with ``mobilenet_v2_0.35`` and its real ImageNet weights in
the modules' place, which could not be had (``modes`` and ``literal`` with
``--config.backbone=mobilenet_v2_0.35``); 600 images train, 150 validate, 500 test; test accuracy
with its 95 % Wilson interval, and seconds of a run on two CPU cores shared with other jobs:

    as_is        .662 (.619-.702)   9 s
    fine_tuned   .662 (.619-.702)   29 s
    full         .668 (.626-.708)   102 s
    literal      .696 (.654-.735)   4 s; 750 images train; the test images chose its state; beside,
                 it is 3.4 points better (interval 0.0 to 6.6, McNemar p = .057)
    both=mobilenet_v2_0.35,squeezenet_1.1
                 .662 (.619-.702) 14 s and .660 (.617-.700) 11 s, not separable (McNemar p = 1)

These images cannot tell the three kinds apart, after 5 + 5 epochs. With the stand-in the variants
of efficientnet_b0 are those of resnet50_v2, which are the runs of ``modes``. The two modules' own
networks ran at random weights for an epoch a stage only (8 images a class, 40 test images):
``both`` resnet50_v2 .100 in 90 s and efficientnet_b0 .150 in 158 s, resnet50_v2_full .100 in 254 s.
That says that they run, nothing of accuracy.

Keys to override, beside those of `tlflax.config.DEFAULTS`:
  --config.head_epochs, head_lr, tune_epochs, tune_lr
  --config.tune="last 25%"   the blocks of the second stage, for another --config.backbone
Of ``beside``, the keys that `literal` names in this file stay its own when they are overridden.
"""

from tlflax.config import base, variant

CLASSES = (
    "chicken_curry", "chicken_wings", "fried_rice", "grilled_salmon", "hamburger",
    "ice_cream", "pizza", "ramen", "steak", "sushi",
)  # fmt: skip

NETWORKS = {"resnet50_v2": "hub_resnet50_v2", "efficientnet_b0": "hub_efficientnet_b0"}
MODES = {
    "as_is": {"tune_epochs": 0},
    "fine_tuned": {"tune_epochs": 5, "tune": "last 25%"},
    "full": {"tune_epochs": 5, "tune": "all"},
}
LITERAL = {"per_class": 75, "data_splits": {"val": "test", "test": "val"}}
SINGLE = {
    name if mode == "as_is" else f"{name}_{mode}": {"backbone": backbone} | keys
    for name, backbone in NETWORKS.items()
    for mode, keys in MODES.items()
}
VARIANTS = SINGLE | {
    "both": {"runs": tuple({"name": n, "backbone": b} for n, b in NETWORKS.items())},
    "modes": {"runs": tuple({"name": m} | keys for m, keys in MODES.items())},
    "literal": LITERAL,
    "beside": {"runs": ({"name": "corrected"}, {"name": "literal"} | LITERAL)},
}


def get_config(arg: str = ""):
    """See the module's docstring."""
    # "both=a,b": the networks to compare.
    name, _, networks = arg.partition("=")
    name = variant(name if name == "both" else arg, VARIANTS)
    config = base(
        data="tfds:food101",
        classes=CLASSES,
        per_class=60,
        # Food-101 in tfds calls its test split validation; a folder's own test images stay.
        data_splits={"val": 150, "test": "val"},
        backbone="hub_resnet50_v2",
        image_size=224,
    )
    with config.unlocked():
        config.head_epochs = 5
        config.head_lr = 1e-3
        config.tune = "last 25%"
        config.tune_epochs = 0
        config.tune_lr = 1e-4
        config.update(VARIANTS[name])
        if networks:
            config.runs = tuple({"name": n, "backbone": n} for n in networks.split(","))
    ref = config.get_ref
    config.stages = (
        {
            "name": "head",
            "epochs": ref("head_epochs"),
            "lr": ref("head_lr"),
            "stop": ("patience=3",),
        },
        {
            "name": "tune",
            "epochs": ref("tune_epochs"),
            "train": (ref("tune"),),
            "lr": ref("tune_lr"),
            "stop": ("patience=3",),
        },
    )
    return config
