"""The quickstart: rendered glyphs, packaged weights, and the config in short."""

import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from tlflax import tree
from tlflax.backbones import table
from tlflax.backbones.inventory import abstract_variables
from tlflax.convert.load import take
from tlflax.convert.store import load_weights
from tlflax.convert.tensors import read_facts
from tlflax.data.pipeline import Images
from tlflax.data.source import load_dataset
from tlflax.model import Architecture, Model
from tlflax.train.streams import resize_rule

ROOT = Path(__file__).resolve().parents[1]
SPEC = table.get("glyph_cnn")
PACKAGED = Path(table.__file__).parent.parent / "weights" / SPEC.packaged


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script():
    return load(ROOT / "scripts" / "pretrain_quickstart.py")


def test_rendering_depends_on_seed_and_index_only(script):
    images, labels = script.draw(3, range(40))
    assert images.shape == (40, 32, 32, 3) and images.dtype == np.uint8
    assert labels.dtype == np.int32 and 0 <= labels.min() and labels.max() < 62
    again, same = script.draw(3, [7, 30])
    assert (again == images[[7, 30]]).all() and (same == labels[[7, 30]]).all()
    other, _ = script.draw(4, range(40))
    assert (other != images).any(axis=(1, 2, 3)).all()


def test_glyphs_are_light_strokes_on_dark_ground(script):
    images, labels = script.draw(0, range(300))
    assert len(np.unique(labels)) > 50
    ground = np.median(images[..., 0][:, [0, -1]], axis=(1, 2))
    brightest = np.quantile(images[..., 0], 0.99, axis=(1, 2))
    assert np.median(ground) < 40 < 120 < np.median(brightest)
    # Every image shows something.
    assert (brightest > ground + 25).mean() > 0.98


def test_every_font_draws_every_character(script):
    for font in script.FONTS:
        shapes = {c: script.plate(font, c) for c in script.CHARACTERS}
        assert all(p.max() > 0.9 and min(p.shape) > 4 for p in shapes.values())
        # A missing character is drawn as a box, the same for all of them.
        assert len({p.tobytes() for p in shapes.values()}) > 58


def test_packaged_weights_load_totally_and_say_where_they_come_from():
    assert PACKAGED.stat().st_size < 1_000_000
    chain = SPEC.chain()
    weights = load_weights(SPEC, chain, "official")
    target = abstract_variables(chain, 32)
    flat = tree.flatten(take(weights.variables, target))
    assert flat.keys() == tree.flatten(weights.variables).keys()
    assert tree.count(flat) == SPEC.parameters
    assert all(np.isfinite(leaf).all() and leaf.dtype == np.float32 for leaf in flat.values())
    facts = read_facts(PACKAGED)
    assert facts["backbone"] == "glyph_cnn" and "pretrain_quickstart.py" in facts["source"]
    certificate = facts["certificate"]
    assert certificate["method"] == "trained" and certificate["parameters"] == SPEC.parameters
    assert certificate["held_out_accuracy"] > 0.8  # 62 characters, some of them look the same
    assert {"statement", "left_out", "endpoints", "date", "versions"} <= certificate.keys()


@pytest.mark.slow
def test_pretrained_features_beat_random_ones():
    """Ridge regression on pooled features of ten digits per class, on the validation digits."""
    data = load_dataset("digits", per_class=10, splits={"val": 400, "test": 0.2}, seed=1)
    model = Model(Architecture("glyph_cnn", "auto", tuple("0123456789"), 32))
    random = model.init(0)
    loaded = model.load(random, load_weights(SPEC, model.chain, "official"))
    run = jax.jit(lambda v, x: model.module().apply(v, x, method="features").mean((1, 2)))

    def accuracy(variables) -> float:
        found = []
        for split in (data.train, data.val):
            images = Images(split, 32, resize_rule(model)).batch(np.arange(len(split)))
            found.append(np.asarray(run(variables, images), np.float64))
        mean, scale = found[0].mean(0), found[0].std(0) + 1e-6
        x, z = ((f - mean) / scale for f in found)
        targets = np.eye(10)[data.train.labels] - 0.1
        solution = np.linalg.solve(x.T @ x + 10 * np.eye(x.shape[1]), x.T @ targets)
        return float(((z @ solution).argmax(1) == data.val.labels).mean())

    trained, untrained = accuracy(loaded), accuracy(random)
    # Seen: 0.97 and 0.90 (random convolutions are no bad features of such small images).
    assert trained > 0.94 and 1 - trained < 0.6 * (1 - untrained)


def test_config_in_short_writes_every_file(tmp_path):
    from tlflax.run import run

    config = load(ROOT / "configs" / "quickstart.py").get_config()
    config.head_epochs = config.tune_epochs = 2
    config.baseline = False
    run(config, tmp_path / "run")
    expected = {
        "config.json", "metrics.jsonl", "metrics.csv", "tb", "checkpoints", "model.safetensors",
        "predictions.csv", "report.json", "report.html", "curves.png", "confusion.png",
    }  # fmt: skip
    assert expected <= {p.name for p in (tmp_path / "run").iterdir()}
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert report["test"]["n"] == 900 and report["baseline"] is None
    assert [(s["name"], s["epochs"]) for s in report["stages"]] == [("head", 2), ("tune", 2)]
    assert report["stages"][0]["frozen_unchanged"] and report["stages"][0]["cached"]
    assert report["weights"]["certificate"]["method"] == "trained"
    # Two epochs of the head on frozen features are far from chance (0.1) already.
    assert report["test"]["accuracy"] > 0.5
