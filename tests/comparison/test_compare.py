import csv
import json
import shutil

import made_up
import pytest
from made_up import predictions, right, write

import tlflax as tl
from tlflax.comparison.build import compare
from tlflax.comparison.entry import find_runs, names_of
from tlflax.errors import ConfigError
from tlflax.evaluate.paired import mcnemar


def two(folder, a=range(20), b=range(10, 50), n=200, **changes):
    """A run that is wrong about ``a`` and one that is wrong about ``b``."""
    one = write(folder / "a", predictions(right(n, a)), validation=(95, 100), **changes)
    other = write(folder / "b", predictions(right(n, b)), validation=(80, 100), **changes)
    return one, other


def test_a_row_is_what_the_run_recorded(tmp_path):
    run = write(
        tmp_path / "a", predictions(right(50, [3, 4])), validation=(18, 20), speed=120.5,
        parameters=(40, 60), seconds=30.0, epochs=4,
    )  # fmt: skip
    (row,) = compare([run]).content["runs"]
    assert row["parameters"] == {"total": 100, "trained": 40}
    assert (row["epochs"], row["seconds"]) == (4, 30.0)
    # Epochs end at 10, 12, 14, 16 s: the first one compiles.
    assert row["seconds_per_epoch"] == 2.0
    assert (row["test"]["accuracy"], row["test"]["n"]) == (0.96, 50)
    assert row["validation"]["accuracy"] == 0.9
    assert row["images_per_second"] == 120.5


def test_an_epoch_alone_and_stages_of_unequal_epochs(tmp_path):
    a = write(tmp_path / "a", predictions(right(10, [])), epochs=1, seconds=7.0)
    assert compare(a).content["runs"][0]["seconds_per_epoch"] == 7.0
    stage = json.loads((a / "report.json").read_text())["stages"][0]
    stages = [stage | {"epochs": 3, "seconds": 9.0}, stage | {"epochs": 1, "seconds": 5.0}]
    b = write(tmp_path / "b", predictions(right(10, [])), report={"stages": stages})
    rows = [{"stage_index": 0, "seconds": s} for s in (5.0, 6.0, 7.0)]
    made_up.write_rows(b, [*rows, {"stage_index": 1, "seconds": 5.0}])
    assert compare(b).content["runs"][0]["seconds_per_epoch"] == (3 * 1.0 + 5.0) / 4


def test_pairs_on_the_same_images(tmp_path):
    content = compare(two(tmp_path)).content
    (pair,) = content["pairs"]
    assert (pair["first"], pair["second"], pair["n"]) == ("a", "b", 200)
    assert (pair["only_first"], pair["only_second"]) == (30, 10)
    assert pair["difference"] == pytest.approx(0.1)
    assert pair["p"] == pair["p_holm"] == pytest.approx(mcnemar(30, 10))
    assert pair["separable"]
    low, high = pair["ci95"]
    assert pair["words"] == (
        f"a is better than b by 10.0 points (95% interval {100 * low:.1f} to {100 * high:.1f}; "
        "McNemar p = .002)."
    )


def test_the_better_one_comes_first_in_words(tmp_path):
    (pair,) = compare(two(tmp_path, a=range(10, 50), b=range(20))).content["pairs"]
    assert pair["difference"] == pytest.approx(-0.1)
    low, high = pair["ci95"]
    assert pair["words"].startswith(
        f"b is better than a by 10.0 points (95% interval {-100 * high:.1f} to {-100 * low:.1f};"
    )


def test_a_difference_that_is_not_separable_is_said_to_be_so(tmp_path):
    a, b = two(tmp_path, a=range(20), b=range(3, 24))
    (pair,) = compare([a, b]).content["pairs"]
    assert not pair["separable"]
    assert pair["words"].startswith("a and b are not separable on these 200 images: they differ ")
    again = shutil.copytree(a, tmp_path / "c")
    (pair,) = compare([a, again]).content["pairs"]
    assert pair["words"] == ("a and c are right about the same images: not separable on these 200.")


