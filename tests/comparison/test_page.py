import html
import json
import re
import sys
from pathlib import Path

import pytest
from made_up import predictions, right, write
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
from test_document import Page

from tlflax.comparison.build import PLOTS, compare
from tlflax.report import style


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    runs = [
        write(
            folder / "frozen <b>&", predictions(right(200, range(18))), speed=100.0,
            validation=(93, 100), baseline=right(200, range(60)),
        ),
        write(folder / "tuned", predictions(right(200, range(5, 24))), speed=300.0),
        write(folder / "own", predictions(right(200, range(70))), parameters=(50, 50)),
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


def test_many_runs_and_many_pairs(tmp_path):
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
