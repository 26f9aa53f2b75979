"""Keras models of all kinds of layers, and the files in which Keras keeps them.

The builders need Keras; what the default tests need of it (configurations, shapes, outputs) is in
tests/goldens/graph_*.json, written by scripts/make_graph_goldens.py. The writers make the files
without it.
"""

import io
import json
import re
import zipfile

import h5py
import numpy as np
from keras_layout import draw_image, generator, positions

NAMES = ("sequential", "functional", "nested", "functions", "grey")


def build(name):
    import keras

    keras.utils.clear_session()
    model = globals()[f"_{name}"](keras.layers, keras)
    assign(model)
    return model


def _sequential(L, keras):
    return keras.Sequential(
        [
            L.Input((33, 33, 3)),
            L.Rescaling(1 / 127.5, offset=-1.0),
            L.RandomFlip("horizontal"),
            L.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
            L.BatchNormalization(scale=False, epsilon=1e-4),
            L.ReLU(max_value=6.0, negative_slope=0.1, threshold=0.2),
            L.SpatialDropout2D(0.2),
            L.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False),
            L.LeakyReLU(0.2),
            L.DepthwiseConv2D(3, strides=2, padding="same", activation="tanh"),
            L.SeparableConv2D(12, 3, depth_multiplier=2, padding="same", activation="swish"),
            L.MaxPooling2D(3, strides=2, padding="same"),
            L.PReLU(shared_axes=[1, 2]),
            L.AveragePooling2D(3, strides=1, padding="same"),
            L.GaussianNoise(0.1),
            L.Dropout(0.3),
            L.Flatten(),
            L.Dense(10, activation="elu"),
            L.LayerNormalization(),
            L.PReLU(),
            L.Dense(4, activation="softmax"),
        ]
    )


def _functional(L, keras):
    images = keras.Input((24, 24, 3), name="images")
    x = L.Rescaling(1 / 127.5, -1.0, name="scale")(images)
    x = L.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(x)
    x = L.BatchNormalization(name="stem_bn", center=False)(x)
    stem = L.Activation("relu", name="stem_relu")(x)
    a = L.Conv2D(8, 3, dilation_rate=2, padding="same", name="a_dilated")(stem)
    b = L.Conv2D(8, (1, 3), groups=4, padding="same", name="b_grouped")(stem)
    b = L.GroupNormalization(4, name="b_gn")(b)
    x = L.Add(name="add")([a, b, stem])
    squeezed = L.GlobalAveragePooling2D(keepdims=True, name="se_pool")(x)
    squeezed = L.Conv2D(8, 1, activation="sigmoid", name="se_gate")(squeezed)
    x = L.Multiply(name="se_scale")([x, squeezed])
    y = L.MaxPooling2D(2, name="down")(x)
    y = L.LayerNormalization(axis=[1, 2, 3], name="map_norm")(y)
    up = L.UpSampling2D(2, interpolation="bilinear", name="up")(y)
    near = L.UpSampling2D((2, 2), name="near")(y)
    x = L.Subtract(name="subtract")([up, x])
    x = L.Concatenate(name="join")([x, near, L.Average(name="average")([up, near])])
    x = L.ZeroPadding2D(((0, 1), (2, 3)), name="pad")(x)
    x = L.Cropping2D(((1, 2), (0, 3)), name="crop")(x)
    x = L.SeparableConv2D(12, 3, strides=2, use_bias=False, name="separable")(x)
    x = L.Maximum(name="maximum")([x, L.Minimum(name="minimum")([x, L.ReLU(name="relu")(x)])])
    x = L.Reshape((-1, 12), name="tokens")(x)
    x = L.Permute((2, 1), name="turn")(x)
    x = L.Dense(5, name="mix")(x)
    x = L.Flatten(name="flat")(x)
    x = L.Dense(3, name="logits")(x)
    return keras.Model(images, L.Softmax(name="probs")(x), name="net")


def _nested(L, keras):
    augment = keras.Sequential([L.RandomRotation(0.1), L.RandomZoom(0.1)], name="augment")
    inner = keras.Input((20, 20, 3))
    x = L.Normalization(name="normalization")(inner)
    x = L.Conv2D(6, 3, strides=2, name="conv")(x)
    x = L.BatchNormalization(name="bn")(x)
    x = skip = L.ReLU(6.0, name="act")(x)
    x = L.Conv2D(6, 3, padding="same", name="conv_2")(x)
    x = L.Add(name="add")([x, skip])
    base = keras.Model(inner, x, name="base")
    base.trainable = False
    outer = keras.Input((20, 20, 3))
    x = augment(outer)
    x = base(x, training=False)
    tail = keras.Sequential([L.Conv2D(5, 1, name="conv"), L.ReLU(name="act")], name="tail")
    x = L.GlobalMaxPooling2D(name="pool")(tail(x))
    head = keras.Sequential([L.Dense(7, activation="gelu", name="hidden")], name="head")
    return keras.Model(outer, L.Dense(2, name="logits", activation="sigmoid")(head(x)), name="all")


