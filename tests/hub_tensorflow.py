"""The TensorFlow side of the hub tests: TF-Slim's ResNet V2 from TensorFlow's own operations.

Written after tensorflow/models, research/slim/nets/resnet_v2.py, from TensorFlow's kernels
alone; `scripts/make_hub_goldens.py --slim` compares it with the published code where that runs.
Layers are recorded under Keras' names. Never imported by pytest's process, only by its children:

    python hub_tensorflow.py COMMAND... with, as often as wanted,
    run ARRAYS.npz IMAGES.npy OUT.npz    every layer of ResNet V2 50
    tf1 ARRAYS.npz FOLDER                a SavedModel as TensorFlow 1 writes it
    tf2 ARRAYS.npz FOLDER                as TensorFlow 2 does
"""

import os
import sys

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import tensorflow as tf
from hub_layout import SCOPE

UNITS = (3, 4, 6, 3)


class Slim:
    """Runs the network on variables by name, recording every layer."""

    def __init__(self, variables):
        self.variables, self.record = variables, {}

    def mark(self, name, x):
        self.record[name] = x
        return x

    def conv(self, x, scope, stride, name):
        """Slim's conv2d and conv2d_same: strided windows are padded alike on all sides."""
        weights, padding = self.variables[f"{scope}/weights"], "SAME"
        if stride > 1:
            total = weights.shape[0] - 1
            before = [total // 2, total - total // 2]
            x, padding = tf.pad(x, [[0, 0], before, before, [0, 0]]), "VALID"
        y = tf.nn.conv2d(x, weights, stride, padding)
        biases = self.variables.get(f"{scope}/biases")
        return self.mark(name, y if biases is None else tf.nn.bias_add(y, biases))

    def norm_relu(self, x, scope, name):
        kinds = ("gamma", "beta", "moving_mean", "moving_variance")
        y, *_ = tf.compat.v1.nn.fused_batch_norm(
            x, *(self.variables[f"{scope}/{k}"] for k in kinds), epsilon=1e-5, is_training=False
        )
        return self.mark(f"{name}_relu", tf.nn.relu(self.mark(f"{name}_bn", y)))

    def bottleneck(self, x, scope, stride, keras):
        active = self.norm_relu(x, f"{scope}/preact", f"{keras}_preact")
        if f"{scope}/shortcut/weights" in self.variables:
            shortcut = self.conv(active, f"{scope}/shortcut", stride, f"{keras}_0_conv")
        else:
            shortcut = tf.nn.max_pool2d(x, 1, stride, "SAME")
        y = self.conv(active, f"{scope}/conv1", 1, f"{keras}_1_conv")
        y = self.norm_relu(y, f"{scope}/conv1/BatchNorm", f"{keras}_1")
        y = self.conv(y, f"{scope}/conv2", stride, f"{keras}_2_conv")
        y = self.norm_relu(y, f"{scope}/conv2/BatchNorm", f"{keras}_2")
        y = self.conv(y, f"{scope}/conv3", 1, f"{keras}_3_conv")
        return self.mark(f"{keras}_out", shortcut + y)

    def features(self, images):
        """The module's function: images in 0..1 -> the means of the last map."""
        x = images * 2.0 - 1.0
        x = self.conv(x, f"{SCOPE}/conv1", 2, "conv1_conv")
        x = self.mark("pool1_pool", tf.nn.max_pool2d(x, 3, 2, "SAME"))
        for block, count in enumerate(UNITS, start=1):
            for unit in range(1, count + 1):
                stride = 2 if unit == count and block < len(UNITS) else 1
                scope = f"{SCOPE}/block{block}/unit_{unit}/bottleneck_v2"
                x = self.bottleneck(x, scope, stride, f"conv{block + 1}_block{unit}")
        return tf.reduce_mean(self.norm_relu(x, f"{SCOPE}/postnorm", "post"), axis=[1, 2])

    def __call__(self, images):
        """Every layer for RGB uint8 ``images``."""
        self.features(tf.cast(images, tf.float32) / 255.0)
        return {name: np.asarray(y) for name, y in self.record.items()}


def module(variables):
    """The function that a module with these variables is saved with."""
    if f"{SCOPE}/postnorm/beta" in variables:
        return Slim(variables).features
    # Only the variables are looked at.
    first = next(iter(variables.values()))
    return lambda images: tf.reduce_mean(images) + tf.reduce_sum(first)


def save_tf2(arrays, folder):
    """As hub's modules of TensorFlow 2: a list of variables and a function of the images."""
    root = tf.train.Checkpoint()
    root.variables = [tf.Variable(a, name=n) for n, a in arrays.items()]
    run = module(dict(zip(arrays, root.variables, strict=True)))
    # What the trace leaves behind are symbolic tensors, nothing to save.
    root.__call__ = tf.function(
        run, input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32)]
    )
    tf.saved_model.save(root, folder, signatures=root.__call__)


def save_tf1(arrays, folder):
    """As a module of TensorFlow 1: a graph with named variables and a name-based checkpoint."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        variables = {}
        for name, array in arrays.items():
            value = v1.placeholder(array.dtype, array.shape)
            variables[name] = v1.get_variable(name, initializer=value, use_resource=True)
            session.run(variables[name].initializer, {value: array})
        images = v1.placeholder(tf.float32, (None, None, None, 3))
        output = module(variables)(images)
        v1.saved_model.simple_save(session, folder, {"images": images}, {"default": output})


def main(*args):
    """See the module."""
    while args:
        command, stored, place, *args = args
        with np.load(stored) as file:
            arrays = {k: file[k] for k in file.files}
        if command == "run":
            out, *args = args
            np.savez(out, **Slim(arrays)(np.load(place)))
        else:
            {"tf1": save_tf1, "tf2": save_tf2}[command](arrays, place)


if __name__ == "__main__":
    main(*sys.argv[1:])
