"""Finished pages in a real browser: offline, narrow and wide, and with the numbers of the JSON."""

import json
import re
import sys
from pathlib import Path

import browser
import numpy as np
import pytest
from report_samples import predictions, run

from tlflax.evaluate.metrics import summarise
from tlflax.report.document import write_report
from tlflax.report.exhibits import Activations, Exhibits, Look, Preview, Sample

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
    outputs = {"block1_conv1": rng.random((96, 96, 9)), LONG: rng.random((3, 3, 64))}
    return Exhibits(
        [Sample(name, [photo() for _ in range(6)]) for name in names],
        [Preview("flip_crop(scale=0.5)", ["tune", "scratch"], [(names[0], [square] * 6)] * 3)],
        [*looks[:-1], Look(looks[-1].index, square, np.zeros((7, 7)))],
        Activations(3, square, outputs | {"tokens": rng.random((5, 48)), "vector": rng.random(64)}),
    )


def report_of(names, n=120, **extra):
    def write(folder):
        report, rows, scratch, shown = run(names, n=n, accuracy=0.7, **extra)
        report["before"] = {"test": summarise(predictions(names, n, 0.3), names)}
        report["cache"]["features"][0] |= {"views": 3}
        report["stages"][0] |= {"mixup": 0.2, "sampling": "balanced"}
        report["stages"][0]["test"] = summarise(predictions(names, n, 0.5), names)
        report["data"] |= {"chosen_on_test": True, "leaked": 0.4}
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
    return "out/compare.html", "out/compare.json"


# Another page is one more line: a function that writes it and says what it and its JSON are called.
REPORT = {
    "test.accuracy", "test.accuracy_ci95", "test.n", "test.loss", "validation.accuracy",
    "baseline.test.accuracy", "stages.1.trainable_parameters", "test.most_confused.0.count",
    "calibration.ece", "calibration.ece_ci95", "calibration.temperature.value",
    "calibration.after.ece", "calibration.reliability.14.n", "before.test.accuracy",
    "stages.0.test.accuracy", "seconds",
    "baseline.epochs", "best_step", "seed", "stages.1.epochs", "stages.1.seconds",
    "stages.1.val_accuracy_ci95", "stages.1.val_n", "stages.1.best_step", "stages.0.mixup",
    "stages.1.policy.15.learning_rate", "baseline.stages.0.policy.0.parameters",
    "cache.features.0.views", "cache.features.2.bytes", "weights.certificate.parameters",
    "weights.certificate.endpoints.block3_pool.max_rel", "data.leaked",
}  # fmt: skip
COMPARISON = {"runs.3.test.accuracy", "runs.0.test.accuracy_ci95", "runs.1.validation.accuracy",
              "runs.2.parameters.total", "runs.2.images_per_second", "within_reach.n",
              "pairs.0.n", "pairs.6.only_first", "runs.0.inference.batch_size",
              "runs.0.seconds"}  # fmt: skip
PAGES = {
    "report": (report_of(["cat", "dog", "owl"]), REPORT),
    "comparison": (comparison, COMPARISON),
    "report of long names": (
        report_of([LONG, "$a.b.0", "<b>&", *map(str, range(25))], 60, warnings=[LONG, "second"]),
        # Two or three images of a class: uneven.
        REPORT | {"test.balanced_accuracy", "data.counts.train.$a.b.0"},
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
        '<details><summary>more</summary><pre style="overflow:auto;width:9em">'
        "a line that is too long for it</pre></details>"
        '<pre tabindex="0" style="overflow:auto;width:9em">another line, and just as long</pre>'
    )
    seen = browser.look(tmp_path / "bad.html", tmp_path)
    found = "\n".join(browser.complaints(seen))
    for words in (
        '"oops"', "asked for http://example.invalid/x.png", "708 pixels wide at 390",
        "picture not shown: gone", "link to nowhere: #no",
        "scrolls at 390, but not by keyboard: <pre style=",
    ):  # fmt: skip
        assert words in found, words
    assert "tabindex" not in found
    assert "wide at 1000" not in found
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
        ("41.3 s", 41.26, True),
        ("41.3 s", 41.2, False),
        ("3 min 26 s", 206.4, True),
        ("3 min 26 s", 207.0, False),
        ("2 h 05 min", 7520.0, True),
        ("2 h 05 min", 7200.0, False),
        ("1.2 MB", 1_234_000, True),
        ("1.2 MB", 1_260_000, False),
        ("300 Bytes", 300, True),
        ("41.3 s", None, False),
    ],
)
def test_comparing_texts_with_values(text, value, same):
    assert (browser.differs(text, value) == "") is same


# Numbers that stand in no JSON as they are: lengths of its lists, sums, differences, rows of
# metrics.jsonl and predictions.csv, and texts of attributes and titles.
BARE = {
    "template.html": {
        "summary.accuracy", "class_names", "totals['train']", "total", "commonest.accuracy",
        "difference", "report.warnings", "stage.policy", "chosen.step", "chosen.epoch",
        "chosen.val_accuracy", "classes", "group.stages", "report.data.skipped", "endpoints",
    },
    "calibration.html": {"c.said", "c.right", "[bin.low, bin.high]"},
    "looks.html": {"mistakes", "wrong", "mistake.probability", "look.probability",
                   "activations.probability"},
    "parts.html": {"a.probability", "a.probability_of_true"},
    "compare.html": {"runs", "pairs", "real", "row.warnings"},
    "samples.html": {"samples", "samples[0].pictures", "class_names", "preview.stages"},
}  # fmt: skip
NUMBER = (
    "percent|certainty|interval|points|points_of|p_value|thousands|number|duration|filesizeformat"
    "|length"
)
MARKED = ("value", "told", "picture")  # told: of compare.html, for differences and p values


def without_calls(expression, *names):
    """An expression of a template without its calls of these macros."""
    found = re.search(rf"\b(?:{'|'.join(names)})\(", expression)
    if not found:
        return expression
    at, depth = found.end(), 1
    while depth:
        depth += {"(": 1, ")": -1}.get(expression[at], 0)
        at += 1
    return expression[: found.start()] + without_calls(expression[at:], *names)


def bare_numbers(text):
    """What a template writes as a number without ``value(KEY, ...)``, except in pictures' texts."""
    expressions = [without_calls(e, *MARKED) for e in re.findall(r"\{\{(.*?)\}\}", text)]
    operand, steps = r"(\[[^\]]*\]|[\w.]+(?:\[[^\]]*\][\w.]*)?)", r"(?: \| \w+(?:\([^()]*\))?)*?"
    number = rf"{operand}{steps} \| (?:{NUMBER})\b"
    return {name for e in expressions for name in re.findall(number, e)}


def test_numbers_are_marked_wherever_a_template_writes_one():
    from importlib.resources import files

    folder = files("tlflax.report")
    pages = [p.name for p in folder.iterdir() if p.name.endswith(".html")]
    found = {n: bare_numbers(folder.joinpath(n).read_text(encoding="utf-8")) for n in pages}
    assert found == BARE


def test_a_bare_number_is_found():
    text = "{{ value('a.' ~ k, (a | first) | percent) if a else b.c | thousands }}"
    assert bare_numbers(text + "{{ d['e'] | number }}") == {"b.c", "d['e']"}
    text = "{{ rows | selectattr('x') | list | length }}{{ name | shorten(9) }}"
    assert bare_numbers(text) == {"rows"}
