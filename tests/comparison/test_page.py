import html
import json
import re
import sys
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import browser
import made_up
import pytest
from made_up import predictions, right, write
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
from test_document import Page

from tlflax.comparison.build import PLOTS, Comparison, compare
from tlflax.report import canvas, compare_plots, style


class Figures(HTMLParser):
    """What the page shows of the JSON: (key, how it is written, text)."""

    def __init__(self, text):
        super().__init__()
        self.found, self.current = [], None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        known = dict(attrs)
        if "data-key" in known:
            self.current = [known["data-key"], "", ""]
        elif "data-told" in known:
            self.current = [known["data-told"], known["data-form"], ""]

    def handle_data(self, data):
        if self.current:
            self.current[2] += data

    def handle_endtag(self, tag):
        if self.current:
            self.found.append(tuple(self.current))
            self.current = None


def tells(text, form, value):
    """Whether a text such as ``p = .004`` is what a reader should see of a value."""
    if not form:
        return browser.differs(text, value) == ""
    if form == "p":
        if text in ("p < .001", "p = 1"):
            return value < 0.0005 if "<" in text else value > 0.995
        digits = re.fullmatch(r"p = \.(\d+)", text)[1]
        return abs(int(digits) / 10 ** len(digits) - value) <= 0.5 / 10 ** len(digits) + 1e-9
    assert form in ("points", "minus points")
    sign = -1 if form.startswith("minus") else 1
    shown = float(text.replace("\N{MINUS SIGN}", "-"))
    return abs(shown - sign * 100 * value) <= 0.05 + 1e-9


@pytest.mark.parametrize(
    ("text", "form", "right", "wrong"),
    [
        ("10.0", "points", 0.1004, 0.1006),
        ("\N{MINUS SIGN}0.8", "points", -0.0083, 0.0083),
        ("\N{MINUS SIGN}0.8", "minus points", 0.0083, -0.0083),
        ("p = .004", "p", 0.0042, 0.0046),
        ("p = .12", "p", 0.124, 0.13),
        ("p < .001", "p", 0.0004, 0.004),
        ("p = 1", "p", 1.0, 0.9),
        ("94.6%", "", 0.946, 0.947),
        ("2 h 05 min", "", 7500.0, 7550.0),
    ],
)
def test_reading_figures(text, form, right, wrong):
    assert tells(text, form, right) and not tells(text, form, wrong)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    runs = [
        write(
            folder / "frozen <b>&", predictions(right(200, range(18))), speed=100.0,
            validation=(93, 100), baseline=right(200, range(28)),
            report={"warnings": ["A <b>bold</b> word & more."]},
        ),
        write(folder / "tuned", predictions(right(200, range(5, 21))), speed=300.0),
        write(
            folder / "own", predictions(right(200, range(70))), parameters=(50, 50), seconds=7500.0,
            report={"warnings": ["One thing.", "Another thing."]},
        ),
    ]  # fmt: skip
    (runs[0] / "report.html").write_text("x")
    compare(runs, folder / "out")
    return folder / "out"


def test_the_page_shows_the_numbers_of_the_json(made):
    content = json.loads((made / "compare.json").read_text())
    page = Page((made / "compare.html").read_text(encoding="utf-8"))
    for row in content["runs"]:
        assert row["name"] in page.words
        for split in ("validation", "test"):
            s = row[split]
            assert f"{style.percent(s['accuracy'])} {style.interval(s['accuracy_ci95'])}" in (
                page.words
            )
        total, trained = row["parameters"]["total"], row["parameters"]["trained"]
        assert f"{style.count(total)} {style.count(trained)} trained" in page.words
        assert (
            f"{style.duration(row['seconds'])} {style.number(row['seconds_per_epoch'])} s an"
            in (page.words)
        )
    assert len(content["pairs"]) == 4
    for pair in content["pairs"]:
        assert pair["words"] in page.words
        assert f"{style.points_of(abs(pair['difference']))} " in page.words
    for goal in content["recommendation"].values():
        assert goal["words"] in page.words
    assert content["caution"] in page.words
    assert all(note in page.words for note in content["notes"])