FUNCTIONS = (
    "relu relu6 elu celu selu softplus softsign sigmoid tanh exponential silu gelu mish "
    "hard_sigmoid hard_silu leaky_relu softmax log_softmax linear"
).split()


def _functions(L, keras):
    images = keras.Input((9, 9, 3), name="images")
    x = L.Rescaling([0.01, 0.012, 0.005], offset=[-1.0, 0.5, 0.0], name="scale")(images)
    ends = [L.Activation(f, name=f)(x) for f in FUNCTIONS]
    ends += [L.ELU(0.5, name="elu_layer")(x), L.Softmax(axis=[1, 2], name="softmax_map")(x)]
    x = L.Concatenate(name="all")(ends)
    x = L.Conv2D(6, 2, activation="gelu", name="conv")(x)
    x = L.BatchNormalization(scale=False, center=False, name="bn")(x)
    return keras.Model(images, L.GlobalAveragePooling2D(name="pool")(x), name="functions")


def _grey(L, keras):
    return keras.Sequential(
        [
            L.Input((30, 30, 1)),
            L.Resizing(20, 20, interpolation="bilinear"),
            L.CenterCrop(17, 18),
            L.Resizing(12, 12, interpolation="nearest"),
            L.Normalization(mean=[120.0], variance=[3600.0]),
            L.Conv2D(4, 3, activation="relu"),
            L.GroupNormalization(-1),
            L.GlobalAveragePooling2D(),
            L.Dense(3),
        ]
    )


def random_model(seed):
    """A stack of randomly drawn layers with random options, with branches."""
    import keras

    keras.utils.clear_session()
    L, rng = keras.layers, np.random.default_rng(seed)

    def pick(*values):
        return values[rng.integers(len(values))]

    def one(x):
        kind = rng.integers(12)
        window = {"padding": pick("same", "valid"), "strides": int(pick(1, 1, 2))}
        if min(x.shape[1:3]) < 8:
            window = {"padding": "same"}
        act = pick(None, "relu", "swish", "tanh", "gelu", "elu")
        bias = bool(rng.integers(2))
        layers = (
            lambda: L.Conv2D(8, int(pick(1, 2, 3)), activation=act, use_bias=bias, **window),
            lambda: L.Conv2D(8, 3, dilation_rate=2, padding="same", groups=int(pick(1, 2))),
            lambda: L.DepthwiseConv2D(3, depth_multiplier=int(pick(1, 2)), use_bias=bias, **window),
            lambda: L.SeparableConv2D(8, 3, depth_multiplier=int(pick(1, 2)), **window),
            lambda: L.BatchNormalization(scale=bool(rng.integers(2)), epsilon=pick(1e-3, 1e-5)),
            lambda: L.LayerNormalization(center=bias),
            lambda: L.GroupNormalization(int(pick(1, 2, 4, -1))),
            lambda: pick(L.MaxPooling2D, L.AveragePooling2D)(int(pick(2, 3)), **window),
            lambda: pick(L.ReLU(), L.LeakyReLU(), L.PReLU(shared_axes=[1, 2]), L.ELU()),
            lambda: L.ZeroPadding2D(pick(1, (1, 2), ((0, 1), (2, 0)))),
            lambda: L.Dropout(0.2),
            lambda: L.UpSampling2D(int(pick(1, 2)), interpolation=pick("nearest", "bilinear")),
        )
        return layers[kind]()(x)

    images = keras.Input((32, 32, 3))
    x = L.Conv2D(8, 3, padding="same")(L.Rescaling(1 / 127.5, -1.0)(images))
    for _ in range(8):
        if rng.integers(3) == 0:
            other = pick(L.Conv2D(x.shape[-1], 3, padding="same"), L.Activation("sigmoid"))(x)
            x = pick(L.Add, L.Multiply, L.Maximum, L.Average, L.Concatenate, L.Subtract)()(
                [x, other]
            )
        elif max(x.shape[1:3]) < 64:
            x = one(x)
        if x.shape[-1] % 4:
            x = L.Conv2D(8, 1)(x)
    if rng.integers(2):
        x = L.GlobalAveragePooling2D()(x)
    else:
        x = L.Flatten()(L.MaxPooling2D(4, padding="same")(x))
    model = keras.Model(images, L.Dense(3, activation="softmax")(L.Dense(6)(x)))
    assign(model)
    return model


