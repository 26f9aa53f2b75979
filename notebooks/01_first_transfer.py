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
# # A first transfer
#
# A small network that has learnt to read *printed* letters is taught *handwritten* digits, from
# ten images of each. Nothing is downloaded: the network's weights come with tlflax, the digits
# with scikit-learn. Everything below works the same with `mobilenet_v2_1.0` and a folder of photos.

# %%
import matplotlib.pyplot as plt
import numpy as np

import tlflax as tl
from tlflax.data.decode import decode

# %% [markdown]
# ## The images
#
# `tl.dataset` opens images and sees to it that there are three splits. The digits come with a test
# split of 900 images; 100 of the others become the validation split (they decide which state of
# the network is the best one), and of what is left ten images of each digit are kept for training.

# %%
digits = tl.dataset("digits", image_size=32, per_class=10, val=100, seed=0)
print(len(digits.train), "to train,", len(digits.val), "to validate,", len(digits.test), "to test")


# %%
def pixels(split, count):
    """The first images of a split as the network's user sees them: RGB uint8 [N, H, W, 3]."""
    return np.stack([decode(split.read(i), split.files[i]) for i in range(count)])


samples = pixels(digits.train, 100)
order = np.argsort(digits.train.labels, kind="stable")
grid = samples[order].reshape(10, 10, 8, 8, 3).transpose(1, 2, 0, 3, 4).reshape(80, 80, 3)
plt.figure(figsize=(4, 4))
plt.imshow(grid)
plt.axis("off")
plt.title("All that it learns from")
plt.show()

# %% [markdown]
# ## The network: a chain of named blocks
#
# A backbone in tlflax is a chain of blocks. The name of a block is an *endpoint*: the place where
# you can cut the network to put a new head on it, and the name by which you say what is frozen
# and what is trained.

# %%
model = tl.classifier("glyph_cnn", classes=10, image_size=32)
model.endpoints()

# %% [markdown]
# `summary` shows what a stage of training would do. Without rules it trains only the new head, and
# everything that was learnt from printed letters stays as it is:

# %%
model.summary()

# %% [markdown]
# With rules, blocks are trained too, each at a rate of its own. Here the last block at a tenth of
# the head's rate:

# %%
model.summary(train={"block3_pool": 0.1}, lr=1e-2)

# %% [markdown]
# ## Training in two stages
#
# First the head alone: it starts from nothing, and its first steps would spoil the blocks below.
# Then everything, with small random rotations, shifts and zooms of the images; `bn="train"` lets
# BatchNorm take its statistics from the new images. The second stage starts from the best state
# of the first. With only 100 validation images accuracy moves in steps of 1 %, so the best state
# is chosen by loss.
#
# What the second stage will see: training images on the left, random versions of them beside. The
# validation and test images are never changed.

# %%
AUGMENT = "shift_rotate(rotation=10.0, shift=0.06, zoom=0.1)"
digits.show(augment=AUGMENT)

# %%
run = tl.fit(
    model,
    digits,
    stages=[
        tl.stage("head", epochs=30, lr=1e-2, schedule="cosine"),
        tl.stage(
            "tune",
            epochs=15,
            train="all",
            lr=8e-3,
            schedule="cosine",
            warmup=0.1,
            bn="train",
            augment=AUGMENT,
        ),
    ],
    select="loss",
)

# %% [markdown]
# ## How good is it?
#
# The test images were read once, after training. The interval says how far the accuracy of 900
# images can be from that of all images of this kind.

# %%
report = run.report()
report["test"]["accuracy"], report["test"]["accuracy_ci95"]

# %% [markdown]
# Each stage with what it trained, and how good it was on the validation images:

# %%
for stage in report["stages"]:
    print(
        f"{stage['name']}: {stage['trainable_parameters']:,} parameters trained, "
        f"{stage['frozen_parameters']:,} frozen, validation accuracy {stage['val_accuracy']:.3f}"
    )

# %%
run.plot()

# %% [markdown]
# Which digits does it take for which?

# %%
run.confusion()

# %% [markdown]
# ## Predicting
#
# `predict` takes an array of pixels as they are in the file (uint8, 0 to 255), or paths of image
# files and folders. The network scales and resizes them itself.

# %%
shown = pixels(digits.test, 8)
found = run.predict(shown)
figure, axes = plt.subplots(1, 8, figsize=(10, 1.8))
for axis, image, digit, sure in zip(axes, shown, found.predicted, found.confidence, strict=True):
    axis.imshow(image)
    axis.set_title(f"{digit} ({sure:.0%})")
    axis.axis("off")
plt.show()

# %% [markdown]
# The run directory has all of this as files: `report.html` to look at, `predictions.csv`,
# `model.safetensors` for `python -m tlflax.predict`.

# %%
sorted(p.name for p in run.folder.iterdir())

# %% [markdown]
# ## A mistake
#
# Names are checked before anything is computed, and the message says what to write instead.

# %%
try:
    model.summary(train={"blok3_pool": 0.1})
except tl.TlflaxError as error:
    print(error)

# %% [markdown]
# ## Where to go next
#
# - Your own photos: `tl.dataset("folder:pets")`, with `pets/cat/*.jpg`, `pets/dog/*.jpg`, and
#   `tl.classifier("mobilenet_v2_1.0", classes=2)`.
# - `python -m tlflax.zoo` lists the networks, `python -m tlflax.zoo mobilenet_v2_1.0` the endpoints
#   of one.
# - The same as a command that can be stopped and resumed, compared with training from scratch:
#   `python -m tlflax.main --config configs/quickstart.py --workdir runs/quickstart`.
# - `configs/finetune.py` is the config to start from for your own data.