def test_every_figure_is_that_of_the_json(made):
    content = json.loads((made / "compare.json").read_text())
    text = (made / "compare.html").read_text(encoding="utf-8")
    figures = Figures(text).found
    wrong = [f for f in figures if not tells(f[2], f[1], browser.at(content, f[0]))]
    assert wrong == []
    pair = ("difference", "ci95.0", "ci95.1", "only_first", "only_second", "n", "p", "p_holm")
    row = ("seconds", "seconds_per_epoch", "parameters.total", "epochs", "test.n", "test.loss")
    assert {key for key, *_ in figures} >= {
        "within_reach.standard_error", "within_reach.n", "runs.0.inference.batch_size",
        *(f"pairs.{i}.{key}" for i in range(len(content["pairs"])) for key in pair),
        *(f"runs.{i}.{key}" for i in range(len(content["runs"])) for key in row),
    }  # fmt: skip
    # Of a pair whose second run is the better one the signs are turned.
    assert any(pair["difference"] < 0 for pair in content["pairs"])
    for i in range(len(content["pairs"])):
        ends = [text for key, _, text in figures if key.startswith(f"pairs.{i}.ci95")]
        low, high = (float(end.replace("\N{MINUS SIGN}", "-")) for end in ends)
        assert low < high
    # One that the correction changes visibly.
    p = {key: text for key, form, text in figures if form == "p"}
    assert any(p[f"pairs.{i}.p"] != p[f"pairs.{i}.p_holm"] for i in range(len(content["pairs"])))


def test_the_template_writes_no_figure_that_is_not_marked():
    text = files("tlflax.report").joinpath("compare.html").read_text(encoding="utf-8")
    forms = r"\| (?:percent|interval|points|points_of|p_value|thousands|number|duration)\b"
    written = [e.strip() for e in re.findall(r"\{\{(.*?)\}\}", text) if re.search(forms, e)]
    assert len(written) > 15
    assert [e for e in written if not e.startswith(("value(", "told("))] == []


def test_warnings_are_folded_by_run(made):
    content = json.loads((made / "compare.json").read_text())
    text = (made / "compare.html").read_text(encoding="utf-8")
    # A summary is reached and opened by keyboard in every browser.
    folded = re.findall(r"<details>\n<summary>(.*?)</summary>\n(.*?)</details>", text, re.DOTALL)
    said = [html.unescape(re.sub(r"<[^>]*>", "", summary)) for summary, _ in folded]
    assert said == ["frozen <b>&: 1 warning", "own: 2 warnings"]
    rows = {row["name"]: row for row in content["runs"]}
    for name, (_, sentences) in zip(("frozen <b>&", "own"), folded, strict=True):
        found = re.findall(r"<li>(.*?)</li>", sentences)
        assert [html.unescape(s) for s in found] == rows[name]["warnings"]


def test_runs_that_are_not_ranked_are_marked(tmp_path, monkeypatch):
    monkeypatch.setattr(compare_plots, "draw", made_up.blank)
    data = {"source": "folder:pets", "fingerprint": "abc", "chosen_on_test": True}
    runs = [
        write(tmp_path / "literal", predictions(right(60, [])), report={"data": data}),
        *(write(tmp_path / name, predictions(right(60, range(9)))) for name in "ab"),
    ]
    content = compare(runs, tmp_path / "out").content
    page = Page((tmp_path / "out" / "compare.html").read_text(encoding="utf-8"))
    assert page.words.count("with test images ") == 1
    assert "No other ranked run beats a, b in validation accuracy and parameters at" in page.words
    assert all(note in page.words for note in content["notes"])


# Where a cost is in compare.json, and what its axis is called.
AXES = {
    "parameters": ("parameters.total", "parameters"),
    "trained_parameters": ("parameters.trained", "trained parameters (most in one stage)"),
    "seconds": ("seconds", "seconds of training"),
    "epoch_seconds": ("seconds_per_epoch", "seconds per epoch"),
    "speed": ("images_per_second", "images per second, inference"),
}


