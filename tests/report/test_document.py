import ast
import base64
import functools
import html
import io
import json
import os
import pathlib
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from report_samples import run

import tlflax.evaluate
import tlflax.report
from tlflax.evaluate.metrics import Predictions, summarise
from tlflax.report import document, style
from tlflax.report.document import plain, to_json, write_report
from tlflax.report.exhibits import Activations, Exhibits
from tlflax.report.thumbnails import picture

HOSTILE = ["<b>bold</b>", "a & \"b\" 'c'", "<script>alert(1)</script>", "{{ 7 * 7 }}x", "items"]


class Page(HTMLParser):
    """Collects what a browser would make of the page."""

    VOID = frozenset({"meta", "img", "source", "br"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.addresses, self.text = [], [], [], []
        self.images = []
        self.feed(text)
        self.close()
        assert self.open == []
        self.words = " ".join(" ".join(self.text).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "srcset", "data", "action")]
        assert not any(k.startswith("on") for k, _ in attrs)
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text.append(data)


def _write(tmp_path, sample, thumbnail=lambda i: None, config=None):
    report, rows, scratch, test = sample
    names = report["data"]["class_names"]
    write_report(tmp_path, report, rows, scratch, test, thumbnail, config or {}, names)
    assert "compare.html" not in (tmp_path / "report.html").read_text()  # it is no study's
    return json.loads((tmp_path / "report.json").read_text()), Page(
        (tmp_path / "report.html").read_text(encoding="utf-8")
    )


@functools.cache
def _drawn_before():
    report, rows, scratch, _ = run(["cat", "dog", "owl"])
    return document.figures(report, rows, scratch, report["data"]["class_names"])


@pytest.fixture
def any_plots(monkeypatch):
    """The page shows plots of another run: drawing takes most of the time of writing one."""
    _drawn_before()
    monkeypatch.setattr(document, "figures", lambda *_: dict(_drawn_before()))


def test_files_and_numbers_agree(tmp_path):
    report, page = _write(tmp_path, run(["cat", "dog", "owl"], n=90, accuracy=0.8))
    assert sorted(os.listdir(tmp_path)) == [
        "confusion.png",
        "curves.png",
        "pictures.json",
        "predictions.csv",
        "reliability.png",
        "report.html",
        "report.json",
    ]
    for name in ("curves.png", "confusion.png", "reliability.png"):
        Image.open(tmp_path / name).verify()
    test, rival = report["test"], report["baseline"]["test"]
    difference = test["accuracy"] - rival["accuracy"]
    assert f"Test accuracy {style.percent(test['accuracy'])} 95% interval" in page.words
    assert f"95% interval {style.interval(test['accuracy_ci95'])} n = 90 images" in page.words
    assert f"Validation {style.percent(report['validation']['accuracy'])}" in page.words
    assert f"{style.points(difference)} against the same network" in page.words
    for name, scores in test["per_class"].items():
        cells = (name, scores["n"], style.percent(scores["precision"]))
        assert " ".join(map(str, cells)) in page.words
        assert style.interval(scores["recall_ci95"]) in page.words
    for stage in report["stages"]:
        assert f"{stage['trainable_parameters']:,} {stage['frozen_parameters']:,}" in page.words
        accuracy, ends = stage["val_accuracy"], stage["val_accuracy_ci95"]
        measured = f"{style.percent(accuracy)} {style.interval(ends)} n = 46"
        assert f"{measured} at step {stage['best_step']}" in page.words
    for endpoint, errors in report["weights"]["certificate"]["endpoints"].items():
        assert f"{endpoint} {errors['max_abs']:.4g} {errors['max_rel']:.4g}" in page.words
    wrong = sum(n for i, row in enumerate(test["confusion"]) for j, n in enumerate(row) if i != j)
    assert f"12 of {wrong} wrong predictions" in page.words
    assert report["command"] in page.words
    assert report["weights"]["sha256"] in page.words


def test_balanced_accuracy_is_shown_where_classes_differ_in_size(tmp_path, any_plots):
    sample = run(["cat", "dog", "owl"], n=90, accuracy=0.8)
    _, page = _write(tmp_path, sample)
    assert "Balanced accuracy" not in page.words
    p = sample[3]
    kept = [i for i, label in enumerate(p.labels) if label != 1 or i % 3 == 0]
    fewer = Predictions([p.files[i] for i in kept], p.labels[kept], p.probabilities[kept])
    sample[0]["test"] = summarise(fewer, ["cat", "dog", "owl"])
    report, page = _write(tmp_path, (*sample[:3], fewer))
    value = report["test"]["balanced_accuracy"]
    assert abs(value - report["test"]["accuracy"]) > 0.001
    assert f"Balanced accuracy {style.percent(value)}" in page.words


def test_what_a_stage_mixes_is_shown(tmp_path, any_plots):
    sample = run(["cat", "dog"], baseline=False)
    sample[0]["stages"][0] |= {"mixup": 0.2, "class_weights": "balanced", "sampling": "balanced"}
    sample[0]["stages"][1] |= {"class_weights": {"cat": 2.0}}
    _, page = _write(tmp_path, sample)
    assert "mixup: 0.2 class weights: balanced sampling: balanced" in page.words
    assert "class weights: given" in page.words and "cutmix" not in page.words


def _shown(tmp_path, **changes):
    """A page with outputs of layers for one image."""
    report, rows, scratch, test = run(["cat", "dog"], **changes)
    maps = {"conv1": np.random.default_rng(0).random((8, 8, 5)), "tokens": np.eye(4)}
    one = int(test.correct.argmax())
    write_report(
        tmp_path, report, rows, scratch, test, lambda i: None, {}, ["cat", "dog"],
        lambda: Exhibits(activations=Activations(one, np.zeros((9, 9, 3), np.uint8), maps)),
    )  # fmt: skip
    return test.files[one], Page((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_outputs_of_layers(tmp_path):
    file, page = _shown(tmp_path)
    assert f"{file}. conv1 8 x 8 x 5, tokens 4 x 4." in page.words
    assert "What its layers see" in page.words
    assert "The surest right answer, cat (" in page.words
    assert "a table (tokens down" in page.words
    (alt,) = (i["alt"] for i in page.images if i["alt"].startswith("Outputs of layers"))
    assert "conv1, tokens" in alt
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    light = base64.b64encode((tmp_path / "activations.png").read_bytes()).decode()
    assert light in text
    # Dark pages have a picture of their own, of the same size.
    before = text[: text.index(light)].rpartition('srcset="data:image/png;base64,')[2]
    other = Image.open(io.BytesIO(base64.b64decode(before.partition('"')[0]))).convert("RGB")
    own = Image.open(tmp_path / "activations.png").convert("RGB")
    assert other.size == own.size
    assert [sum(i.getpixel((i.width - 1, 0))) > 384 for i in (own, other)] == [True, False]


def test_why_no_outputs_of_layers_are_shown(tmp_path, any_plots):
    reason = "no layer of mine has a map of positions"
    _, page = _write(tmp_path, run(["cat", "dog"], activations={"layers": [], "reason": reason}))
    assert f"No picture of layers: {reason}." in page.words
    _, page = _write(tmp_path, run(["cat", "dog"], activations=None))
    assert "What its layers see" not in page.words


def test_nothing_is_fetched(tmp_path):
    _, page = _write(tmp_path, run(["cat", "dog"]), lambda i: np.zeros((8, 8), np.uint8))
    assert page.addresses and all(a.startswith(("data:image/", "#")) for a in page.addresses)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "url(" not in (tmp_path / "report.html").read_text()
    assert all(image.get("alt") for image in page.images)
    assert page.tags.count("h1") == 1 and page.tags.count("main") == 1


def test_hostile_names_are_shown_and_do_nothing(tmp_path, any_plots):
    report, rows, scratch, test = run(HOSTILE, n=60, accuracy=0.5, warnings=["<img src=x>"])
    report["data"]["source"] = "folder:<i>x</i>"
    report["data"]["skipped"][0]["file"] = "<u>file</u>.jpg"
    report["stages"][0]["name"] = "<s>head</s>"
    test.files[:] = [f"<b onload=x>{i}.jpg" for i in range(60)]
    config = {"key": "</code></pre><script>alert(2)</script>"}
    _, page = _write(tmp_path, (report, rows, scratch, test), config=config)
    assert not {"script", "u", "s"} & set(page.tags)
    # <b> and <i> are also the marks of the interval bars; those carry nothing but a style.
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert set(re.findall(r"<[biu]\b[^>]*>", text)) == set(
        re.findall(r'<[bi] style="left:[\d.]+%(?:;width:[\d.]+%)?">', text)
    )
    assert "<img src=x>" not in text and html.escape("<img src=x>") in text
    for name in HOSTILE:
        assert name in page.words
    assert "</code></pre><script>alert(2)</script>" in page.words
    assert "49x" not in page.words


def test_smallest_run(tmp_path):
    nothing = Predictions(["x.jpg"], np.array([0]), np.array([[0.6, 0.4]]))
    names = ["a", "b"]
    report = {
        "test": None,
        "validation": summarise(nothing, names),
        "baseline": None,
        "stages": [],
        "backbone": "glyph_cnn",
        "endpoint": None,
        "weights": {"source": "none", "sha256": None, "certificate": None},
        "data": {"source": "digits", "class_names": names, "counts": {}, "skipped": []},
        "seed": 0,
        "versions": {},
        "warnings": [],
        "seconds": 0.5,
        "command": "",
        "date": "2026-11-22",
    }
    _, page = _write(tmp_path, (report, [], None, nothing))
    assert "There was no test split." in page.words
    assert "Validation accuracy 100.0%" in page.words and "n = 1 image " in page.words
    assert "warning" not in page.words
    assert "None: no labelled image was classified wrongly." in page.words
    assert "no comparison with a reference was recorded" in page.words


def test_unlabelled_and_diverged(tmp_path):
    sample = run(["a", "b"], n=4)
    report = sample[0]
    p = Predictions(["x"] * 2, np.array([-1, -1]), np.array([[0.6, 0.4]] * 2))
    report["test"] = summarise(p, ["a", "b"])
    report["stages"][0]["val_accuracy"] = float("nan")
    written, page = _write(tmp_path, (*sample[:3], p))
    assert written["test"]["accuracy"] is None and written["test"]["loss"] is None
    assert "No labelled images." in page.words and "nan" not in page.words.lower().split()
    diverged = Predictions(["x"], np.array([1]), np.array([[np.nan, np.nan]]))
    report["test"] = summarise(diverged, ["a", "b"])
    _, page = _write(tmp_path, (*sample[:3], diverged))
    assert "training diverged" in page.words


def test_warnings_and_changed_frozen_weights_stand_out(tmp_path, any_plots):
    sample = run(["a", "b"], warnings=["first thing", "second thing"])
    sample[0]["stages"][0]["frozen_unchanged"] = False
    _, page = _write(tmp_path, sample)
    assert "2 warnings first thing second thing" in page.words
    assert '<strong class="bad">no</strong>' in (tmp_path / "report.html").read_text()


def test_many_classes_fold_and_start_with_the_weakest(tmp_path, any_plots):
    names = [f"class {i}" for i in range(40)]
    report, page = _write(tmp_path, run(names, n=400, accuracy=0.7))
    worst = min(report["test"]["per_class"].values(), key=lambda scores: scores["recall"])
    table = page.words.split("Class by class")[1]
    assert style.percent(worst["recall"]) in table.split("All 40 classes")[0]
    # One line for a row of the matrix, not one for a number.
    assert len((tmp_path / "report.json").read_text().splitlines()) < 2700


@pytest.mark.parametrize(
    ("image", "size", "kind"),
    [
        (np.zeros((8, 8), np.uint8), (192, 192), "PNG"),
        (np.zeros((8, 8, 1), np.float32), (192, 192), "PNG"),
        (np.zeros((300, 200, 3), np.uint8), (128, 192), "JPEG"),
        (np.zeros((1, 600, 3), np.uint8), (192, 1), "JPEG"),
    ],
)
def test_thumbnails(image, size, kind):
    content = base64.b64decode(picture(image).partition("base64,")[2])
    opened = Image.open(io.BytesIO(content))
    assert (opened.size, opened.format) == (size, kind)
    assert picture(None) is None


def test_json_is_strict_and_keeps_every_value():
    value = {
        "a": [1, 2.5, float("nan")],
        "b": np.float32(0.5),
        "c": np.arange(4).reshape(2, 2),
        "d": "[\n  1,\n  2\n]",
        "e": (),
        "f": {3: float("inf"), "g": [True, "x"]},
    }
    text = to_json(value)
    assert "[1, 2.5, null]" in text
    assert json.loads(text) == {
        "a": [1, 2.5, None],
        "b": 0.5,
        "c": [[0, 1], [2, 3]],
        "d": "[\n  1,\n  2\n]",
        "e": [],
        "f": {"3": None, "g": [True, "x"]},
    }
    with pytest.raises(TypeError, match="no JSON form"):
        plain({"a": object()})


def test_imports_stay_light():
    for package in (tlflax.evaluate, tlflax.report):
        for path in pathlib.Path(package.__file__).parent.glob("*.py"):
            # The one file there that runs networks.
            if path.name in ("compare.py", "interpretation.py"):
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    names = [node.module or ""]
                for name in names:
                    top = name.split(".")[0]
                    assert top not in ("jax", "flax", "tensorflow"), path
                    assert name != "matplotlib.pyplot", path
                    assert top != "tlflax" or name.split(".")[1] in (
                        "atomic",
                        "data",
                        "errors",
                        "evaluate",
                        "folders",
                        "report",
                    ), path
