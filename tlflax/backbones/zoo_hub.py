"""Zoo entries with TensorFlow Hub's weights and layer arithmetic. Import-light: no jax."""

from tlflax.backbones.spec import Contract, Source, Spec

# Hub modules take colours in 0..1; slim's go on to 2 x - 1 (their nodes hub_input/Mul and Sub).
# No resize is prescribed; antialiased bilinear is what PIL gives, as for the Keras networks.
_SIGNED = Contract(scale=1 / 127.5, mean=(1.0, 1.0, 1.0))
# EfficientNet's modules take colours in 0..1 as well, multiply them by 255 and normalise by 255
# times these (tensorflow/models, efficientnet/tfhub_export.py and preprocessing.py).
_TORCH = Contract(scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def _garden_aliases(repeats: tuple[int, ...]) -> dict[str, str]:
    """The model garden's names of EfficientNet's blocks, and of stacks of blocks."""
    aliases = {"stem": "stem_activation", "top": "top_activation"}
    for stack, count in enumerate(repeats):
        for block in range(count):
            name = f"block{stack + 1}{chr(ord('a') + block)}"
            name += "_add" if block else "_project_bn"
            aliases[f"stack_{stack}/block_{block}"] = aliases[f"stack_{stack}"] = name
    return aliases


def _slim_aliases(units: tuple[int, ...], depth: int) -> dict[str, str]:
    """TF-Slim's names: of units, of the four groups of units, and of the last layer."""
    scope, aliases = f"resnet_v2_{depth}", {}
    for group, count in enumerate(units, start=1):
        for unit in range(1, count + 1):
            name = f"block{group}/unit_{unit}"
            block = f"conv{group + 1}_block{unit}_out"
            aliases |= {name: block, f"{scope}/{name}/bottleneck_v2": block}
        last = f"conv{group + 1}_block{count}_out"
        aliases |= {f"block{group}": last, f"{scope}/block{group}": last}
    return aliases | {"postnorm": "post_relu", f"{scope}/postnorm": "post_relu"}


SPECS: tuple[Spec, ...] = (
    Spec(
        name="hub_resnet50_v2",
        build="tlflax.backbones.resnet_v2_slim:resnet_v2_slim",
        options={"units": (3, 4, 6, 3), "contract": _SIGNED},
        contract=_SIGNED,
        size=224,
        min_size=32,
        form="hub",
        # tfhub.dev/google/imagenet/resnet_v2_50/feature_vector/5, which moved to Kaggle.
        source=Source(
            "kaggle:google/resnet-v2/tensorFlow2/50-feature-vector/2",
            file="resnet_v2_50_feature_vector",
        ),
        top_layers=("resnet_v2_50/logits",),
        licence="Apache-2.0",
        top1=75.6,  # README of tensorflow/models, research/slim; measured at 299 pixels
        parameters=23_564_800,
        aliases=_slim_aliases((3, 4, 6, 3), 50),
    ),
    Spec(
        name="hub_efficientnet_b0",
        build="tlflax.backbones.efficientnet:efficientnet",
        options={"width": 1.0, "depth": 1.0, "contract": _TORCH},
        contract=_TORCH,
        size=224,
        min_size=32,
        form="hub",
        # tfhub.dev/tensorflow/efficientnet/b0/feature-vector/1, which moved to Kaggle.
        source=Source(
            "kaggle:tensorflow/efficientnet/tensorFlow2/b0-feature-vector/1",
            file="efficientnet_b0_feature_vector",
        ),
        top_layers=("logits",),
        licence="Apache-2.0",
        # Neither the module nor its code states an accuracy.
        parameters=4_049_564,
        aliases=_garden_aliases((1, 2, 2, 3, 3, 4, 1)),
    ),
)

SYNONYMS: dict[str, str] = {}

SUGGESTED: dict[str, str] = {
    "resnet_v2_50": "hub_resnet50_v2",
    "hub_resnet_v2_50": "hub_resnet50_v2",
    "google/imagenet/resnet_v2_50/feature_vector": "hub_resnet50_v2",
    "tensorflow/efficientnet/b0/feature-vector": "hub_efficientnet_b0",
    "efficientnet/b0/feature-vector": "hub_efficientnet_b0",
}