# What live Keras computes and stores.


def layer_paths(model, prefix=""):
    """Layer -> path, for the layers that are no models themselves."""
    found = {}
    for layer in model.layers:
        path = f"{prefix}{layer.name}"
        if hasattr(layer, "layers"):
            found |= layer_paths(layer, f"{path}/")
        elif layer.__class__.__name__ != "InputLayer":
            found[layer] = path
    return found


def draw_weight(path, kind, shape):
    """Numbers for a weight; activations stay of order one."""
    noise = generator(f"{path}/{kind}").standard_normal(shape).astype(np.float32)
    if "kernel" in kind:
        fan_in = np.prod(shape[:2] if kind == "depthwise_kernel" else shape[:-1])
        return noise / np.sqrt(np.float32(fan_in))
    if kind in ("gamma", "moving_variance"):
        return np.exp(noise * np.float32(0.2))
    if kind == "variance":
        return 3000 * np.exp(noise * np.float32(0.2))
    return 120 + 10 * noise if kind == "mean" else noise * np.float32(0.2)


def weights_of(model):
    """Path -> kind -> shape, in Keras' order; the depthwise kernel under one name."""
    found = {}
    for layer, path in layer_paths(model).items():
        for weight in layer.weights:
            kind = weight.path.split("/")[-1]
            if kind == "kernel" and layer.__class__.__name__ == "DepthwiseConv2D":
                kind = "depthwise_kernel"
            found.setdefault(path, {})[kind] = tuple(weight.shape)
    return found


def assign(model):
    shapes = weights_of(model)
    for layer, path in layer_paths(model).items():
        for weight, (kind, shape) in zip(layer.weights, shapes.get(path, {}).items(), strict=True):
            if kind != "count":
                weight.assign(draw_weight(path, kind, shape))
        if layer.__class__.__name__ == "Normalization":
            layer.finalize_state()


def live_outputs(model, images):
    """Every layer's output by path, in the order of computation."""
    import keras

    paths, found = layer_paths(model), {}
    call = keras.layers.Layer.__call__

    def recording(self, *args, **kwargs):
        result = call(self, *args, **kwargs)
        if self in paths:
            found[paths[self]] = np.asarray(result)
        return result

    keras.layers.Layer.__call__ = recording
    try:
        model(images.astype(np.float32), training=False)
    finally:
        keras.layers.Layer.__call__ = call
    return found


def image(side, channels=3):
    return draw_image(side)[..., :channels]


def statistics(array):
    values = array.astype(np.float64).ravel()
    head = [np.linalg.norm(values), values.mean(), np.abs(values).max()]
    return [*head, *values[positions(values.size)]]


# The files, without Keras.


def sublayers(config):
    inner = config["config"]
    return inner if isinstance(inner, list) else inner["layers"]


def is_model(config):
    return config["class_name"] in ("Sequential", "Functional", "Model")


def name_of(config):
    return config["config"]["name"] if isinstance(config["config"], dict) else config["name"]


def drawn(shapes):
    return {
        path: {kind: draw_weight(path, kind, tuple(shape)) for kind, shape in kinds.items()}
        for path, kinds in shapes.items()
    }


def write_leaf_cnn(path):
    """The network of six kinds of leaves of the fourth tutorial: 64 px, pixels in 0..1."""
    kernel = {"kernel_size": [3, 3], "activation": "relu"}
    layers = [
        ("InputLayer", {"batch_shape": [None, 64, 64, 3], "name": "input"}),
        ("Conv2D", {"name": "conv2d", "filters": 32} | kernel),
        ("MaxPooling2D", {"name": "max_pooling2d", "pool_size": [2, 2]}),
        ("Conv2D", {"name": "conv2d_1", "filters": 32} | kernel),
        ("MaxPooling2D", {"name": "max_pooling2d_1", "pool_size": [2, 2]}),
        ("Flatten", {"name": "flatten"}),
        ("Dense", {"name": "dense", "units": 128, "activation": "relu"}),
        ("Dense", {"name": "dense_1", "units": 6, "activation": "softmax"}),
    ]
    config = {"name": "sequential", "layers": [{"class_name": c, "config": k} for c, k in layers]}
    shapes = {
        "conv2d": (3, 3, 3, 32), "conv2d_1": (3, 3, 32, 32),
        "dense": (14 * 14 * 32, 128), "dense_1": (128, 6),
    }  # fmt: skip
    weights = drawn({k: {"kernel": shape, "bias": shape[-1:]} for k, shape in shapes.items()})
    return write_h5(path, {"class_name": "Sequential", "config": config}, weights)


