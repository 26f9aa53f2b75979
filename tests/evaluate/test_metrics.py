import csv
import json
import math
import os

import numpy as np
import pytest

from tlflax.atomic import replacing
from tlflax.evaluate.metrics import Predictions, summarise, write_predictions
from tlflax.evaluate.statistics import wilson

NAMES = ["cat", "dog", "owl"]

# Two cats (one right), one dog (right), no owl, one unknown; one cat taken for an owl.
SAMPLE = Predictions(
    ["a.jpg", "b.jpg", "c.jpg", "d, e.jpg"],
    np.array([0, 0, 1, -1]),
    np.array([[0.8, 0.1, 0.1], [0.2, 0.2, 0.6], [0.1, 0.7, 0.2], [0.3, 0.4, 0.3]]),
)


def test_properties():
    assert SAMPLE.predicted.tolist() == [0, 2, 1, 1]
    assert SAMPLE.confidence == pytest.approx([0.8, 0.6, 0.7, 0.4])
    assert SAMPLE.correct.tolist() == [True, False, True, False]
    assert SAMPLE.correct.dtype == bool
    assert (SAMPLE.labels.dtype, SAMPLE.probabilities.dtype) == (np.int32, np.float32)


def test_summary_by_hand():
    summary = summarise(SAMPLE, NAMES)
    assert summary["n"] == 3
    assert summary["accuracy"] == pytest.approx(2 / 3)
    assert summary["accuracy_ci95"] == list(wilson(2, 3))
    # The wrong cat had probability 0.2.
    assert summary["loss"] == pytest.approx(-(math.log(0.8) + math.log(0.2) + math.log(0.7)) / 3)
    assert summary["confusion"] == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    cat, dog, owl = (summary["per_class"][name] for name in NAMES)
    assert (cat["precision"], cat["recall"], cat["n"]) == (1.0, 0.5, 2)
    assert cat["f1"] == pytest.approx(2 / 3)
    assert cat["recall_ci95"] == list(wilson(1, 2))
    assert (dog["precision"], dog["recall"], dog["f1"], dog["n"]) == (1.0, 1.0, 1.0, 1)
    assert owl["precision"] == 0.0 and owl["n"] == 0
    assert math.isnan(owl["recall"]) and owl["recall_ci95"] == [0.0, 1.0]
    # There is no owl: half of the cats and all dogs.
    assert summary["balanced_accuracy"] == pytest.approx((0.5 + 1.0) / 2)


def test_never_predicted_has_no_precision():
    p = Predictions(["a", "b"], np.array([0, 1]), np.array([[0.9, 0.1], [0.9, 0.1]]))
    dog = summarise(p, ["cat", "dog"])["per_class"]["dog"]
    assert math.isnan(dog["precision"]) and dog["recall"] == 0.0 and dog["f1"] == 0.0


def test_probability_zero_costs_a_finite_loss():
    p = Predictions(["a"], np.array([1]), np.array([[1.0, 0.0]]))
    assert summarise(p, ["cat", "dog"])["loss"] == pytest.approx(-math.log(1e-12))


def _types(value):
    if isinstance(value, dict):
        return set().union(*map(_types, value.values()))
    if isinstance(value, list):
        return set().union(*map(_types, value))
    return {type(value)}


def test_plain_python_numbers():
    summary = summarise(SAMPLE, NAMES)
    # The names are those of the most confused classes.
    assert _types(summary) == {int, float, str}
    json.dumps(summary)


@pytest.mark.parametrize("labels", [[], [-1, -1]])
def test_without_labelled_images(labels):
    n = len(labels)
    p = Predictions(["x"] * n, np.array(labels, int), np.full((n, 2), 0.5))
    summary = summarise(p, ["cat", "dog"])
    assert summary["n"] == 0 and math.isnan(summary["accuracy"]) and math.isnan(summary["loss"])
    assert math.isnan(summary["balanced_accuracy"])
    assert summary["accuracy_ci95"] == [0.0, 1.0]
    assert summary["confusion"] == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("files", "labels", "probabilities"),
    [
        (["a"], [0, 1], np.ones((2, 2))),
        (["a"], [0], np.ones(2)),
        (["a"], [2], np.ones((1, 2))),
        (["a"], [-2], np.ones((1, 2))),
    ],
)
def test_refuses_what_does_not_fit(files, labels, probabilities):
    with pytest.raises(ValueError, match="Predictions"):
        Predictions(files, np.array(labels), probabilities)


@pytest.mark.parametrize("names", [["cat", "dog"], ["cat", "cat", "owl"]])
def test_refuses_wrong_names(names):
    with pytest.raises(ValueError, match="class names"):
        summarise(SAMPLE, names)


def test_csv(tmp_path):
    path = tmp_path / "predictions.csv"
    write_predictions(path, SAMPLE, NAMES)
    with open(path, newline="") as source:
        rows = list(csv.reader(source))
    assert rows[0] == ["file", "label", "predicted", "probability", "correct"]
    assert rows[1] == ["a.jpg", "cat", "cat", "0.800000", "1"]
    assert rows[2] == ["b.jpg", "cat", "owl", "0.600000", "0"]
    assert rows[4] == ["d, e.jpg", "", "dog", "0.400000", ""]
    assert os.listdir(tmp_path) == ["predictions.csv"]


def test_csv_keeps_undecodable_file_names(tmp_path):
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    p = Predictions([name], np.array([0]), np.array([[0.9, 0.1]]))
    write_predictions(tmp_path / "p.csv", p, ["cat", "dog"])
    assert b"caf\xe9.jpg" in (tmp_path / "p.csv").read_bytes()


def test_failed_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "report.json"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="halfway"), replacing(path) as temporary:
        temporary.write_text("ne")
        raise RuntimeError("halfway")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.json"]


@pytest.mark.parametrize("n", [0, 1, 200])
def test_scores_are_those_of_scikit_learn(n):
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    rng = np.random.default_rng(n)
    k = 5
    # Class 3 has no images, class 4 is never predicted.
    labels = rng.choice([0, 1, 2, 4], n)
    probabilities = rng.dirichlet(np.ones(k), n) if n else np.zeros((0, k))
    probabilities[:, 4] = 0
    p = Predictions([str(i) for i in range(n)], labels, probabilities)
    found = summarise(p, list("abcde"))
    if not n:
        assert found["confusion"] == np.zeros((k, k), int).tolist()
        assert all(np.isnan(s["f1"]) and s["n"] == 0 for s in found["per_class"].values())
        return
    matrix = confusion_matrix(labels, p.predicted, labels=range(k))
    assert found["confusion"] == matrix.tolist()
    want = precision_recall_fscore_support(
        labels, p.predicted, labels=range(k), zero_division=np.nan
    )
    for name, values in zip(("precision", "recall", "f1", "n"), want, strict=True):
        got = [s[name] for s in found["per_class"].values()]
        # The same quotients of small integers.
        np.testing.assert_array_max_ulp(np.array(got, float), values.astype(float), 2)
