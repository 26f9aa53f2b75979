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
# # Reading a report
#
# Every run ends with `report.html` and the same numbers in `report.json`. This notebook makes a
# small run and goes through what is in them: what each figure says, and what it does not.

# %%
import tempfile
from pathlib import Path

import tlflax as tl

folder = Path(tempfile.mkdtemp(prefix="tlflax-"))
digits = tl.dataset("digits", per_class=10, val=100, seed=0)
model = tl.classifier("glyph_cnn", classes=10, image_size=32)
head = tl.stage("head", epochs=30, lr=1e-2, schedule="cosine")
run = tl.fit(model, digits, [head], workdir=folder / "frozen", select="loss")

# %% [markdown]
# ## The headline
#
# The test accuracy with its 95 % interval (Wilson's). The test images were read once, after all
# choices had been made.

# %%
report = run.report()
low, high = report["test"]["accuracy_ci95"]
print(f"n = {report['test']['n']}: the interval is {100 * (high - low):.1f} points wide")

# %% [markdown]
# The interval says how far the accuracy on *all* images of this kind may be from that of these
# test images. It does not say how the result would change with other training images or another
# seed, and it knows nothing of photos of another kind. With few test images it is wide: 17 of 18
# right sounds like 94 %, and is

# %%
from tlflax.evaluate.statistics import wilson

low, high = wilson(17, 18)
print(f"anything from {low:.0%} to {high:.0%}")

# %% [markdown]
# ## Validation and test
#
# Validation images choose: the best state, when to stop, between runs. So the accuracy on them is a
# little too good, and the test accuracy is the one to report.

# %%
print(f"validation {report['validation']['accuracy']:.3f} (n={report['validation']['n']})")
print(f"test       {report['test']['accuracy']:.3f} (n={report['test']['n']})")

# %% [markdown]
# ## Curves
#
# Look for three things: the validation loss turning up (too long, or too large a rate), a wide gap
# to the training loss (overfitting: augmentation, fewer trained blocks), and curves that still fall
# at the end (too short).

# %%
run.plot()

# %% [markdown]
# ## Which class for which
#
# Rows are what it is, columns what was said. The pairs that are confused most often usually
# say more about the images than about the network.

# %%
run.confusion()

# %%
for pair in report["test"]["most_confused"][:3]:
    print("{count} of {n} images of {true} were taken for {predicted}".format(**pair))

# %% [markdown]
# ## Is it as sure as it is right?
#
# Of the images about which it is 80 % sure, 80 % should be right. The reliability diagram shows how
# far that holds, the expected calibration error (ECE) is the mean distance. The temperature is
# fitted on validation images: dividing the logits by it brings the two together. It changes no
# decision, and so no accuracy.

# %%
run.reliability()

# %%
calibration = report["calibration"]
print({k: v for k, v in calibration.items() if not isinstance(v, list | dict)})

# %% [markdown]
# ## The surest mistakes
#
# Wrong, and sure of it. Here one finds wrong labels, broken images, and what the network mistakes
# for the thing itself.

# %%
run.mistakes()

# %% [markdown]
# Grad-CAM shows where an image speaks for a class. It is as coarse as the layer it is taken at, and
# it is a hint, not a proof.

# %%
import numpy as np

from tlflax.data.decode import decode

images = np.stack([decode(digits.test.read(i), digits.test.files[i]) for i in range(4)])
run.show_grad_cam(images, "block2_pool")

# %% [markdown]
# ## What trained, and what did not
#
# For each stage: how many parameters trained, whether the frozen ones are the same to the bit
# afterwards, at which step it was best.

# %%
for stage in report["stages"]:
    keys = ("name", "trainable_parameters", "frozen_parameters", "frozen_unchanged", "best_step")
    print({key: stage[key] for key in keys})

# %% [markdown]
# ## Two runs
#
# Is fine-tuning better than the frozen network? Two accuracies with overlapping intervals do not
# answer that. Both runs saw the *same* test images, so that only the images count on which exactly
# one of them is right (McNemar's test), and the bootstrap gives the interval of the difference.

# %%
tune = tl.stage("tune", epochs=15, train="all", lr=8e-3, schedule="cosine", warmup=0.1, bn="train")
tuned = tl.fit(model, digits, [head, tune], workdir=folder / "tuned", select="loss")
found = tl.compare([run, tuned], folder / "both")
found.table()

# %%
for pair in found.content["pairs"]:
    print(pair["words"])

# %% [markdown]
# ## Warnings
#
# What could make the numbers mean less than they seem to is said before the run, and kept in the
# report. Here the test images choose the best epoch, as in many tutorials:

# %%
leaky = tl.dataset("digits", per_class=10, val="test", seed=0)
careless = tl.fit(model, leaky, [tl.stage("head", epochs=3, lr=1e-2)], workdir=folder / "leaky")
print(careless.headline())
careless.results["warnings"]

# %% [markdown]
# Others: a test set too small to tell, classes that are 5 times as frequent as others, the same
# image in two splits, pixels in another range than the weights expect, a stage that trains
# nothing new. `python -m tlflax.audit folder:pets` looks through a folder of images beforehand.
