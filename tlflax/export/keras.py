"""A Keras model: the keras.applications network cut at the endpoint, its contract, the head.

    image (RGB 0..255) -> contract as layers -> backbone (a model of its own) -> head

`.keras` holds the whole model, and the contract and class names as ``tlflax.json`` in its zip.
`NAME.weights.h5` holds the weights; the network, the contract and the class names stand beside it
in `NAME.model.json`: ``keras.models.model_from_json(text)``, then ``load_weights``.
"""

import json
import math
import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlflax import tree
from tlflax.backbones.spec import Contract, Spec
from tlflax.convert.keras_form import our_layers
from tlflax.convert.rules import keras_rule
from tlflax.errors import ConvertError, listing, suggest

if TYPE_CHECKING:
    from tlflax.export.trained import Trained

DEFAULT_NAME = "model.keras"
SUFFIXES = (".keras", ".weights.h5")
# On JAX both sides run the same XLA kernels, in another order. TensorFlow's and torch's kernels
# are others (oneDNN, Winograd): 1e-6 a layer, and up to a hundred layers.
TOLERANCE, TOLERANCE_ELSEWHERE = 1e-5, 1e-4
# Lower in a Keras application, these only prepare the pixels; our contract does that in front.
_PREPARING = ("InputLayer", "Rescaling", "Normalization")


def check(trained: "Trained") -> None:
    """Refuses what Keras has no network for.

    Raises:
      ConvertError: no Keras form, or no Keras.
    """
    spec = trained.model.spec
    if spec.form == "graph":
        raise ConvertError(
            f"{spec.name} is a Keras model of your own, --format keras is for networks of the zoo: "
            "export it with --format stablehlo"
        )
    if spec.form != "keras":
        other = " (or torch)" if spec.form == "torch" else ""
        raise ConvertError(
            f"{spec.name} is no network of keras.applications: export it with --format "
            f"stablehlo{other}"
        )
    os.environ.setdefault("KERAS_BACKEND", "jax")
    try:
        import keras  # noqa: F401
    except ImportError as error:
        raise ConvertError(f"--format keras needs Keras ({error}): pip install keras") from error


