# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own Keras CNN
#
# You have trained a CNN in Keras, on leaves say, and now there are two kinds of shoes and few
# photos. The network that you already have can be the start: its last layer goes, a new head comes.
#
# tlflax reads whole-model `.h5`, `.keras` and SavedModel files by itself. Keras is needed here
# only to make such a file (`pip install keras`); leave the first part out if you have one.

# %%
import os
import tempfile
from pathlib import Path

import numpy as np

os.environ.setdefault("KERAS_BACKEND", "jax")
import keras

import tlflax as tl
from tlflax.data.decode import decode

folder = Path(tempfile.mkdtemp(prefix="tlflax-"))

# %% [markdown]
# ## The old network
#
# Handwritten 0 to 4 stand for the leaves; 5 to 9 will be the shoes. The images were divided by
# 255 when it was trained. No file says so, which is why you will be asked.

# %%
old = tl.dataset("digits", classes=("0", "1", "2", "3", "4"), seed=0)


def pixels(split, size=32):
    """A split's images as Keras' loader would give them: RGB 0..255, [N, size, size, 3]."""
    images = np.stack([decode(split.read(i), split.files[i]) for i in range(len(split))])
    return np.asarray(keras.ops.image.resize(images.astype("float32"), (size, size)))


keras.utils.set_random_seed(0)
leaves = keras.Sequential(
    [
        keras.Input((32, 32, 3)),
        keras.layers.Conv2D(16, 3, padding="same", use_bias=False, name="conv1"),
        keras.layers.BatchNormalization(momentum=0.9, name="norm1"),
        keras.layers.ReLU(name="relu1"),
        keras.layers.MaxPooling2D(name="pool1"),
        keras.layers.Conv2D(32, 3, padding="same", activation="relu", name="conv2"),
        keras.layers.MaxPooling2D(name="pool2"),
        keras.layers.Conv2D(64, 3, padding="same", activation="relu", name="conv3"),
        keras.layers.MaxPooling2D(name="pool3"),
        keras.layers.Flatten(name="flatten"),
        keras.layers.Dense(64, activation="relu", name="features"),
        keras.layers.Dense(5, activation="softmax", name="leaf"),
    ]
)
leaves.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
leaves.fit(pixels(old.train) / 255, old.train.labels, epochs=8, batch_size=32, verbose=0)
loss, accuracy = leaves.evaluate(pixels(old.test) / 255, old.test.labels, verbose=0)
leaves.save(folder / "leaves.keras")
print(f"the old network on its own classes: {accuracy:.3f} of {len(old.test)} test images")

# %% [markdown]
# ## Opening it
#
# The path takes the place of a network's name. `preprocessing="unit"` says "divide by 255"; the
# others are `raw` (0..255, also for a network that begins with a Rescaling layer), `unit_bgr` (as
# OpenCV reads), `tf` (-1..1), `torch` and `caffe`. With `auto` it guesses, and says what and why.
#
# The names of your layers are the endpoints. The last layer is gone, because its five classes are
# not yours any more; the cut can be earlier, too.

# %%
new = tl.dataset("digits", classes=("5", "6", "7", "8", "9"), per_class=10, val=50, seed=0)
model = tl.classifier(str(folder / "leaves.keras"), classes=5, preprocessing="unit")
for name, shape in model.layers().items():
    print(f"{name:10} {shape}")

# %% [markdown]
# ## Is it the same network?
#
# The same images through Keras and through tlflax, up to the last hidden layer:

# %%
images = pixels(new.val)[:8].round().astype("uint8")
theirs = keras.Model(leaves.inputs, leaves.get_layer("features").output)(images / 255.0)
ours = model.activations(images, "features")["features"]
difference = np.abs(ours - np.asarray(theirs)).max() / np.abs(ours).max()
print(f"largest difference {difference:.1e} of the largest value")
assert difference < 1e-5

# %% [markdown]
# ## Three figures: before, with a new head, fine-tuned
#
# `evaluate_start` tests the network with its untrained head as well, which should be about as good
# as guessing. (If it is not, something has seen your images before.) `baseline` trains the same
# network from random values, for as many epochs: what the old leaves are worth.

# %%
run = tl.fit(
    model,
    new,
    stages=[
        tl.stage("head", epochs=20, optimizer="nadam", lr=3e-3),
        tl.stage("tune", epochs=10, train="all", lr=1e-4),
    ],
    batch_size=8,
    select="loss",
    evaluate_start=True,
    baseline=True,
    workdir=folder / "shoes",
)

# %%
report = run.results


def line(what, score):
    low, high = score["accuracy_ci95"]
    print(f"{what:22} {score['accuracy']:.3f} ({low:.3f}-{high:.3f}, n={score['n']})")


line("before training", report["before"]["test"])
line("fine-tuned", report["test"])
line("from random values", report["baseline"]["test"])
for stage in report["stages"]:
    print(f"after {stage['name']}: {stage['val_accuracy']:.2f} of the validation images")

# %%
run.plot()

# %% [markdown]
# ## If the preparation is wrong
#
# A network with BatchNorm remembers what its inputs were like. So a wrong `preprocessing` is
# noticed before the first step, and the warning says which one fits:

# %%
wrong = tl.classifier(str(folder / "leaves.keras"), classes=5, preprocessing="raw")
short = tl.fit(wrong, new, [tl.stage("head", epochs=1)], workdir=folder / "wrong")
[w for w in short.results["warnings"] if "preprocessing" in w]

# %% [markdown]
# ## Predicting, and taking it away
#
# The run directory needs neither Keras nor `leaves.keras` any more. `predictions.csv` lists every
# test image with its label, prediction and probability; `python -m tlflax.export DIR --format
# keras` writes a Keras file for those who want to go on there.

# %%
found = tl.Predictor.open(folder / "shoes").predict(images)
print(list(found.predicted), found.confidence.round(2))
print((folder / "shoes" / "predictions.csv").read_text().splitlines()[:4])

# %% [markdown]
# As a command, with class folders of photos:
#
#     python -m tlflax.main --config configs/own_cnn_shoes.py --workdir runs/shoes \
#         --config.data=folder:shoes --config.backbone=leaves.h5
