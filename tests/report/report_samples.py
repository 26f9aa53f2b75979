"""Made-up runs for the tests of the report: sizes and names vary, numbers are consistent."""

import numpy as np

from tlflax.evaluate.metrics import Predictions, summarise
from tlflax.evaluate.reliability import calibration
from tlflax.evaluate.statistics import accuracy_interval


def predictions(names, n, accuracy, seed=0, folder="test"):
    """N predictions, class by class, of about the given accuracy."""
    rng = np.random.default_rng(seed)
    k = len(names)
    labels = np.sort(np.arange(n) % k)
    logits = rng.normal(size=(n, k))
    hit = rng.random(n) < accuracy
    target = np.where(hit, labels, (labels + rng.integers(1, 4, n)) % k)
    logits[np.arange(n), target] += rng.gamma(4, 1.5, n) + np.log(k)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    files = [f"{folder}/{names[c]}/IMG_{i:05d}.jpg" for i, c in enumerate(labels)]
    return Predictions(files, labels, probabilities)


def history(stages, seed=0, start=0.55, end=0.96):
    """Rows of metrics.jsonl for [(name, epochs)], four rows an epoch."""
    rng = np.random.default_rng(seed)
    rows, epoch, step = [], 0.0, 0
    total = sum(epochs for _, epochs in stages)
    for index, (name, epochs) in enumerate(stages):
        for _ in range(epochs):
            epoch, step = epoch + 1, step + 25
            share = 1 - np.exp(-3 * epoch / total)
            accuracy = start + (end - start) * share + rng.normal(0, 0.008)
            rows.append(
                {
                    "stage": name,
                    "stage_index": index,
                    "step": step,
                    "epoch": epoch,
                    "train_loss": 0.9 * (1 - share) + 0.08,
                    "train_accuracy": min(1.0, accuracy + 0.02 * share),
                    "val_loss": 0.8 * (1 - share) + 0.16 + rng.normal(0, 0.01),
                    "val_accuracy": min(1.0, accuracy),
                    "learning_rate": 1e-3,
                    "seconds": 2.0,
                }
            )
    return rows


def policy(blocks, trained):
    return [
        {
            "block": block,
            "parameters": 0 if "pool" in block else 1728 * (i + 1),
            "trained": i >= len(blocks) - trained,
            "multiplier": 0.1 if block != "head" else 1.0,
            "learning_rate": 1e-4 if block != "head" else 1e-3,
            "batchnorm": "stored" if "conv" in block else "-",
        }
        for i, block in enumerate(blocks)
    ]


def run(names, n=300, accuracy=0.9, stages=(("head", 5), ("tune", 8)), baseline=True, **extra):
    """Returns (report, history, baseline_history, predictions) of one run."""
    names = list(names)
    rows = history(stages)
    best = max(rows, key=lambda row: row["val_accuracy"])
    scratch = history([("scratch", 13)], seed=3, start=0.4, end=0.8) if baseline else None
    test = predictions(names, n, accuracy)
    blocks = [f"block{i}_{kind}" for i in range(1, 6) for kind in ("conv1", "conv2", "pool")]
    blocks.append("head")
    counts = {
        split: {name: size + 3 * (i % 4) for i, name in enumerate(names)}
        for split, size in (("train", 100), ("val", 20), ("test", n // len(names)))
    }

    def stage(index, name, epochs, frozen=True):
        return {
            "name": name,
            "trainable_parameters": 525_314 * (index + 1) ** 2,
            "frozen_parameters": 14_714_688 - 262_144 * index if frozen else 0,
            "epochs": epochs,
            "steps": 25 * epochs,
            "seconds": 41.3 * (index + 1) ** 2,
            "boundary": "block5_conv1" if frozen else None,
            "cached": frozen and index == 0,
            "best_step": 25 * epochs,
            "val_accuracy": 0.93 + 0.01 * index,
            "val_accuracy_ci95": accuracy_interval(0.93 + 0.01 * index, n // 2 + 1),
            "val_n": n // 2 + 1,
            "frozen_unchanged": True,
            "stopped": "all epochs" if index == 0 else "no better for 5 epochs",
            "policy": policy(blocks, 1 + 3 * index if frozen else len(blocks)),
        }

    report = {
        "test": summarise(test, names),
        "validation": summarise(predictions(names, n // 2 + 1, accuracy + 0.02, seed=1), names),
        "baseline": {
            "test": summarise(predictions(names, n, accuracy - 0.15, seed=2), names),
            "validation": summarise(predictions(names, n, accuracy - 0.13, seed=4), names),
            "stages": [stage(0, "scratch", 13, frozen=False)],
            "epochs": 13,
        }
        if baseline
        else None,
        "stages": [stage(i, name, epochs) for i, (name, epochs) in enumerate(stages)],
        "backbone": "vgg16",
        "endpoint": "block5_pool",
        "weights": {
            "source": "https://storage.example/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
            "sha256": "af52fb4a" * 8,
            "certificate": {
                "method": "forward pass against stored Keras 3.15 reference outputs, float32",
                "endpoints": {
                    f"block{i}_pool": {"max_abs": 1.234e-5 * i, "max_rel": 2.5e-7 * i}
                    for i in range(1, 6)
                },
                "parameters": 14714688,
            },
        },
        "data": {
            "source": "folder:pets",
            "class_names": names,
            "counts": counts,
            "splits": "val and test cut from train, stratified by class, seed 0, by content hash",
            "skipped": [{"file": "train/cat/broken.jpg", "reason": "truncated after 2,048 bytes"}],
        },
        "cache": {
            "mode": "auto",
            "folder": "~/.cache/tlflax/features",
            "features": [
                {
                    "split": split,
                    "boundary": "block5_conv1",
                    "rows": rows,
                    "reused": rows // 3,
                    "computed": rows - rows // 3,
                    "damaged": 0,
                    "seconds": 12.5,
                    "views": 0,
                    "bytes": rows * 4 * 9 * 9 * 512,
                    "dtype": "float32",
                }
                for split, rows in (("train", 300), ("val", 60), ("test", n))
            ],
        },
        "seed": 0,
        "precision": "float32",
        "versions": {"python": "3.11.9", "tlflax": "0.1.0", "jax": "0.10.2", "flax": "0.12.8"},
        "warnings": [],
        "seconds": 206.5,
        "command": "python -m tlflax.main --config configs/finetune.py --workdir runs/pets",
        "date": "2026-11-22T18:05:00",
        "best_step": best["step"],
        "calibration": calibration(
            test, predictions(names, n // 2 + 1, accuracy + 0.02, seed=1), "test"
        ),
        "grad_cam": {"endpoint": "block5_pool", "reason": None},
        "activations": {
            "layers": ["block1_conv1", "block3_pool", "block5_pool"],
            "reason": None,
            "file": test.files[0],
        },
    }
    return report | extra, rows, scratch, test
