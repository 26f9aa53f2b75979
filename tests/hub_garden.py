"""EfficientNet-B0 as TensorFlow's model garden builds it and as TensorFlow Hub got it.

Variables, shapes and layer names are written down here from the published code
(tensorflow/models, official/vision/image_classification/efficientnet), not taken from our table.
Run as a program, in a process that has TensorFlow and tf_keras (Keras 2, whose layer names may
have slashes), it builds that network, saves it as the hub module was saved, and runs it:

    python hub_garden.py ARRAYS.npz IMAGES.npy FOLDER OUT.npz
"""

import os
import re
import sys

import numpy as np

# Kernel, repeats, input and output channels, expansion, first stride.
STACKS = (
    (3, 1, 32, 16, 1, 1),
    (3, 2, 16, 24, 6, 2),
    (5, 2, 24, 40, 6, 2),
    (3, 3, 40, 80, 6, 2),
    (5, 3, 80, 112, 6, 1),
    (5, 4, 112, 192, 6, 2),
    (3, 1, 192, 320, 6, 1),
)
# What the garden calls a layer inside a block -> Keras' EfficientNet, which has the same layers.
KERAS = {
    "expand_conv2d": "expand_conv",
    "depthwise_conv2d": "dwconv",
    "depthwise_bn": "bn",
    "depthwise_activation": "activation",
    # Keras has these activations inside the convolutions.
    "se_reduce_activation": "se_reduce",
    "se_expand_activation": "se_expand",
    "project_conv2d": "project_conv",
}


def keras_layer(name: str) -> str:
    """``stack_1/block_0/depthwise_bn`` -> ``block2a_bn``, ``stem_conv2d`` -> ``stem_conv``."""
    found = re.fullmatch(r"stack_(\d)/block_(\d)/(\w+)", name)
    if not found:
        return name.replace("conv2d", "conv")
    stack, block, layer = found.groups()
    return f"block{int(stack) + 1}{'abcd'[int(block)]}_{KERAS.get(layer, layer)}"


def units():
    """Every block: scope, kernel, input and output channels, expansion, stride."""
    for stack, (kernel, repeats, before, after, expansion, stride) in enumerate(STACKS):
        for block in range(repeats):
            first = block == 0
            yield (
                f"stack_{stack}/block_{block}/",
                kernel,
                before if first else after,
                after,
                expansion,
                stride if first else 1,
            )


def shapes() -> dict[str, tuple[int, ...]]:
    """Variable -> shape."""
    found: dict[str, tuple[int, ...]] = {}

    def conv(scope, size, before, after):
        found[f"{scope}_conv2d/kernel"] = (size, size, before, after)

    def norm(scope, channels):
        for kind in ("gamma", "beta", "moving_mean", "moving_variance"):
            found[f"{scope}_bn/{kind}"] = (channels,)

    conv("stem", 3, 3, 32)
    norm("stem", 32)
    for scope, kernel, before, after, expansion, _ in units():
        inner = before * expansion
        if expansion != 1:
            conv(f"{scope}expand", 1, before, inner)
            norm(f"{scope}expand", inner)
        found[f"{scope}depthwise_conv2d/depthwise_kernel"] = (kernel, kernel, inner, 1)
        norm(f"{scope}depthwise", inner)
        for part, pair in (("reduce", (inner, before // 4)), ("expand", (before // 4, inner))):
            conv(f"{scope}se_{part}", 1, *pair)
            found[f"{scope}se_{part}_conv2d/bias"] = (pair[1],)
        conv(f"{scope}project", 1, inner, after)
        norm(f"{scope}project", after)
    conv("top", 1, 320, 1280)
    norm("top", 1280)
    return found


def build():
    """The published model, with random weights: images in 0..1 -> vectors of 1280."""
    from tf_keras import Input, Model, layers

    def norm(x, scope, activation=None):
        x = layers.BatchNormalization(epsilon=1e-3, name=f"{scope}_bn")(x)
        return layers.Activation(activation, name=f"{scope}_activation")(x) if activation else x

    def conv(x, scope, size, features, stride=1, bias=False):
        options = {"padding": "same", "use_bias": bias, "name": f"{scope}_conv2d"}
        return layers.Conv2D(features, size, stride, **options)(x)

    def gated(x, scope, channels, squeezed):
        gate = layers.GlobalAveragePooling2D(name=f"{scope}se_squeeze")(x)
        gate = layers.Reshape((1, 1, channels), name=f"{scope}se_reshape")(gate)
        sizes = (("reduce", squeezed, "swish"), ("expand", channels, "sigmoid"))
        for part, features, activation in sizes:
            gate = conv(gate, f"{scope}se_{part}", 1, features, bias=True)
            gate = layers.Activation(activation, name=f"{scope}se_{part}_activation")(gate)
        return layers.multiply([x, gate], name=f"{scope}se_excite")

    images = Input((None, None, 3), name="image_input")
    x = images * 255.0
    x = (x - [0.485 * 255, 0.456 * 255, 0.406 * 255]) / [0.229 * 255, 0.224 * 255, 0.225 * 255]
    x = norm(conv(x, "stem", 3, 32, 2), "stem", "swish")
    for scope, kernel, before, after, expansion, stride in units():
        start, inner = x, before * expansion
        if expansion != 1:
            x = norm(conv(x, f"{scope}expand", 1, inner), f"{scope}expand", "swish")
        options = {"padding": "same", "use_bias": False, "name": f"{scope}depthwise_conv2d"}
        x = layers.DepthwiseConv2D(kernel, stride, **options)(x)
        x = gated(norm(x, f"{scope}depthwise", "swish"), scope, inner, before // 4)
        x = norm(conv(x, f"{scope}project", 1, after), f"{scope}project")
        if stride == 1 and before == after:
            x = layers.Dropout(0.2, noise_shape=(None, 1, 1, 1), name=f"{scope}drop")(x)
            x = layers.add([x, start], name=f"{scope}add")
    x = norm(conv(x, "top", 1, 1280), "top", "swish")
    return Model(images, layers.GlobalAveragePooling2D(name="top_pool")(x))


def main(stored: str, images: str, folder: str, out: str) -> None:
    """See the module."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    from tf_keras import Model

    model = build()
    with np.load(stored) as arrays:
        assert sorted(v.name.removesuffix(":0") for v in model.variables) == sorted(arrays.files)
        for variable in model.variables:
            variable.assign(arrays[variable.name.removesuffix(":0")])
    model.save(folder, include_optimizer=False)
    names = [x.name for x in model.layers if re.match("st|top", x.name)]
    every = Model(model.input, {n: model.get_layer(n).output for n in names})
    # Pixels as the module's users prepare them.
    found = every(np.load(images).astype(np.float32) / 255.0)
    np.savez(out, **{n.replace("/", "|"): np.asarray(y) for n, y in found.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
