"""Whole runs on data that would give a meaningless number: refused, or told in the report."""

import copy
import json
import shutil

import numpy as np
import pytest
import tiny
from PIL import Image
from tiny import coarse_pictures, quick_compilation  # noqa: F401

from tlflax import run as runs
from tlflax.backbones.chain import Chain
from tlflax.convert.own_contract import CONTRACTS
from tlflax.data.source import load_dataset
from tlflax.errors import DataError


@pytest.fixture
def folder(tmp_path):
    return tiny.write_stripes(tmp_path / "d", {"train": 10, "val": 4, "test": 6})


def fit(folder, tmp_path, used="unit"):
    model = tiny.model()
    weights = model.pretrained("official")
    model = copy.copy(model)
    grey = CONTRACTS[used]
    model.chain = Chain(
        model.chain.blocks,
        type(grey)("L", grey.scale, grey.mean[:1], grey.std[:1]),
    )
    data = load_dataset(f"folder:{folder}")
    stages = tiny.stages({"epochs": 1})
    runs.fit(model, data, stages, weights=weights, workdir=tmp_path / "run", batch_size=16)
    return json.loads((tmp_path / "run/report.json").read_text())["warnings"]


def test_small_test_set_and_copies_are_in_the_report(folder, tmp_path, capsys):
    shutil.copy(folder / "train/vertical/000.png", folder / "test/vertical/000.png")
    warnings = fit(folder, tmp_path)
    (copies,) = [w for w in warnings if "pixel for pixel" in w]
    assert "test/vertical/000.png = train/vertical/000.png" in copies
    (small,) = [w for w in warnings if "measured on 18 images" in w]
    assert "would narrow it to 10 points" in small
    assert not any("gets its images as" in w for w in warnings)
    out = capsys.readouterr().out
    assert f"warning: {copies}" in out and f"warning: {small}" in out


def test_wrong_input_range_is_in_the_report(folder, tmp_path):
    (note,) = [w for w in fit(folder, tmp_path, "raw") if "gets its images as" in w]
    assert "'raw' (L, x * 1)" in note and "fit 'unit'" in note


def test_images_saved_after_a_division_are_refused(folder, tmp_path):
    for path in folder.glob("*/*/*.png"):
        pixels = np.asarray(Image.open(path)) / 255
        Image.fromarray(pixels.round().astype(np.uint8)).save(path)
    with pytest.raises(DataError, match="no pixel above 1 of 255"):
        fit(folder, tmp_path)
    assert not (tmp_path / "run/report.json").exists()


def test_training_images_in_the_test_split_are_refused(folder, tmp_path):
    for i in range(2):
        shutil.copy(folder / f"train/vertical/00{i}.png", folder / f"test/vertical/00{i}.png")
    with pytest.raises(DataError, match=r"2 test images \(11\.1%\) are in train too"):
        fit(folder, tmp_path)
