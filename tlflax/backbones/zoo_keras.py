"""Zoo entries whose weights the Keras project publishes. Import-light: no jax."""

import math

from tlflax.backbones.spec import Contract, Source, Spec

_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications"

# keras.applications.imagenet_utils.preprocess_input, modes "tf" and "caffe". Keras prescribes no
# resize; antialiased bilinear is what PIL gives when its users load an image at a target size.
_TF = Contract(scale=1 / 127.5, mean=(1.0, 1.0, 1.0))
_CAFFE = Contract(order="BGR", mean=(103.939, 116.779, 123.68))
# What EfficientNet's own first layers compute in keras.applications with weights="imagenet":
# Rescaling by 1/255, Normalization, and a second Rescaling (see keras_form).
_TORCH = Contract(scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def _vgg(depth: int, convolutions: tuple[int, ...], md5: str, parameters: int) -> Spec:
    file = f"vgg{depth}_weights_tf_dim_ordering_tf_kernels_notop.h5"
    aliases, index = {}, 0
    # torchvision numbers convolutions, ReLUs and poolings; ours are after the ReLU.
    for group, count in enumerate(convolutions, start=1):
        aliases |= {
            f"features.{index + 2 * i - 1}": f"block{group}_conv{i}" for i in range(1, count + 1)
        }
        aliases[f"features.{index + 2 * count}"] = f"block{group}_pool"
        index += 2 * count + 1
    return Spec(
        name=f"vgg{depth}",
        build="tlflax.backbones.vgg:vgg",
        options={"convolutions": convolutions, "contract": _CAFFE},
        contract=_CAFFE,
        size=224,
        min_size=32,
        source=Source(f"{_KERAS}/vgg{depth}/{file}", f"md5:{md5}"),
        top_layers=("flatten", "fc1", "fc2", "predictions"),
        licence="CC BY 4.0 (Visual Geometry Group, Oxford)",
        top1=71.3,  # keras.io/api/applications, both depths
        parameters=parameters,
        aliases=aliases,
    )


# Residual units by depth.
_UNITS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def _resnet(depth: int, md5: str, top1: float, parameters: int, v2: bool = False) -> Spec:
    contract = _TF if v2 else _CAFFE
    options = {"units": _UNITS[depth], "contract": contract, "preactivated": v2}
    file = f"resnet{depth}{'v2' if v2 else ''}_weights_tf_dim_ordering_tf_kernels_notop.h5"
    aliases = {"norm": "post_relu"} if v2 else {"maxpool": "pool1_pool"}
    # torchvision (and timm) count units from 0 and stages from 1; timm's V2, both from 0.
    for stage, count in enumerate(_UNITS[depth], start=1):
        units = [f"conv{stage + 1}_block{unit}_out" for unit in range(1, count + 1)]
        for foreign in (f"layer{stage}.", *([f"stages.{stage - 1}.blocks."] if v2 else ())):
            aliases |= {f"{foreign}{i}": unit for i, unit in enumerate(units)}
        aliases[f"layer{stage}"] = units[-1]
    return Spec(
        name=f"resnet{depth}{'_v2' if v2 else ''}",
        build="tlflax.backbones.resnet:resnet",
        options=options,
        contract=contract,
        size=224,
        min_size=32,
        source=Source(f"{_KERAS}/resnet/{file}", f"md5:{md5}"),
        # The published files with classifier call it probs, keras.applications predictions.
        top_layers=("avg_pool", "probs", "predictions"),
        licence="BSD (Facebook)" if v2 else "MIT (Kaiming He)",  # as keras.io states them
        top1=top1,  # keras.io/api/applications
        parameters=parameters,
        aliases=aliases,
    )


def _mobilenet(width: str, file_width: str, top1: float, parameters: int) -> Spec:
    # One file per width and training resolution, without hashes, as for MobileNetV2.
    return Spec(
        name=f"mobilenet_{width}",
        build="tlflax.backbones.mobilenet:mobilenet",
        options={"width": float(width), "contract": _TF},
        contract=_TF,
        size=224,
        min_size=32,
        source=Source(f"{_KERAS}/mobilenet/mobilenet_{file_width}_224_tf_no_top.h5"),
        top_layers=("conv_preds", "predictions"),
        licence="Apache-2.0",
        top1=top1,
        parameters=parameters,
        # TF-Slim's.
        aliases={f"Conv2d_{i}_pointwise": f"conv_pw_{i}_relu" for i in range(1, 14)}
        | {"Conv2d_0": "conv1_relu"},
    )


_SQUEEZENET_BLOCKS = (
    *("relu_conv1", "pool1", "fire2_concat", "fire3_concat", "pool3", "fire4_concat"),
    *("fire5_concat", "pool5", *(f"fire{i}_concat" for i in range(6, 10))),
)
_SQUEEZENET = Spec(
    name="squeezenet_1.1",
    build="tlflax.backbones.squeezenet:squeezenet",
    options={"contract": _CAFFE},
    contract=_CAFFE,
    size=224,
    min_size=48,
    # Not one of Keras' own: converted from the authors' Caffe model.
    source=Source(
        "https://github.com/DeepCognition/keras-squeezenet/releases/download/v0.4/"
        "squeezenet_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "md5:80b66c92d79d4310e07fb60a297bf0d1",
    ),
    top_layers=("conv10",),
    licence="MIT (DeepCognition); Caffe model by its authors BSD-2-Clause",
    top1=57.5,  # Table 2 of the paper, for version 1.0; its authors call 1.1 no less accurate
    parameters=722_496,
    # Caffe's, and torchvision's (which numbers the first ReLU 1).
    aliases={f"fire{i}/concat": f"fire{i}_concat" for i in range(2, 10)}
    | {f"features.{i}": block for i, block in enumerate(_SQUEEZENET_BLOCKS, start=1)},
)


def _mobilenet_v2(width: str, top1: float, parameters: int) -> Spec:
    # Keras serves one file per width and training resolution; 224 is what it uses itself for
    # any size it has no file for. It publishes no hashes for these files.
    file = f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{float(width)}_224_no_top.h5"
    aliases = {"features.0": "Conv1_relu", "features.18": "out_relu"}
    index = 0
    # torchvision numbers the blocks through, timm within each of the paper's stages.
    for stage, repeats in enumerate((1, 2, 3, 4, 3, 3, 1)):
        for unit in range(repeats):
            prefix = f"block_{index}" if index else "expanded_conv"
            block = f"{prefix}_{'add' if unit else 'project_BN'}"
            aliases |= {f"features.{index + 1}": block, f"blocks.{stage}.{unit}": block}
            index += 1
    return Spec(
        name=f"mobilenet_v2_{width}",
        build="tlflax.backbones.mobilenet_v2:mobilenet_v2",
        options={"width": float(width), "contract": _TF},
        contract=_TF,
        size=224,
        min_size=32,
        source=Source(f"{_KERAS}/mobilenet_v2/{file}"),
        top_layers=("Logits", "predictions", "global_average_pooling2d"),
        licence="Apache-2.0",
        top1=top1,  # README of tensorflow/models, research/slim/nets/mobilenet, at 224
        parameters=parameters,
        aliases=aliases,
    )


# torchvision's (and timm's, and TF-Slim's) names of the stem, and of the modules of InceptionV3.
_INCEPTION_STEM = {
    "Conv2d_1a_3x3": "stem1_relu",
    "Conv2d_2a_3x3": "stem2_relu",
    "Conv2d_2b_3x3": "stem3_relu",
    "maxpool1": "stem3_pool",
    "MaxPool_3a_3x3": "stem3_pool",
    "Conv2d_3b_1x1": "stem4_relu",
    "Conv2d_4a_3x3": "stem5_relu",
    "maxpool2": "stem5_pool",
    "MaxPool_5a_3x3": "stem5_pool",
}
_INCEPTION_MIXED = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")


def _inception_v3() -> Spec:
    file = "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5"
    mixed = {f"Mixed_{name}": f"mixed{i}" for i, name in enumerate(_INCEPTION_MIXED)}
    return Spec(
        name="inception_v3",
        build="tlflax.backbones.inception_v3:inception_v3",
        options={"contract": _TF},
        contract=_TF,
        size=299,
        min_size=75,
        source=Source(f"{_KERAS}/inception_v3/{file}", "md5:bcbd6486424b2319ff4ef7d526e38f63"),
        top_layers=("avg_pool", "predictions"),
        licence="Apache-2.0",
        top1=77.9,  # keras.io/api/applications
        parameters=21_802_784,
        aliases=_INCEPTION_STEM | mixed,
    )


def _efficientnet(
    index: int, width: float, depth: float, size: int, md5: str, top1: float, parameters: int
) -> Spec:
    # Keras prints 7 parameters more: mean, variance and count of its Normalization layer, which
    # are compared with the contract.
    options = {"width": width, "depth": depth, "contract": _TORCH}
    aliases = {"features.0": "stem_activation", "features.8": "top_activation"}
    for stage, repeats in enumerate((1, 2, 2, 3, 3, 4, 1), start=1):
        letters = "abcdefghijklm"[: math.ceil(depth * repeats)]
        names = [f"block{stage}{x}_{'add' if x != 'a' else 'project_bn'}" for x in letters]
        # torchvision counts the stem as stage 0, timm does not count it.
        for foreign in (f"features.{stage}", f"blocks.{stage - 1}"):
            aliases |= {f"{foreign}.{i}": name for i, name in enumerate(names)}
            aliases[foreign] = names[-1]
    return Spec(
        name=f"efficientnet_b{index}",
        build="tlflax.backbones.efficientnet:efficientnet",
        options=options,
        contract=_TORCH,
        size=size,
        min_size=32,
        source=Source(
            f"https://storage.googleapis.com/keras-applications/efficientnetb{index}_notop.h5",
            f"md5:{md5}",
        ),
        top_layers=("avg_pool", "top_dropout", "predictions"),
        licence="Apache-2.0",
        top1=top1,  # keras.io/api/applications
        parameters=parameters,
        aliases=aliases,
    )


SPECS = (
    _vgg(16, (2, 2, 3, 3, 3), "6d6bbae143d832006294945121d1f1fc", 14_714_688),
    _vgg(19, (2, 2, 4, 4, 4), "253f8cb515780f3b799900260a226db6", 20_024_384),
    _resnet(50, "4d473c1dd8becc155b73f8504c6f6626", 74.9, 23_587_712),
    _resnet(101, "88cf7a10940856eca736dc7b7e228a21", 76.4, 42_658_176),
    _resnet(152, "ee4c566cf9a93f14d82f913c2dc6dd0c", 76.6, 58_370_944),
    _resnet(50, "fac2f116257151a9d068a22e544a4917", 76.0, 23_564_800, v2=True),
    _resnet(101, "c0ed64b8031c3730f411d2eb4eea35b5", 77.2, 42_626_560, v2=True),
    _resnet(152, "ed17cf2e0169df9d443503ef94b23b33", 78.0, 58_331_648, v2=True),
    # keras.io/api/applications for width 1.0; the others as its source states them.
    _mobilenet("0.25", "2_5", 50.6, 218_544),
    _mobilenet("0.5", "5_0", 63.7, 829_536),
    _mobilenet("0.75", "7_5", 68.4, 1_832_976),
    _mobilenet("1.0", "1_0", 70.4, 3_228_864),
    _mobilenet_v2("0.35", 60.3, 410_208),
    _mobilenet_v2("0.5", 65.4, 706_224),
    _mobilenet_v2("0.75", 69.8, 1_382_064),
    _mobilenet_v2("1.0", 71.8, 2_257_984),
    _mobilenet_v2("1.3", 74.4, 3_766_048),
    _mobilenet_v2("1.4", 75.0, 4_363_712),
    _SQUEEZENET,
    _inception_v3(),
    _efficientnet(0, 1.0, 1.0, 224, "50bc09e76180e00e4465e1a485ddc09d", 77.1, 4_049_564),
    _efficientnet(1, 1.0, 1.1, 240, "74c4e6b3e1f6a1eea24c589628592432", 79.1, 6_575_232),
    _efficientnet(2, 1.1, 1.2, 260, "111f8e2ac8aa800a7a99e3239f7bfb39", 80.1, 7_768_562),
    _efficientnet(3, 1.2, 1.4, 300, "af6d107764bb5b1abb91932881670226", 81.6, 10_783_528),
    _efficientnet(4, 1.4, 1.8, 380, "ebc24e6d6c33eaebbd558eafbeedf1ba", 82.9, 17_673_816),
    _efficientnet(5, 1.6, 2.2, 456, "38879255a25d3c92d5e44e04ae6cec6f", 83.6, 28_513_520),
    _efficientnet(6, 1.8, 2.6, 528, "9ecce42647a20130c1f39a5d4cb75743", 84.0, 40_960_136),
    _efficientnet(7, 2.0, 3.1, 600, "cbcfe4450ddf6f3ad90b1b398090fe4a", 84.3, 64_097_680),
)

# Spellings of the same network: a missing width means 1.0; torchvision, timm and class names.
SYNONYMS = {
    "mobilenet_v2": "mobilenet_v2_1.0",
    "mobilenetv2": "mobilenet_v2_1.0",
    "mobilenet_v2_0.50": "mobilenet_v2_0.5",
    "mobilenet": "mobilenet_1.0",
    "mobilenet_v1": "mobilenet_1.0",
    "mobilenet_0.50": "mobilenet_0.5",
    **{f"resnet{depth}v2": f"resnet{depth}_v2" for depth in _UNITS},
}

# Same name, other weights or layers elsewhere: never taken silently, only suggested.
SUGGESTED = {
    "mobilenetv2_100": "mobilenet_v2_1.0",
    "mobilenetv2_050": "mobilenet_v2_0.5",
    "mobilenetv2_140": "mobilenet_v2_1.4",
    "VGG16": "vgg16",
    "VGG19": "vgg19",
    "MobileNetV2": "mobilenet_v2_1.0",
    "MobileNet": "mobilenet_1.0",
    "mobilenetv1_100": "mobilenet_1.0",
    **{f"ResNet{depth}": f"resnet{depth}" for depth in _UNITS},
    **{f"ResNet{depth}V2": f"resnet{depth}_v2" for depth in _UNITS},
    **{f"resnetv2_{depth}": f"resnet{depth}_v2" for depth in _UNITS},
    "SqueezeNet": "squeezenet_1.1",
    "squeezenet": "squeezenet_1.1",
    "squeezenet1_1": "squeezenet_1.1",
    "InceptionV3": "inception_v3",
    "inceptionv3": "inception_v3",
    **{f"EfficientNetB{i}": f"efficientnet_b{i}" for i in range(8)},
    **{f"efficientnetb{i}": f"efficientnet_b{i}" for i in range(8)},
}
