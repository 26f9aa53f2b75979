"""Keras 3, on the backend that KERAS_BACKEND names, as its guides use it.

https://keras.io/guides/transfer_learning: an application without top, called with
``training=False`` (BatchNorm keeps its stored statistics also while it is fine-tuned), global
average pooling, a dense layer; `train_on_batch` and `predict_on_batch` are what `fit` and
`predict` call for every batch.
"""

import gc
import re
from collections.abc import Callable
from importlib import metadata
from typing import Any

import keras
import numpy as np

from bench import drawn
from bench.plan import MOMENTUM, NETWORKS, RATE, Contract, Network

# `compile`'s default compiles with XLA, on TensorFlow too, whose depthwise convolutions on CPU
# are several times slower there than TensorFlow's own: the faster setting is the one compared.
JIT: Any = keras.backend.backend() != "tensorflow"


def prepare(x: Any, contract: Contract) -> Any:
    """Preprocessing as operations of the network."""
    x = keras.ops.cast(x, "float32")
    x = keras.ops.flip(x, axis=-1) if contract.order == "BGR" else x
    return (x * contract.scale - np.array(contract.mean, np.float32)) / np.array(
        contract.std, np.float32
    )


class Preprocess(keras.layers.Layer):
    """`prepare` as a layer.

    Args:
      contract: of the pixels.
    """

    def __init__(self, contract: Contract):
        super().__init__()
        self.contract = contract

    def call(self, x: Any) -> Any:
        """uint8 or float ``[B, H, W, 3]`` in 0..255 to inputs of the network."""
        return prepare(x, self.contract)


def application(network: Network, size: int, weights: str = "") -> keras.Model:
    """The network without top; EfficientNet prepares its pixels itself."""
    build = getattr(keras.applications, network.keras)
    base = build(include_top=False, weights=None, input_shape=(size, size, 3))
    if weights:
        base.load_weights(weights)
    _normalise(base, network)
    if network.endpoint != "auto":
        base = keras.Model(base.input, base.get_layer(network.endpoint).output)
    return base


def _normalise(base: keras.Model, network: Network, published: bool = False) -> None:
    """Gives EfficientNet's own first layer its numbers.

    Args:
      base: the application.
      network: with the contract.
      published: as in the published file, which holds the deviation in place of the variance and
        is made for a network with one more `Rescaling` that corrects this.
    """
    for layer in base.layers:
        if isinstance(layer, keras.layers.Normalization):
            mean = np.array(network.contract.mean, np.float32)
            std = np.array(network.contract.std, np.float32)
            spread = std if published else std * std
            layer.set_weights([mean, spread, *layer.get_weights()[2:]])
            layer.finalize_state()


class InferenceMode(keras.layers.Layer):
    """``base(x, training=False)``, which is what Keras' fine-tuning guide writes.

    In a functional model Keras 3.15 forgets that argument: `fit` calls the outer model with
    ``training=True`` and hands it on, so that BatchNorm uses (and updates) batch statistics.
    """

    def __init__(self, base: keras.Model):
        super().__init__()
        self.base = base

    def call(self, x):
        """Features of images."""
        return self.base(x, training=False)


def classifier(network: Network, base: keras.Model, size: int, classes: int = 2) -> keras.Model:
    """Pixels -> preprocessing -> ``base`` in inference mode -> average -> logits."""
    inputs = keras.Input((size, size, 3))
    own = any(isinstance(layer, keras.layers.Rescaling) for layer in base.layers)
    x = inputs if own else Preprocess(network.contract)(inputs)
    x = InferenceMode(base)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(classes, name="logits")(x))


def freeze(base: keras.Model, first: str) -> None:
    """Leaves ``first`` and the layers after it trainable; none for ``""``."""
    base.trainable = bool(first)
    if first:
        names = [layer.name for layer in base.layers]
        for layer in base.layers[: names.index(first)]:
            layer.trainable = False


def build_and_compile(
    network: Network, base: keras.Model, size: int, rate: float = RATE
) -> keras.Model:
    """The classifier with loss and optimizer."""
    model = classifier(network, base, size)
    model.compile(
        optimizer=keras.optimizers.SGD(rate, momentum=MOMENTUM),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=JIT,
    )
    return model


