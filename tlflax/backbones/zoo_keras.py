"""Zoo entries whose weights the Keras project publishes. Import-light: no jax."""

from tlflax.backbones.spec import Contract, Source, Spec

_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications"

# keras.applications.imagenet_utils.preprocess_input, modes "tf" and "caffe". Keras prescribes no
# resize; antialiased bilinear is what PIL gives when its users load an image at a target size.
_TF = Contract(scale=1 / 127.5, mean=(1.0, 1.0, 1.0))
_CAFFE = Contract(order="BGR", mean=(103.939, 116.779, 123.68))


def _vgg(depth: int, convolutions: tuple[int, ...], md5: str, parameters: int) -> Spec:
    file = f"vgg{depth}_weights_tf_dim_ordering_tf_kernels_notop.h5"
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
    )


def _mobilenet_v2(width: str, top1: float, parameters: int) -> Spec:
    # Keras serves one file per width and training resolution; 224 is what it uses itself for
    # any size it has no file for. It publishes no hashes for these files.
    file = f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{float(width)}_224_no_top.h5"
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
    )


SPECS = (
    _vgg(16, (2, 2, 3, 3, 3), "6d6bbae143d832006294945121d1f1fc", 14_714_688),
    _vgg(19, (2, 2, 4, 4, 4), "253f8cb515780f3b799900260a226db6", 20_024_384),
    _mobilenet_v2("0.35", 60.3, 410_208),
    _mobilenet_v2("0.5", 65.4, 706_224),
    _mobilenet_v2("0.75", 69.8, 1_382_064),
    _mobilenet_v2("1.0", 71.8, 2_257_984),
    _mobilenet_v2("1.3", 74.4, 3_766_048),
    _mobilenet_v2("1.4", 75.0, 4_363_712),
)

# Spellings of the same network: a missing width means 1.0; torchvision, timm and class names.
SYNONYMS = {
    "mobilenet_v2": "mobilenet_v2_1.0",
    "mobilenetv2": "mobilenet_v2_1.0",
    "mobilenet_v2_0.50": "mobilenet_v2_0.5",
}

# Same name, other weights or layers elsewhere: never taken silently, only suggested.
SUGGESTED = {
    "mobilenetv2_100": "mobilenet_v2_1.0",
    "mobilenetv2_050": "mobilenet_v2_0.5",
    "mobilenetv2_140": "mobilenet_v2_1.4",
    "VGG16": "vgg16",
    "VGG19": "vgg19",
    "MobileNetV2": "mobilenet_v2_1.0",
}
