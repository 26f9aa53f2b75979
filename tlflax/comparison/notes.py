"""What a reader of a comparison must know to read it right, in sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

from tlflax.comparison.entry import Entry


def caution(split: str, runs: Sequence[Entry]) -> str:
    """What the accuracies may be used for, now that they stand beside each other."""
    if split == "test" and all(r.chosen_on_test for r in runs):
        return (
            "The test images are among the validation images: they chose the state of each run, "
            "and choosing a run by them is choosing on test; no accuracy here is an estimate for "
            "new images."
        )
    if split == "validation":
        return (
            "There is no test split: these are accuracies on the validation images, which also "
            "chose the state of each run, and choosing a run by them is choosing on validation; "
            "expect a little less on new images."
        )
    if len(runs) < 2:
        shared = sum(r.leaked for r in runs)
        rest = f"{shared:.0%} of the test images are among them" if shared else "tested on others"
        return f"Validation images chose the state of the run; {rest}."
    return (
        "Choosing between runs by their test results would make the test images validation "
        "images; the recommendation ranks by validation accuracy, and the test accuracies are "
        "the estimate of what was chosen."
    )


def differences(runs: Sequence[Entry], comparable: bool, left_out: Sequence[str]) -> list[str]:
    """What besides the intended may differ between runs.

    Args:
      runs: all but baselines.
      comparable: whether inference was measured alike.
      left_out: names of runs that are not ranked.
    """
    notes = []
    seeds = {str(r.report.get("seed")) for r in runs}
    if len(seeds) > 1:
        notes.append(f"The runs have different seeds ({', '.join(sorted(seeds))}).")
    data = {(r.report["data"] or {}).get("fingerprint") for r in runs}
    if len(data) > 1:
        notes.append(
            "The runs were not trained, validated and tested on the same images: differences "
            "between them are due to the images as well."
        )
    sizes = {r.name: r.report.get("image_size") for r in runs}
    if len(set(sizes.values()) - {None}) > 1:
        told = ", ".join(f"{name} {size}" for name, size in sizes.items() if size)
        notes.append(f"The runs see images at different sizes, in pixels: {told}.")
    notes += _on_test(runs, left_out)
    if not comparable:
        notes.append(
            "Inference was measured on different devices or in different batches: images/s are "
            "not compared; measure again with --speed."
        )
    missing = [r.name for r in runs if not r.report.get("inference")]
    if missing:
        notes.append(f"Inference was not measured for {', '.join(missing)}; --speed does it.")
    return notes


def _on_test(runs: Sequence[Entry], left_out: Sequence[str]) -> list[str]:
    """What follows from validation images that are test images too."""
    found = [r for r in runs if r.chosen_on_test]
    if not found:
        return []
    such = [r.name if r.leaked == 1 else f"{r.name} ({r.leaked:.0%} of them)" for r in found]
    text = (
        f"The test images chose the state of {', '.join(such)}: they are validation images too. "
        "Test accuracies of such runs are no estimates for new images but too good, and a "
        "difference to another run contains that."
    )
    # Either a recipe says so, or files are there twice.
    fixes = {
        "no val='test' in data_splits": any(r.leaked == 1 for r in found),
        "remove the copies, which python -m tlflax.audit lists": any(r.leaked < 1 for r in found),
    }
    fix = f"keep the two apart ({'; '.join(k for k, v in fixes.items() if v)})"
    unranked = [r.name for r in found if r.name in left_out]
    if unranked:
        text += (
            f" The recommendation leaves out {', '.join(unranked)}, whose validation "
            f"images have test images among them: {fix} and train again to have such a run ranked."
        )
    elif len(runs) > 1:
        text += (
            " There being no other run to choose, the recommendation ranks by accuracy on the "
            f"test images: {fix} and train again to choose without them."
        )
    return [text]


def warned(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which runs have warnings of their own and how many, in one line; nothing if none has.

    Args:
      rows: of compare.json.
    """
    counts = [
        f"{row['name']}: {len(row['warnings'])} warning{'s' if len(row['warnings']) > 1 else ''}"
        for row in rows
        if row["warnings"] and row["baseline_of"] is None
    ]
    return [f"{', '.join(counts)}; see the run's report.html."] if counts else []


def reused_features(entries: Sequence[Entry], alone: Mapping[str, float]) -> list[str]:
    """Whose seconds contain, or lack, the time for frozen features that were on disk."""
    reusing = [e for e in entries if any(f.get("reused") for f in e.features)]
    told = [e.name for e in reusing if alone[e.name] > e.seconds]
    other = [e.name for e in reusing if alone[e.name] == e.seconds]
    notes = []
    if told:
        notes.append(
            f"Seconds of {', '.join(told)} contain the time that another run took for the frozen "
            "features these runs share; what each took itself is seconds_measured in compare.json."
        )
    if other:
        notes.append(
            f"Seconds of {', '.join(other)} are too few: frozen features were found on disk, "
            "computed by a run that is not compared here, or before the run was interrupted."
        )
    return notes
