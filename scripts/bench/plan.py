"""What is measured: networks, workloads, the peers' names for them, targets."""

import dataclasses

PEERS = ("tlflax", "keras_tf", "keras_jax", "torch")
TITLES = {
    "tlflax": "tlflax",
    "keras_tf": "Keras on TensorFlow",
    "keras_jax": "Keras on JAX",
    "torch": "torch",
}
# What an environment must hold to be a peer's.
PACKAGES = {
    "tlflax": ("jax", "flax", "grain", "optax"),
    "keras_tf": ("keras", "tensorflow", "PIL"),
    "keras_jax": ("keras", "jax", "grain", "PIL"),
    "torch": ("torch", "torchvision", "timm", "PIL"),
}


@dataclasses.dataclass(frozen=True)
class Contract:
    """Pixels to network inputs: ``(x[..., order] * scale - mean) / std``, one rule for all peers.

    Attributes:
      order: ``RGB`` or ``BGR``.
      scale: factor on 0..255.
      mean: per channel.
      std: per channel.
    """

    order: str = "RGB"
    scale: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


CAFFE = Contract("BGR", 1.0, (103.939, 116.779, 123.68))
UNIT = Contract("RGB", 1 / 127.5, (1.0, 1.0, 1.0))
TORCH = Contract("RGB", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclasses.dataclass(frozen=True)
class Network:
    """One row's network, as each peer calls it.

    Attributes:
      name: of the row.
      size: image side in pixels.
      quick: image side for `--quick`.
      tlflax: zoo name.
      keras: name in keras.applications, ``""`` if Keras has other layers.
      torch: ``LIBRARY:NAME``, ``""`` if torch has other layers.
      endpoint: tlflax' and Keras' layer to cut at, ``auto`` for the last.
      contract: of the pixels.
      torch_form: tlflax' network with exactly torch's layers, where `tlflax` differs from them
        (in padding; the work is the same to 1 %); compared with torch in `--quick`.
      torch_contract: that network's.
      last: the first of tlflax', Keras' and torch's layers of "the last block".
      batch: images per forward pass.
      step_batch: images per training step.
      forward_target: least speed over the best peer's, by the project's plan.
      quick_rate: learning rate of `--quick`, at which the loss moves by some percent and no more:
        with drawn weights, networks with norms have steep losses, on which larger steps are
        chaotic and rounding decides.
    """

    name: str
    size: int
    quick: int
    tlflax: str
    keras: str = ""
    torch: str = ""
    endpoint: str = "auto"
    contract: Contract = CAFFE
    torch_form: str = ""
    torch_contract: Contract = TORCH
    last: tuple[str, str, str] = ("", "", "")
    batch: int = 32
    step_batch: int = 16
    forward_target: float = 0.9
    quick_rate: float = 1e-6

    def peers(self) -> tuple[str, ...]:
        """The peers that have this network."""
        has = {"tlflax": True, "keras_tf": self.keras, "keras_jax": self.keras, "torch": self.torch}
        return tuple(p for p in PEERS if has[p])


NETWORKS = {
    n.name: n
    for n in (
        Network(
            "vgg16", 150, 48, "vgg16", "VGG16", "torchvision:vgg16",
            last=("block5_conv1", "block5_conv1", "24"), batch=16, quick_rate=1e-3,
        ),
        # Keras halves the map in the unit's first 1x1 convolution, torchvision in its 3x3 one,
        # which is 6 % more work: two rows, so that like is compared with like.
        Network("resnet50", 160, 64, "resnet50", "ResNet50"),
        Network(
            "resnet50_torch", 160, 64, "torch_resnet50", "", "torchvision:resnet50",
            contract=TORCH,
        ),
        Network(
            "mobilenet_v2", 160, 64, "mobilenet_v2_1.0", "MobileNetV2", "timm:mobilenetv2_100",
            contract=UNIT, torch_form="torch_mobilenet_v2_1.0",
            last=("block_16", "block_16_expand", "blocks.6"), forward_target=1.2,
        ),
        Network(
            "inception_v3", 150, 96, "inception_v3", "InceptionV3", "timm:inception_v3",
            endpoint="mixed7", contract=UNIT,
        ),
        Network(
            "efficientnet_b0", 224, 64, "efficientnet_b0", "EfficientNetB0",
            "timm:efficientnet_b0", contract=TORCH, torch_form="torch_efficientnet_b0",
            forward_target=1.2,
        ),
    )
}  # fmt: skip

# Letter -> what it is; in the order in which they run, the cheap ones first.
WORKLOADS = {
    "f": "decode pipeline: JPEG files to uint8 batches at 224 px",
    "a": "forward pass, images to features",
    "c": "VGG16 step that trains block5 and the head",
    "b": "full fine-tuning step",
    "g": "full fine-tuning step in bfloat16, batch 256 (GPU only)",
    "d": "whole job: 10 epochs of a head on the frozen network",
    "e": "whole job: 10 epochs of the last block and a head",
}
# Part of the time budget that each may take; whole jobs cannot be cut short.
SHARES = {"f": 0.03, "a": 0.15, "c": 0.05, "b": 0.22, "g": 0.05, "d": 0.28, "e": 0.22}
STEP_TARGET, BLOCK5_TARGET = 0.8, 4.0
JOB_NETWORKS = ("vgg16", "mobilenet_v2")
# The jobs' images: training, validation, test. All epochs read the first two.
JOB_IMAGES = {"vgg16": (240, 60, 60), "mobilenet_v2": (800, 200, 400)}
JOB_TARGETS = {
    ("d", "vgg16"): 6.0, ("d", "mobilenet_v2"): 4.0, ("d2", "vgg16"): 20.0,
    ("e", "vgg16"): 3.0, ("e", "mobilenet_v2"): 3.0,
}  # fmt: skip
EPOCHS = 10
RATE, MOMENTUM = 1e-3, 0.9
# Of jobs that train a block with drawn weights: at larger rates the loss of VGG16, which has no
# norms, is no number after some steps, and tlflax stops there.
BLOCK_RATE = 1e-9
DECODE_SIZE, DECODE_BATCH, DECODE_IMAGES = 224, 32, 512