def test_holm_over_all_pairs_decides(tmp_path):
    # Alone p = .031: with three pairs no longer a difference.
    a = write(tmp_path / "a", predictions(right(100, [])))
    b = write(tmp_path / "b", predictions(right(100, range(6))))
    c = write(tmp_path / "c", predictions(right(100, range(3))))
    assert compare([a, b]).content["pairs"][0]["separable"]
    pairs = {(p["first"], p["second"]): p for p in compare([a, b, c]).content["pairs"]}
    assert len(pairs) == 3
    assert pairs["a", "b"]["p_holm"] == pytest.approx(3 * 2 / 64)
    assert not pairs["a", "b"]["separable"]
    assert pairs["a", "b"]["words"].endswith("McNemar p = .094, Holm over 3 pairs).")


def test_images_are_matched_by_name_and_label_not_by_position(tmp_path):
    wrong = [0, 1, 2, 7]
    a = write(tmp_path / "a", predictions(right(40, wrong)))
    lines = (a / "predictions.csv").read_text().splitlines()
    b = shutil.copytree(a, tmp_path / "b")
    (b / "predictions.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    (pair,) = compare([a, b]).content["pairs"]
    assert (pair["n"], pair["only_first"], pair["only_second"]) == (40, 0, 0)


def test_only_common_images_are_compared_and_it_is_said(tmp_path):
    a = write(tmp_path / "a", predictions(right(40, range(10))))
    b = write(
        tmp_path / "b", predictions(right(60, range(5))), report={"data": {"fingerprint": "x"}}
    )
    content = compare([a, b]).content
    (pair,) = content["pairs"]
    assert (pair["n"], pair["only_second"]) == (40, 5)
    assert (
        "a and b were compared on the 40 test images that both have, of 40 and 60."
        in (content["notes"])
    )
    assert any(
        "not trained, validated and tested on the same images" in n for n in content["notes"]
    )


def test_what_cannot_be_compared_is_named(tmp_path):
    a = write(tmp_path / "a", predictions(right(40, [])))
    other = write(tmp_path / "other", predictions(right(40, []), folder="elsewhere"))
    none = write(tmp_path / "none", None)
    names = write(tmp_path / "names", predictions(right(40, [])), names=("cat", "cow"))
    content = compare([a, other, none, names]).content
    assert content["pairs"] == []
    for sentence in (
        "a and other were not compared: they were tested on different images.",
        "a and none were not compared: one has no test images.",
        "a and names were not compared: they tell other classes apart.",
    ):
        assert sentence in content["notes"]


def test_other_sources_are_pointed_out(tmp_path):
    data = {"source": "folder:pets2", "fingerprint": "xyz"}
    a = write(tmp_path / "a", predictions(right(40, [])))
    b = write(tmp_path / "b", predictions(right(40, [1])), report={"data": data})
    assert any("folder:pets, folder:pets2" in n for n in compare([a, b]).content["notes"])


def test_runs_chosen_on_their_test_images_are_named(tmp_path):
    data = {"source": "folder:pets", "fingerprint": "abc", "chosen_on_test": True}
    a = write(tmp_path / "a", predictions(right(40, [])))
    b = write(tmp_path / "b", predictions(right(40, [1])), report={"data": data})
    content = compare([a, b]).content
    assert any(n.startswith("The test images chose the state of b: they") for n in content["notes"])
    assert "are the estimate" in content["caution"]
    assert "choosing on test" in compare([b]).content["caution"]
    shown = compare([a, b]).table()
    assert str(shown).count("(with test images)") == 1
    compare([a, b], tmp_path / "out")
    with open(tmp_path / "out" / "compare.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["chosen_on_test"] for row in rows] == ["False", "True"]


def test_other_image_sizes_are_said(tmp_path):
    a = write(tmp_path / "a", predictions(right(40, [])), report={"image_size": 75})
    b = write(tmp_path / "b", predictions(right(40, [1])), report={"image_size": 96})
    said = "The runs see images at different sizes, in pixels: a 75, b 96."
    assert said in compare([a, b]).content["notes"]
    assert said not in compare([a]).content["notes"]


def test_a_baseline_is_a_row_and_compared_with_its_run_alone(tmp_path):
    a = write(tmp_path / "a", predictions(right(200, [1])), baseline=right(200, range(30)))
    b = write(tmp_path / "b", predictions(right(200, [2])))
    content = compare([a, b]).content
    assert [r["name"] for r in content["runs"]] == ["a", "a (from scratch)", "b"]
    assert content["runs"][1]["parameters"]["trained"] == 10000
    assert [(p["first"], p["second"]) for p in content["pairs"]] == [
        ("a", "a (from scratch)"), ("a", "b"),
    ]  # fmt: skip
    assert content["pairs"][0]["separable"]
    # It has no model.safetensors that one could take.
    assert "a (from scratch)" not in content["pareto"]
    # A baseline of an earlier version, without predictions.csv, is shown all the same.
    (a / "baseline" / "predictions.csv").unlink()
    content = compare([a]).content
    assert len(content["runs"]) == 2 and content["pairs"] == []
    assert any("predictions.csv is missing" in n for n in content["notes"])


def facts(boundary, reused, computed, seconds, store="224"):
    entry = {"boundary": boundary, "views": 0, "reused": reused, "computed": computed}
    entry["folder"] = f"features/{store}"
    rows = [
        entry | {"split": "train", "seconds": seconds},
        entry | {"split": "test", "seconds": 99.0},
    ]
    return {"cache": {"features": rows}}


def test_seconds_contain_the_features_that_another_run_computed(tmp_path):
    a = write(tmp_path / "a", predictions(right(9, [])), report=facts("block2", 0, 100, 20.0))
    b = write(tmp_path / "b", predictions(right(9, [])), report=facts("block2", 100, 0, 0.5))
    c = write(tmp_path / "c", predictions(right(9, [])), report=facts("block1", 100, 0, 0.5))
    content = compare([a, b, c]).content
    assert [r["seconds"] for r in content["runs"]] == [50.0, 50.5, 30.5]
    assert [r["seconds_measured"] for r in content["runs"]] == [50.0, 30.5, 30.5]
    assert any(n.startswith("Seconds of b contain") for n in content["notes"])
    assert any(n.startswith("Seconds of c are too few") for n in content["notes"])
    # The same blocks at another image size are other features, with a price of their own.
    d = write(tmp_path / "d", predictions(right(9, [])), report=facts("block2", 100, 0, 0.5, "96"))
    content = compare([a, d]).content
    assert [r["seconds"] for r in content["runs"]] == [50.0, 30.5]
    assert any(n.startswith("Seconds of d are too few") for n in content["notes"])


def test_a_study_stands_for_its_runs_in_their_order(tmp_path):
    for name in ("b", "a"):
        write(tmp_path / name, predictions(right(20, [])))
    (tmp_path / "c").mkdir()
    (tmp_path / "study.json").write_text('{"runs": ["b", "c", "a"]}')
    folders, notes = find_runs([tmp_path])
    assert [f.name for f in folders] == ["b", "a"]
    assert notes == [f"Not finished and left out: c in {tmp_path}."]
    (tmp_path / "study.json").unlink()
    # A folder of runs will do; a run given twice counts once.
    assert [f.name for f in find_runs([tmp_path, tmp_path / "a"])[0]] == ["a", "b"]


def test_names_are_as_long_as_needed(tmp_path):
    folders = [tmp_path / x / "run" for x in ("a", "b")]
    assert names_of(folders) == ["a/run", "b/run"]
    assert names_of([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]


def test_mistakes_are_one_line(tmp_path):
    a = write(tmp_path / "runs_a", predictions(right(9, [])))
    with pytest.raises(ConfigError, match=r"runs_b does not exist; did you mean .*runs_a"):
        compare([tmp_path / "runs_b"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="empty holds no finished run"):
        compare([a, tmp_path / "empty"])
    with pytest.raises(ConfigError, match="nothing to compare"):
        compare([])
    with pytest.raises(ConfigError, match="cannot write"):
        compare([a], a / "report.json")
    (a / "predictions.csv").write_text("file,label\nx,y\n")
    with pytest.raises(ConfigError, match=r"cannot read .*predictions\.csv"):
        compare([a])
    (a / "report.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"report\.json has no 'test'"):
        compare([a])
    with pytest.raises(ConfigError, match=r"no model|model\.safetensors"):
        compare([a], speed=True)


def test_files_hold_the_same_numbers(tmp_path):
    runs = two(tmp_path, speed=100.0)
    found = tl.compare(runs, tmp_path / "out")
    names = {p.name for p in (tmp_path / "out").iterdir()}
    plots = (
        "accuracy", "curves", "parameters", "trained_parameters", "seconds", "epoch_seconds",
        "speed",
    )  # fmt: skip
    assert names == {"compare.json", "compare.csv", "compare.html"} | {
        f"compare_{p}.png" for p in plots
    }
    content = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert content["pairs"][0]["words"] == found.content["pairs"][0]["words"]
    with open(tmp_path / "out" / "compare.csv", newline="") as lines:
        rows = list(csv.DictReader(lines))
    for row, kept in zip(rows, content["runs"], strict=True):
        assert row["run"] == kept["name"]
        assert float(row["test_accuracy"]) == kept["test"]["accuracy"]
        assert float(row["test_ci95_low"]) == kept["test"]["accuracy_ci95"][0]
        assert int(row["trained_parameters"]) == kept["parameters"]["trained"]
        assert float(row["images_per_second"]) == 100.0


def test_in_a_notebook(tmp_path):
    found = tl.compare(list(two(tmp_path)))
    table = str(found.table()).splitlines()
    assert table[0].split()[:3] == ["run", "backbone", "parameters"]
    assert "90.0% [85.1\N{EN DASH}93.4%]" in table[1]
    assert found.table()._repr_html_().count("<tr>") == 3
    assert found.plot("speed")._repr_png_()[:4] == b"\x89PNG"
    assert found.words.splitlines()[0].startswith("For accuracy: a")
    with pytest.raises(ConfigError, match="unknown plot 'sped'; did you mean speed"):
        found.plot("sped")


def test_the_function_stays_a_function_after_the_module_was_imported(tmp_path, capsys, monkeypatch):
    from tlflax.compare import main
    from tlflax.report import compare_plots

    monkeypatch.setattr(compare_plots, "draw", made_up.blank)

    a, b = two(tmp_path, report={"warnings": ["One thing.", "Another thing."]})
    main(["compare", str(a), str(b), "--out", str(tmp_path / "out")])
    out = capsys.readouterr().out
    assert "a is better than b by 10.0 points" in out
    assert "\na: 2 warnings, b: 2 warnings; see the run's report.html.\n" in out
    assert (tmp_path / "out" / "compare.html").is_file()
    assert tl.compare([a]).content["runs"][0]["name"] == "a"


def test_runs_of_one_network_share_one_speed(tmp_path):
    from tlflax.convert.tensors import save_variables

    runs = []
    for name, speed, backbone in (("a", 100.0, "x"), ("b", 140.0, "x"), ("c", 500.0, "y")):
        runs.append(write(tmp_path / name, predictions(right(20, [])), speed=speed))
        facts = {"architecture": {"backbone": backbone}}
        save_variables(runs[-1] / "model.safetensors", {"params": {}}, facts)
    rows = compare(runs).content["runs"]
    assert [r["images_per_second"] for r in rows] == [120.0, 120.0, 500.0]
    assert rows[0]["inference"]["images_per_second"] == 100.0


def test_speeds_of_different_devices_rank_nothing(tmp_path):
    a = write(tmp_path / "a", predictions(right(20, [])), speed=100.0)
    b = write(tmp_path / "b", predictions(right(20, [])), speed=900.0, device="H100")
    content = compare([a, b]).content
    assert content["recommendation"]["speed"]["run"] is None
    assert [r["images_per_second"] for r in content["runs"]] == [100.0, 900.0]
    assert any("different devices" in n for n in content["notes"])
    assert content["pareto_goals"] == ["validation accuracy", "parameters"]


def test_who_has_warnings_is_the_last_line(tmp_path):
    a = write(tmp_path / "a", predictions(right(20, [])), baseline=right(20, [1]))
    b = write(
        tmp_path / "b", predictions(right(20, [])), baseline=right(20, [1]),
        report={"warnings": ["One thing."]},
    )  # fmt: skip
    line = "b: 1 warning; see the run's report.html."
    assert compare([a, b]).words.splitlines()[-1] == line
    assert "report.html" not in compare([a]).words