def write(trained: "Trained", path: Path) -> None:
    """Builds the model, sets every weight and saves it.

    Raises:
      ConvertError: no Keras form for this network or cut, or a weight without counterpart.
    """
    model = build(trained)
    about = json.dumps(trained.contract(inside=True), indent=1)
    if path.name.endswith(".weights.h5"):
        model.save_weights(path)
        text = json.dumps(json.loads(model.to_json()) | {"tlflax": json.loads(about)}, indent=1)
        _beside(path).write_text(text, encoding="utf-8")
        return
    model.save(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("tlflax.json", about)


def prove(trained: "Trained", path: Path) -> list[str]:
    """Loads the file with Keras and compares the endpoint's features and the probabilities.

    Raises:
      ConvertError: they differ by more than the tolerance.
    """
    import jax
    import keras

    from tlflax.export.trained import rms

    backend = keras.backend.backend()
    tolerance = TOLERANCE if backend == "jax" else TOLERANCE_ELSEWHERE
    model = _reload(path)
    both: Any = keras.Model(model.input, [model.get_layer("pool").input, model.output])
    # Whatever the device, both sides in full float32.
    with jax.default_matmul_precision("float32"):
        features, found = both.predict(trained.images, verbose=0)
        ours = trained.features()
        # Root mean squares: Keras folds BatchNorm into one factor and one offset, which cancel
        # where variances are small, so single ones of 1e5 features differ by up to 1e-5 of the
        # largest (real MobileNetV2 0.35 at 160 pixels: 9.9e-6, in root mean square 3.3e-6).
        error = rms(features - ours) / max(rms(ours), 1e-30)
        who = f"reloaded with Keras {keras.__version__} on {backend}"
        if not error <= tolerance:
            raise ConvertError(
                f"{who}, the output of {trained.model.endpoint} differs from the run's: relative "
                f"error {error:.2g}, allowed {tolerance:g}; nothing was written"
            )
        line = f"{who}: {features.size} features of {trained.model.endpoint}, relative root mean "
        line += f"square error {error:.1e} (allowed {tolerance:g})"
        return [line, *trained.judge(np.asarray(found), tolerance, who)]


def _reload(path: Path) -> Any:
    import keras

    try:
        if not path.name.endswith(".weights.h5"):
            return keras.models.load_model(path, compile=False)
        model: Any = keras.models.model_from_json(_beside(path).read_text(encoding="utf-8"))
        model.load_weights(path)
        return model
    except (ValueError, TypeError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise ConvertError(
            f"Keras {keras.__version__} cannot load what it saved: {reason}; nothing was written"
        ) from error


def build(trained: "Trained") -> Any:
    """The Keras model of a trained classifier, with its weights."""
    import keras

    size = trained.model.architecture.image_size
    spec = trained.model.spec
    network = _network(spec, size)
    # Theirs -> ours, where Keras numbers its layers and we name them.
    names = our_layers([layer.name for layer in network.layers], spec)
    backbone = _cut(network, trained.model.endpoint, spec, names)
    image = keras.Input((size, size, 3), name="image")
    output = _head(backbone(_prepare(image, spec.contract)), trained)
    model = keras.Model(image, output, name="classifier")
    params = trained.variables["params"]
    _fill(backbone.layers, trained.backbone(), names)
    dense = [layer for layer in model.layers if layer.name in params["head"]]
    _fill(dense, {"params": params["head"]}, {})
    return model


def _network(spec: Spec, size: int) -> Any:
    from tlflax.convert.oracle_keras import keras_application

    if spec.name == "glyph_cnn":
        return _glyph_cnn(spec, size)
    try:
        return keras_application(spec, size)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise ConvertError(f"Keras cannot build {spec.name} for {size} pixels: {reason}") from error
    except ConvertError as error:
        raise ConvertError(
            f"keras.applications has no {spec.name}: export it with --format stablehlo"
        ) from error


def _glyph_cnn(spec: Spec, size: int) -> Any:
    """The packaged network, as `tlflax.backbones.glyph_cnn` describes it."""
    import keras
    from keras import layers

    image = x = keras.Input((size, size, len(spec.contract.mean)))
    for i, width in enumerate(spec.options["widths"], start=1):
        for j in (1, 2):
            name = f"block{i}_conv{j}"
            x = layers.Conv2D(width, 3, padding="same", use_bias=False, name=name)(x)
            x = layers.BatchNormalization(
                epsilon=1e-5, momentum=0.9, name=f"block{i}_bn{j}"
            )(x)  # fmt: skip
            x = layers.ReLU(name=f"block{i}_relu{j}")(x)
        x = layers.MaxPooling2D(name=f"block{i}_pool")(x)
    return keras.Model(image, x, name=spec.name)


def _cut(network: Any, endpoint: str, spec: Spec, names: dict[str, str]) -> Any:
    """The network from its prepared pixels up to the layer ``endpoint``, as one model."""
    import keras

    layers = {names.get(layer.name, layer.name): layer for layer in network.layers}
    if endpoint not in layers:
        raise ConvertError(
            f"{spec.name} of keras.applications has no single layer {endpoint!r} to cut at"
            f"{suggest(endpoint, map(str, layers))}; --format stablehlo exports this cut"
        )
    start = network.input
    for layer in network.layers:
        if type(layer).__name__ not in _PREPARING:
            break
        start = layer.output
    return keras.Model(start, layers[endpoint].output, name=spec.name)


def _prepare(x: Any, contract: Contract) -> Any:
    """The input contract as layers, with numbers that any device represents exactly."""
    import keras
    from keras import layers

    # Output channel by input channel; a pixel times 0 or 1 is exact in every precision.
    mixes = {"BGR": np.eye(3)[::-1], "L": np.array([[0.299], [0.587], [0.114]])}
    if contract.order in mixes:
        mix = mixes[contract.order].astype(np.float32)[None, None]
        name = "rgb_to_bgr" if contract.order == "BGR" else "luma"
        layer = layers.Conv2D(mix.shape[-1], 1, use_bias=False, trainable=False, name=name)
        x = layer(x)
        layer.set_weights([mix])
    means, stds = set(contract.mean), set(contract.std)
    if len(means) == len(stds) == 1:
        scale, offset = contract.scale / contract.std[0], -contract.mean[0] / contract.std[0]
        return layers.Rescaling(scale, offset, name="rescale")(x)
    if contract.scale != 1.0:
        x = layers.Rescaling(contract.scale, name="rescale")(x)
    variance = [s * s for s in contract.std]
    return keras.layers.Normalization(
        mean=list(contract.mean), variance=variance, name="normalize"
    )(x)  # fmt: skip


def _head(x: Any, trained: "Trained") -> Any:
    from keras import layers

    a = trained.model.architecture
    pooled = len(x.shape) == 4 and a.head == "gap"
    pool = layers.GlobalAveragePooling2D if pooled else layers.Flatten
    x = pool(name="pool")(x)
    for i, width in enumerate(a.hidden):
        x = layers.Dense(width, name=f"hidden_{i}")(x)
        x = _activation(x, a.activation, f"hidden_{i}_{a.activation}")
    x = layers.Dropout(a.dropout, name="dropout")(x)
    return layers.Dense(len(a.classes), activation="softmax", name="logits")(x)


def _activation(x: Any, kind: str, name: str) -> Any:
    """An activation of `tlflax.heads.ACTIVATIONS`; Keras has the others under the same names."""
    from keras import layers

    if kind != "gelu":
        return layers.Activation(kind, name=name)(x)
    # Flax's gelu is the tanh form, x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), of which Keras
    # has no layer; it is written out, so that the file needs no code of ours.
    root = math.sqrt(2 / math.pi)
    square = layers.Multiply(name=f"{name}_square")([x, x])
    inner = layers.Rescaling(0.044715 * root, root, name=f"{name}_factor")(square)
    inner = layers.Multiply(name=f"{name}_inner")([x, inner])
    gate = layers.Activation("tanh", name=f"{name}_tanh")(inner)
    gate = layers.Rescaling(0.5, 0.5, name=f"{name}_gate")(gate)
    return layers.Multiply(name=name)([x, gate])


def _fill(layers: list[Any], variables: dict[str, Any], names: dict[str, str]) -> None:
    """Sets every weight of ``layers`` from the leaf of the same layer; total on both sides."""
    leaves = {}
    for collection in variables:
        for path, value in tree.flatten(variables[collection]).items():
            layer, leaf = path.split("/")[-2:]
            leaves[collection, layer, leaf] = np.asarray(value)
    unset = []
    for layer in layers:
        for weight in layer.weights:
            kind, shape = weight.name.rsplit("/", 1)[-1], tuple(weight.shape)
            rule = keras_rule(kind, shape)
            ours = names.get(layer.name, layer.name)
            value = leaves.pop((rule.collection, ours, rule.leaf), None) if rule else None
            value = None if value is None or rule is None else _inverse(rule, value, shape)
            if value is None:
                unset.append(f"{layer.name}/{kind} {shape}")
            else:
                weight.assign(value)
    if unset or leaves:
        left = listing((f"{layer}/{leaf}" for _, layer, leaf in leaves), 4)
        raise ConvertError(
            f"the Keras network is not ours: {len(unset)} weights without a counterpart "
            f"({listing(unset, 4)}), {len(leaves)} of ours left over ({left})"
        )


def _inverse(rule: Any, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Undoes a rule, which only moves numbers; ``None`` where the shapes do not fit."""
    places = rule.transform(np.arange(math.prod(shape)).reshape(shape))
    if places.shape != value.shape:
        return None
    found = np.empty(math.prod(shape), np.float32)
    found[places.ravel()] = value.ravel()
    return found.reshape(shape)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name.removesuffix('.weights.h5')}.model.json")