@pytest.mark.parametrize("kind", PLOTS[2:])
def test_accuracy_over_what_each_run_took(made, kind, monkeypatch):
    content = json.loads((made / "compare.json").read_text())
    figures = []
    monkeypatch.setattr(compare_plots, "save", lambda figure, path: figures.append(figure))
    compare_plots.draw(kind, content, {}, made / "x.png")
    (ax,) = figures[0].axes
    where, label = AXES[kind]
    assert ax.get_xlabel() == label
    costs = [(browser.at(row, where), row["test"]["accuracy"]) for row in content["runs"]]
    costs = [pair for pair in costs if pair[0] is not None]
    marks = [line for line in ax.lines if line.get_marker() not in ("", "None", None)]
    drawn = [(float(m.get_xdata()[0]), float(m.get_ydata()[0])) for m in marks]
    assert len(costs) == len(drawn) >= 2
    for wanted, found in zip(costs, drawn, strict=True):
        right, top = abs(ax.transData.transform(found) - ax.transData.transform(wanted))
        # Marks at the same cost are moved apart, by six points each.
        assert right * 72 / figures[0].dpi <= 6 * len(costs) / 2 and top < 0.01


def test_every_picture_is_described():
    assert all(f"``{kind}``" in (Comparison.plot.__doc__ or "") for kind in PLOTS)


def test_the_page_needs_nothing_but_itself(made):
    text = (made / "compare.html").read_text(encoding="utf-8")
    page = Page(text)
    links = [a for a in page.addresses if not a.startswith("data:")]
    # The runs' own reports, where there are any; nothing else, and nothing that loads.
    assert links == ["../frozen <b>&/report.html"]
    assert "script" not in page.tags and "<b>&" in page.words
    assert all(image["alt"] for image in page.images)
    assert len(page.images) == len(PLOTS)
    # Whatever scrolls can be reached by keyboard.
    for block in re.findall(r'<div class="(?:scroll|plot-box)[^>]*>', text):
        assert 'tabindex="0"' in block and "aria-label" in block, html.escape(block)


def test_pictures(made):
    for kind in PLOTS:
        with Image.open(made / f"compare_{kind}.png") as image:
            assert image.width >= 1000 and len(image.convert("RGB").getcolors(1 << 20) or ()) > 20


def test_many_runs_and_many_pairs(tmp_path, monkeypatch):
    monkeypatch.setattr(canvas, "DPI", 40)
    runs = [
        write(tmp_path / f"run_{i:02}", predictions(right(60, range(4 * i))), epochs=1 + i)
        for i in range(9)
    ]
    found = compare(runs, tmp_path / "out")
    page = Page((tmp_path / "out" / "compare.html").read_text(encoding="utf-8"))
    real = sum(p["separable"] for p in found.content["pairs"])
    assert 0 < real < 36
    assert f"{real} of 36 pairs are separable" in page.words
    assert "details" in page.tags


def test_names_of_close_marks_stay_apart_and_inside():
    from matplotlib.text import Text

    from tlflax.report.canvas import new_figure
    from tlflax.report.labels import place_labels
    from tlflax.report.style import LIGHT

    figure = new_figure(5.0, 3.7, LIGHT)
    ax = figure.subplots()
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    marks = [(f"a long name {i}", "#000000", 0.9, 0.5 + 0.01 * i, 0.4, 0.6) for i in range(5)]
    place_labels(ax, marks, LIGHT)
    figure.canvas.draw()
    boxes = [Text.get_window_extent(t) for t in ax.texts]  # without the line to the mark
    frame = ax.get_window_extent()
    assert len(boxes) == 5
    for i, box in enumerate(boxes):
        assert box.x1 <= frame.x1 + 1 and box.x0 >= frame.x0 - 1
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])
