"""Finished pages in a real browser: offline, narrow and wide, and with the numbers of the JSON."""

import json
import re
import sys
from pathlib import Path

import browser
import numpy as np
import pytest
from report_samples import run

from tlflax.report.document import write_report
from tlflax.report.exhibits import Exhibits, Look, Preview, Sample

sys.path.insert(0, str(Path(__file__).parents[1] / "comparison"))
import made_up

from tlflax.comparison.build import compare

LONG = "a_very_long_class_name_without_any_blank_in_it_that_no_column_was_made_for." * 2


def exhibits(names, shown):
    rng = np.random.default_rng(0)

    def photo(side=120):
        return rng.integers(0, 255, (side, side * 3 // 2, 3)).astype(np.uint8)

    square = rng.integers(0, 255, (96, 96, 3)).astype(np.uint8)
    looks = [Look(i, square, rng.random((7, 7))) for i in range(min(12, len(shown.files)))]
    return Exhibits(
        [Sample(name, [photo() for _ in range(6)]) for name in names],
        [Preview("flip_crop(scale=0.5)", ["tune", "scratch"], [(names[0], [square] * 6)] * 3)],
        [*looks[:-1], Look(looks[-1].index, square, np.zeros((7, 7)))],
    )


def report_of(names, **extra):
    def write(folder):
        report, rows, scratch, shown = run(names, n=120, accuracy=0.7, **extra)
        write_report(
            folder, report, rows, scratch, shown, lambda i: np.full((90, 60, 3), i, np.uint8),
            {"key": LONG}, names, lambda: exhibits(names, shown),
        )  # fmt: skip
        return "report.html", "report.json"

    return write


def comparison(folder):
    runs = [
        made_up.write(
            folder / f"run {i} {LONG}", made_up.predictions(made_up.right(200, range(6 * i))),
            speed=100.0 * (i + 1), baseline=made_up.right(200, range(60)) if i == 0 else None,
            report={"warnings": [LONG, "Another sentence."] if i else []},
        )
        for i in range(4)
    ]  # fmt: skip
    compare(runs, folder / "out")
    page = folder / "out" / "compare.html"
    # What is folded must fit as well.
    text = page.read_text(encoding="utf-8").replace("<details>", "<details open>")
    page.write_text(text, encoding="utf-8")
    return "out/compare.html", "out/compare.json"


# Another page is one more line: a function that writes it and says what it and its JSON are called.
REPORT = {
    "test.accuracy", "test.accuracy_ci95", "test.n", "test.loss", "validation.accuracy",
    "baseline.test.accuracy", "stages.1.trainable_parameters", "test.most_confused.0.count",
    "calibration.ece", "calibration.ece_ci95", "calibration.temperature.value",
    "calibration.after.ece", "calibration.reliability.14.n",
}  # fmt: skip
COMPARISON = {"runs.3.test.accuracy", "runs.0.test.accuracy_ci95", "runs.1.validation.accuracy",
              "runs.2.parameters.total", "runs.2.images_per_second", "within_reach.n",
              "pairs.0.n", "pairs.6.only_first", "runs.0.inference.batch_size"}  # fmt: skip
PAGES = {
    "report": (report_of(["cat", "dog", "owl"]), REPORT),
    "comparison": (comparison, COMPARISON),
    "report of long names": (
        report_of([LONG, "$a.b.0", "<b>&", *map(str, range(25))], warnings=[LONG, "second"]),
        REPORT,
    ),
}


@pytest.mark.parametrize("page", PAGES)
def test_page(page, tmp_path):
    browser.chromium()
    folder = tmp_path / "run"
    folder.mkdir()
    write, wanted = PAGES[page]
    page, numbers = write(folder)
    seen = browser.look(folder / page, tmp_path)
    assert browser.complaints(seen) == []
    assert [view["width"] for view in seen.views] == list(browser.WIDTHS)
    content = json.loads((folder / numbers).read_text(encoding="utf-8"))
    assert browser.wrong_values(seen, content) == []
    keys = {key for key, _ in seen.views[0]["values"]}
    assert wanted <= keys


def test_what_is_wrong_with_a_page_is_noticed(tmp_path):
    (tmp_path / "bad.html").write_text(
        '<!doctype html><title>bad</title><img src="http://example.invalid/x.png" alt="gone">'
        '<div style="width:700px">wide</div><a href="#no">x</a>'
        '<script>console.error("oops")</script>'
        '<b data-key="a.b">12.4%</b><b data-key="c">1,235</b><b data-key="d.e.f">1.0</b>'
    )
    seen = browser.look(tmp_path / "bad.html", tmp_path)
    found = "\n".join(browser.complaints(seen))
    for words in (
        '"oops"', "asked for http://example.invalid/x.png", "708 pixels wide at 390",
        "picture not shown: gone", "link to nowhere: #no",
    ):  # fmt: skip
        assert words in found, words
    assert "at 1000" not in found
    right = {"a": {"b": 0.12449}, "c": 1235, "d.e": {"f": 0.95}}
    assert browser.wrong_values(seen, right) == []
    wrong = {"a": {"b": 0.1251}, "c": 1234, "d.e": {"f": None}}
    assert len(set(browser.wrong_values(seen, wrong))) == 3


@pytest.mark.parametrize(
    ("text", "value", "same"),
    [
        ("94.6\N{EN DASH}97.2%", [0.946, 0.97249], True),
        ("94.6\N{EN DASH}97.2%", [0.946, 0.9731], False),
        ("94.6%", [0.946, 0.97], False),
        ("\N{EN DASH}", None, True),
        ("\N{EN DASH}", 0.5, False),
        ("1e-05", 1.04e-5, True),
        ("1e-05", 1.6e-5, False),
        ("0.1868", 0.18684, True),
    ],
)
def test_comparing_texts_with_values(text, value, same):
    assert (browser.differs(text, value) == "") is same


def test_numbers_are_marked_wherever_the_template_writes_one():
    """Percentages outside of ``value(...)`` are those that stand in no JSON as they are."""
    from importlib.resources import files

    text = files("tlflax.report").joinpath("calibration.html").read_text(encoding="utf-8")
    bare = re.findall(r"\{\{ ([\w.]+) \| (?:percent|interval|number)", text)
    assert set(bare) == {"c.said", "c.right"}
