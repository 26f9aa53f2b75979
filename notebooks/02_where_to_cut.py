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
# # Where to cut, and how much to train
#
# Two choices decide a transfer: at which layer the pretrained network is cut, and how many of its
# blocks learn again. Early layers know edges, which every picture has; late layers know what the
# network was trained for. Which is better depends on how far your images are from those it has
# seen, so one tries, and lets the *validation* images choose.
#
# The example is that of the first notebook: a network that has learnt *printed* letters, ten
# *handwritten* digits of each kind. Nothing is downloaded, and everything here takes less than a
# minute on a laptop.

# %%
import tempfile
from pathlib import Path

import tlflax as tl

digits = tl.dataset("digits", per_class=10, val=100, seed=0, image_size=32)
folder = Path(tempfile.mkdtemp(prefix="tlflax-"))
digits.show(images=10, columns=10)

# %% [markdown]
# ## What is there to cut
#
# Blocks are the places where a network can be cut and frozen; `layers()` also has what lies inside
# them, and any of these names is an endpoint too. (`python -m tlflax.zoo mobilenet_v2_1.0` prints
# the same for a network of the zoo, with strides and parameters.)

# %%
model = tl.classifier("glyph_cnn", classes=10, image_size=32)
print("blocks:", ", ".join(model.endpoints()))
for name, shape in model.layers().items():
    print(f"{name:14} {shape}")

# %% [markdown]
# ## What the layers see
#
# The outputs of three layers for one image, those channels first that vary most over it. Early maps
# are sharp and look like the image; later ones are coarse and answer questions about it.

# %%
from tlflax.data.decode import decode

three = list(digits.val.labels).index(3)
image = decode(digits.val.read(three), digits.val.files[three])
model.show_activations(image, ["block1_pool", "block2_pool", "block3_pool"])

# %% [markdown]
# ## Where to cut
#
# A head on each of them, everything below frozen. Below the cut nothing changes, so that it is
# computed once for each image, and a run takes seconds.

# %%
cuts = ["block1_pool", "block2_pool", "block3_relu1", "block3_pool"]
head = tl.stage("head", epochs=30, lr=1e-2, schedule="cosine")
runs = []
for endpoint in cuts:
    model = tl.classifier("glyph_cnn", classes=10, endpoint=endpoint, image_size=32)
    runs.append(tl.fit(model, digits, [head], workdir=folder / endpoint, select="loss"))

# %%
found = tl.compare(runs)
found.table()

# %%
found.plot()

# %% [markdown]
# The words under the table say what the numbers can carry: which run the validation images prefer,
# and which differences 900 test images cannot tell from chance. (McNemar's test counts only the
# images on which exactly one of two runs is right.)

# %%
print(found.words)

# %% [markdown]
# ## How much to train
#
# The same head first, always: a random head sends large, meaningless gradients down, and they would
# spoil what is below. Then blocks from the top, at a smaller rate.
#
# | rule | trains |
# |---|---|
# | no second stage | the head only |
# | `"last 1"` | the last block that has parameters |
# | `"from block2_pool"` | that block and all above it |
# | `"all"` | the whole network |

# %%
depths = {"head": None, "last": "last 1", "upper": "from block2_pool", "all": "all"}
model = tl.classifier("glyph_cnn", classes=10, image_size=32)
runs = []
for name, rule in depths.items():
    stages = [head]
    if rule:
        more = {"lr": 4e-3, "schedule": "cosine", "warmup": 0.1, "bn": "train"}
        stages.append(tl.stage("tune", epochs=15, train=rule, **more))
    runs.append(tl.fit(model, digits, stages, workdir=folder / name, select="loss"))

# %%
found = tl.compare(runs, folder / "depth")
found.table()

# %%
found.plot("trained_parameters")

# %%
print(found.words)

# %% [markdown]
# `bn="train"` lets BatchNorm in the trained blocks take its statistics from the new images, which
# are very different from printed letters here. Without it trained blocks keep the stored
# statistics: right for photos, and Keras' advice for small sets.
#
# ## What was chosen, and by what
#
# The recommendation looks at validation accuracies alone. Had it looked at the test accuracies, the
# winner's would be no estimate any more: the best of several noisy numbers is too good on average.
# The test accuracy of the chosen run is the number to report, with its interval:

# %%
advice = found.content["recommendation"]["accuracy"]
chosen = tl.Run.open(folder / advice["run"])
print(advice["words"])
print(chosen.headline())

# %% [markdown]
# ## The same from the command line
#
#     python -m tlflax.main --config configs/study_freezing.py --workdir runs/freezing \
#         --config.data=folder:pets
#     python -m tlflax.main --config configs/study_networks.py --workdir runs/networks \
#         --config.data=folder:pets
#     python -m tlflax.compare runs/a runs/b
#
# Each writes a page (`compare.html`) with these tables and pictures.
