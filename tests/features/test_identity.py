"""Stored features are found again if and only if they would be the same."""

import subprocess
import sys

import pytest
import tiny

from tlflax.backbones import table, zoo_hub, zoo_keras, zoo_torch
from tlflax.features.identity import identify, image_key, structure, view_key

NAMES = [spec.name for m in (zoo_hub, zoo_keras, zoo_torch) for spec in m.SPECS]


def test_structure_is_text_for_every_network():
    for name in NAMES:
        text = structure(table.get(name).chain().blocks)
        assert "0x" not in text and "object at" not in text, name


def test_another_process_finds_the_same_name():
    code = """
import sys
from tlflax.features.identity import identify
from tlflax.model import Architecture, Model
model = Model(Architecture("torch_mobilenet_v2_1.0", "auto", ("a", "b"), 32))
print(identify(model, "blocks_3_0", "w", False, "float32")[0])
"""
    found = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert len(found) == 1 and len(found.pop().strip()) == 32


@pytest.mark.parametrize(
    "change",
    [
        {"boundary": "block1_pool"},
        {"weights": "other"},
        {"pooled": True},
        {"dtype": "bfloat16"},
        {"precision": "bfloat16"},
    ],
)
def test_whatever_changes_the_numbers_changes_the_name(change):
    same = {"boundary": "block2_pool", "weights": "w", "pooled": False, "dtype": "float32"}
    model = tiny.model()
    assert identify(model, **same)[0] == identify(tiny.model(dropout=0.5), **same)[0]
    assert identify(model, **same)[0] != identify(model, **(same | change))[0]
    assert identify(model, **same)[0] != identify(model.resized(20), **same)[0]


def test_keys_of_images_and_views_never_meet():
    a, b = "ab" * 32, "cd" * 32
    keys = {image_key(a), image_key(b)}
    keys |= {view_key(h, g, v) for h in (a, b) for g in ("flip", "flip_crop") for v in range(3)}
    assert len(keys) == 14 and {len(k) for k in keys} == {32}