def write_h5(path, config, weights, style="keras2"):
    """A whole model in HDF5.

    Args:
      path: destination.
      config: as in ``model_config``.
      weights: layer path -> kind -> array.
      style: ``keras2`` (``conv/kernel:0``; an optimizer's state beside the weights) or ``keras3``
        (``net/conv/kernel``, the depthwise kernel called kernel).
    """
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(config)
        root = file.create_group("model_weights")
        root.attrs["keras_version"] = "2.11.0" if style == "keras2" else "3.9.0"
        root.attrs["backend"] = "tensorflow"
        layers = [name_of(layer) for layer in sublayers(config)]
        root.attrs["layer_names"] = [n.encode() for n in layers]
        for layer in layers:
            group, stored = root.create_group(layer), {}
            for inner, kinds in weights.items():
                if inner != layer and not inner.startswith(f"{layer}/"):
                    continue
                # A model inside the model writes its own layers' names, not its own.
                below = inner.removeprefix(f"{layer}/")
                for kind, array in kinds.items():
                    frozen = kind in ("moving_mean", "moving_variance", "mean", "variance", "count")
                    if style == "keras2":
                        name = f"{below}/{kind}:0"
                    else:
                        name = f"{name_of(config)}/{inner}/{kind.removeprefix('depthwise_')}"
                        if "pointwise_kernel" in kinds and kind == "depthwise_kernel":
                            name = f"{name_of(config)}/{inner}/{kind}"
                    stored[name] = (frozen, array)
            # Trainable weights first, then the others.
            names = sorted(stored, key=lambda n: stored[n][0])
            group.attrs["weight_names"] = [n.encode() for n in names]
            for name in names:
                group.create_dataset(name, data=stored[name][1])
        state = file.create_group("optimizer_weights")
        state.attrs["weight_names"] = [b"Adam/iter:0"]
        state["Adam/iter:0"] = np.int64(7)
    return path


def snake(name):
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def class_paths(config, prefix="", where="", style="keras3"):
    """Layer path -> its group in a ``model.weights.h5``; weightless layers as well."""
    found, used = {}, {}
    container = "_layer_checkpoint_dependencies" if style == "keras2.13" else "layers"
    for layer in sublayers(config):
        if config["class_name"] == "Sequential" and layer["class_name"] == "InputLayer":
            continue
        plain = snake(layer["class_name"])
        weighted = layer["class_name"] not in ("InputLayer", "Flatten", "ReLU")
        counter = used.get(plain, 0)
        # 2.13 had those with weights in its dictionary twice, and counted them twice.
        used[plain] = counter + (2 if style == "keras2.13" and weighted else 1)
        name = f"{plain}_{counter}" if counter else plain
        if style == "names":
            name = name_of(layer)
        path, group = f"{prefix}{name_of(layer)}", f"{where}{container}/{name}"
        found[path] = group
        if is_model(layer):
            found |= class_paths(layer, f"{path}/", f"{group}/", style)
    return found


def weights_h5(config, weights, style="keras3"):
    """The bytes of ``model.weights.h5``.

    Args:
      config: as in config.json.
      weights: layer path -> kind -> array.
      style: ``keras3`` (groups counted by class, the layer's name as an attribute), ``keras3.0``
        (without the attribute), ``windows`` (backslashes), ``names`` (by layer name) or
        ``keras2.13``.
    """
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for path, group in class_paths(config, style=style).items():
            if style == "windows":
                names = group.split("/")
                place = file.create_group("\\".join([*names, "vars"]))
            else:
                place = file.create_group(f"{group}/vars")
            if style == "keras3":
                place.attrs["name"] = path.split("/")[-1]
            for index, array in enumerate(weights.get(path, {}).values()):
                place[str(index)] = array
        file.create_group("optimizer/vars")["0"] = np.int64(3)
        if style == "keras3":
            file.create_group("layers/random_flip/seed_generator/vars")["0"] = np.arange(2)
    return buffer.getvalue()


def write_keras(path, config, weights, style="keras3"):
    """A `.keras` archive, see `weights_h5`."""
    version = "2.13.1" if style == "keras2.13" else "3.9.0"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": version}))
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", weights_h5(config, weights, style))
    return path
