import pytest
from made_up import predictions, right, write

from tlflax.comparison.build import compare
from tlflax.comparison.ranking import (
    most_accurate,
    pareto,
    pareto_goals,
    ranked,
    standard_error,
    within_reach,
)


def ascii_words(entry):
    """A recommendation with plain hyphens for its dashes and minus signs."""
    return entry["words"].replace("\N{EN DASH}", "-").replace("\N{MINUS SIGN}", "-")


def row(name, accuracy=0.9, n=100, speed=100.0, total=1000, seconds=60.0, on_test=False):
    return {
        "name": name, "validation": {"accuracy": accuracy, "n": n}, "images_per_second": speed,
        "parameters": {"total": total, "trained": total}, "seconds": seconds,
        "chosen_on_test": on_test,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "best"),
    [
        ([row("a", 0.9), row("b", 0.91)], "b"),
        ([row("a"), row("b", total=999)], "b"),
        ([row("a"), row("b", speed=101.0)], "b"),
        ([row("a"), row("b", seconds=59.0)], "b"),
        ([row("a"), row("b")], "a"),
        ([row("a", total=900, speed=1.0), row("b", speed=900.0)], "a"),
    ],
)
def test_the_most_accurate_and_ties(rows, best):
    found, tied = most_accurate(rows)
    assert found["name"] == best
    assert len(tied) == sum(r["validation"] == found["validation"] for r in rows) - 1


def test_one_standard_error():
    # sqrt(.9 * .1 / 100) = .03; Wilson's is a little wider below.
    assert standard_error(row("a", 0.9, 100)) == pytest.approx(0.03, abs=0.005)
    assert 0 < standard_error(row("a", 1.0, 100)) < 0.015
    rows = [row("a", 0.9), row("b", 0.87), row("c", 0.85)]
    assert [r["name"] for r in within_reach(rows, rows[0])] == ["a", "b"]


@pytest.mark.parametrize(
    ("rows", "front"),
    [
        ([row("a")], "a"),
        ([row("a"), row("b")], "ab"),
        ([row("a", 0.9), row("b", 0.8)], "a"),
        ([row("a", 0.9), row("b", 0.8, speed=200.0)], "ab"),
        ([row("a", 0.9), row("b", 0.8, total=10)], "ab"),
        # Within ten per cent speeds are equal.
        ([row("a", 0.9), row("b", 0.8, speed=109.0)], "a"),
        ([row("a", 0.9, speed=100.0), row("b", 0.9, speed=200.0)], "b"),
        # A speed is missing: accuracy and size alone.
        ([row("a", 0.9), row("b", 0.8, speed=None)], "a"),
    ],
)
def test_pareto(rows, front):
    assert pareto(rows) == list(front)


def test_rows_validated_on_test_images_are_ranked_only_among_themselves():
    a, b = row("a", 0.9), row("b", 0.99, on_test=True)
    unknown = row("c") | {"validation": None}
    assert ranked([a, b, unknown]) == [a]
    assert ranked([b, unknown]) == [b]
    assert pareto([a, b, unknown]) == ["a"]
    slow = row("d", speed=None)
    assert pareto_goals([a, b | {"images_per_second": None}]) == [
        "validation accuracy", "images/s", "parameters",
    ]  # fmt: skip
    assert pareto_goals([a, slow]) == ["validation accuracy", "parameters"]


def advice(tmp_path, *runs):
    """(name, validation right of 100, wrong test images of 500, keywords) -> recommendation."""
    folders = [
        write(
            tmp_path / name, predictions(right(500, wrong)) if wrong is not None else None,
            validation=(accuracy, 100), **more,
        )
        for name, accuracy, wrong, more in runs
    ]  # fmt: skip
    return compare(folders).content


def test_in_words(tmp_path):
    content = advice(
        tmp_path,
        ("X", 95, range(25), {"speed": 100.0, "parameters": (100, 900)}),
        ("Y", 94, range(5, 32), {"speed": 105.0, "parameters": (100, 900)}),
        ("Z", 94, range(29), {"speed": 310.0, "parameters": (100, 300)}),
        ("W", 70, range(150), {"speed": 900.0, "parameters": (10, 90)}),
    )
    words = {k: ascii_words(v) for k, v in content["recommendation"].items()}
    assert {k: v["run"] for k, v in content["recommendation"].items()} == {
        "accuracy": "X", "speed": "Z", "size": "Z", "training_time": "X",
    }  # fmt: skip
    assert words["accuracy"] == (
        "For accuracy: X, validation 95.0% (95% interval 88.8-97.8%) on 100 images, "
        "test 95.0% (95% interval 92.7-96.6%) on 500. "
        "Y and Z cannot be told apart from it on 500 test images."
    )
    assert words["speed"] == (
        "For speed of inference: Z, 3.1 times the images/s of X (310 against 100), "
        "at -0.8 points of test accuracy (not separable on 500 images). "
        "Out of reach on validation: W, 2.9 times the images/s of Z (900 against 310), "
        "at -25.0 points of test accuracy (separable on 500 images)."
    )
    assert words["size"].startswith("For size: Z, 400 parameters, 40% of those of X, at -0.8 ")
    assert words["training_time"].startswith("For training time: X as well; no run within reach")
    assert content["pareto"] == ["X", "Z", "W"]
    assert content["within_reach"]["runs"] == ["X", "Y", "Z"]
    assert "ranks by validation accuracy" in content["caution"]