class Peer:
    """What the worker asks of every peer."""

    def describe(self) -> dict[str, Any]:
        """Versions and device."""
        backend = keras.backend.backend()
        package = {"tensorflow": "tensorflow-cpu"}.get(backend, backend)
        found = {"keras": keras.__version__, backend: metadata.version(package)}
        return {"versions": found, "device": "cpu", "platform": "cpu", "jit_compile": JIT}

    def product(self, a: np.ndarray, b: np.ndarray) -> Callable[[], Any]:
        """``a @ b``."""
        pair = keras.ops.convert_to_tensor(a), keras.ops.convert_to_tensor(b)
        return lambda: np.asarray(keras.ops.matmul(*pair))

    def forward(
        self, network: Network, pixels: np.ndarray, weights: str = ""
    ) -> Callable[[], np.ndarray]:
        """Images to features ``[B, H, W, C]``."""
        size = pixels.shape[1]
        base = application(network, size, weights)
        inputs = keras.Input((size, size, 3))
        own = any(isinstance(layer, keras.layers.Rescaling) for layer in base.layers)
        x = inputs if own else Preprocess(network.contract)(inputs)
        model = keras.Model(inputs, base(x, training=False))
        model.compile(jit_compile=JIT)
        return lambda: model.predict_on_batch(pixels)

    def step(
        self,
        network: Network,
        pixels: np.ndarray,
        train: str = "all",
        weights: str = "",
        rate: float = RATE,
    ) -> Callable[[], float]:
        """One training step of everything, or of the last block with the frozen part before it."""
        base = application(network, pixels.shape[1], weights)
        if train != "all":
            freeze(base, network.last[1])
        model = build_and_compile(network, base, pixels.shape[1], rate)
        head = model.get_layer("logits")
        head.set_weights([drawn.head(head.kernel.shape[0]), np.zeros(2, np.float32)])
        labels = drawn.labels(len(pixels))
        return lambda: float(model.train_on_batch(pixels, labels)[0])

    def decode(self, folder: str, size: int, batch: int) -> Callable[[], Any]:
        """All of ``folder/train`` to batches; returns the last batch."""
        data = directory(f"{folder}/train", size, batch, shuffle=False)

        def run() -> np.ndarray:
            last: Any = None
            for rows, _ in data:
                last = rows
            return np.asarray(last)

        return run

    def save(self, network: str, size: int, folder: str) -> dict[str, Any]:
        """Draws weights and writes them: for Keras and tlflax, and layer by layer for torch."""
        spec = NETWORKS[network]
        base, rng = application(_whole(spec), size), np.random.default_rng(2)
        arrays, norm = {}, keras.layers.BatchNormalization
        gain = 2.0 if any(isinstance(layer, norm) for layer in base.layers) else 1.0
        for layer in base.layers:
            if isinstance(layer, keras.layers.Normalization):
                continue
            for variable in layer.weights:
                shape = tuple(variable.shape)
                # A depthwise kernel [H, W, C, 1] sees one channel.
                fan_in = int(np.prod(shape[:2] if shape[-1:] == (1,) else shape[:-1]))
                kind = {"moving_variance": "variance"}.get(variable.name) or variable.name
                kind = "kernel" if "kernel" in kind else kind
                value = drawn.weight(kind, shape, fan_in, rng, gain)
                variable.assign(value)
                arrays[f"{layer.name}/{variable.name}"] = value
        _normalise(base, spec, published=True)
        base.save_weights(f"{folder}/{network}.weights.h5")
        # In the order of creation, which a counted name ends with: conv2d_7 comes before conv2d_12.
        order = sorted(arrays, key=lambda name: _place(name, list(arrays)))
        ordered = {
            f"{i:04d} {name.replace('/', '|')}": arrays[name] for i, name in enumerate(order)
        }
        np.savez(f"{folder}/{network}.npz", **ordered)
        return {
            "keras": f"{folder}/{network}.weights.h5",
            "arrays": f"{folder}/{network}.npz",
        }

    def clear(self) -> None:
        """Frees the models."""
        keras.backend.clear_session()
        gc.collect()


def _whole(network: Network) -> Network:
    """The network uncut: weight files are of the whole."""
    import dataclasses

    return dataclasses.replace(network, endpoint="auto")


def _place(name: str, names: list[str]) -> tuple[int, int]:
    counted = re.search(r"_(\d+)/", name)
    return int(counted[1]) if counted else 0, names.index(name)


def directory(folder: str, size: int, batch: int, shuffle: bool) -> Any:
    """Batches of a folder's images, as Keras' own utility makes them for the backend."""
    options: dict[str, Any] = {}
    if keras.backend.backend() != "tensorflow":
        options["format"] = "grain"  # the one that needs no TensorFlow
    return keras.utils.image_dataset_from_directory(
        folder, image_size=(size, size), batch_size=batch, shuffle=shuffle, seed=0,
        verbose=False, **options,
    )  # fmt: skip