def test_validation_decides_and_a_better_test_result_is_told(tmp_path):
    content = advice(tmp_path, ("X", 95, range(80), {}), ("Y", 94, range(20), {}))
    words = content["recommendation"]["accuracy"]["words"]
    assert content["recommendation"]["accuracy"]["run"] == "X"
    assert "On the test images, however, Y is better than it by +12.0 points" not in words
    assert "On the test images, however, Y is better than it by 12.0 points (95%" in words


def test_a_tie_is_said_with_its_reason(tmp_path):
    content = advice(
        tmp_path,
        ("X", 95, [1], {"parameters": (100, 900)}),
        ("Y", 95, [2], {"parameters": (100, 500)}),
    )
    assert content["recommendation"]["accuracy"]["run"] == "Y"
    assert (
        "X has the same validation accuracy; Y was taken as the smaller network."
        in (content["recommendation"]["accuracy"]["words"])
    )


def test_times_within_noise_are_equal(tmp_path):
    content = advice(tmp_path, ("X", 95, [1], {"seconds": 30.0}), ("Y", 94, [2], {"seconds": 28.0}))
    assert content["recommendation"]["training_time"]["run"] == "X"
    near = advice(
        tmp_path / "b", ("X", 95, [1], {"seconds": 30.0}), ("Y", 94, [2], {"seconds": 15.0})
    )
    assert near["recommendation"]["training_time"]["words"].startswith(
        "For training time: Y, 15.0 s, 50% of the time of X (30.0 s), at ±0.0 points of test"
    )


def test_a_single_run(tmp_path):
    content = advice(tmp_path, ("X", 95, [1], {"speed": 10.0}))
    assert content["recommendation"] == {
        "accuracy": {
            "run": "X", "words": "There is only one run, X: nothing to choose between.",
        }
    }  # fmt: skip
    assert content["within_reach"] is None and content["pareto"] == ["X"]


def test_without_test_images_it_is_choosing_on_validation(tmp_path):
    content = advice(tmp_path, ("X", 95, None, {}), ("Y", 80, None, {}))
    assert content["split"] == "validation"
    assert "choosing a run by them is choosing on validation" in content["caution"]
    words = ascii_words(content["recommendation"]["accuracy"])
    assert words == "For accuracy: X, validation 95.0% (95% interval 88.8-97.8%) on 100 images."
    (pair,) = content["pairs"]
    assert pair["n"] == 100 and pair["separable"]
    assert content["recommendation"]["speed"]["run"] is None


def literal(**more):
    """Keywords of a run whose validation images are its test images."""
    data = {"source": "folder:pets", "fingerprint": "abc", "chosen_on_test": True}
    return {"report": {"data": data}, **more}


def test_a_run_validated_on_its_test_images_is_not_recommended(tmp_path):
    # The best of all by every figure.
    first = literal(speed=900.0, parameters=(10, 90), seconds=5.0)
    content = advice(
        tmp_path,
        ("literal", 99, [1], first),
        ("X", 95, range(25), {"speed": 100.0}),
        ("Y", 94, range(30), {"speed": 100.0}),
    )
    goals = content["recommendation"].values()
    assert {goal["run"] for goal in goals} == {"X"} and len(goals) == 4
    assert not any("literal" in goal["words"] for goal in goals)
    assert content["within_reach"]["of"] == "X"
    assert content["within_reach"]["runs"] == ["X", "Y"]
    assert content["pareto"] == ["X"] and content["not_ranked"] == ["literal"]
    assert [r["chosen_on_test"] for r in content["runs"]] == [True, False, False]
    (note,) = [n for n in content["notes"] if "chose the state of literal: they are" in n]
    assert note.endswith(
        " The recommendation leaves out literal, whose validation images have test images among "
        "them: keep the two apart (no val='test' in data_splits) and train again to have such a "
        "run ranked."
    )


def test_copies_are_told_apart_from_a_recipe_that_validates_on_test(tmp_path):
    copied = literal()
    copied["report"]["data"] |= {"leaked": 0.3}
    content = advice(tmp_path, ("C", 99, [1], copied), ("X", 95, [2], {}))
    (note,) = [n for n in content["notes"] if "chose the state of" in n]
    assert "chose the state of C (30% of them): they are validation images too" in note
    assert "keep the two apart (remove the copies, which python -m tlflax.audit lists)" in note
    assert "val='test'" not in note


def test_one_run_that_can_be_ranked(tmp_path):
    content = advice(tmp_path, ("L", 99, [1], literal()), ("X", 95, [2], {}))
    assert content["recommendation"]["accuracy"] == {
        "run": "X", "words": "Only one run can be ranked, X: nothing to choose between.",
    }  # fmt: skip
    assert content["within_reach"] is None and content["pareto"] == ["X"]


def test_where_every_run_was_validated_on_test_images_they_are_ranked_and_it_is_said(tmp_path):
    content = advice(tmp_path, ("L", 95, [1], literal()), ("M", 99, [2], literal()))
    assert content["recommendation"]["accuracy"]["run"] == "M"
    assert content["not_ranked"] == [] and "choosing on test" in content["caution"]
    (note,) = [n for n in content["notes"] if "chose the state of L, M: they" in n]
    assert "the recommendation ranks by accuracy on the test images: keep the two apart" in note
