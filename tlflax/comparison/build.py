"""The comparison itself: rows, pairs, advice; as JSON, CSV, page, pictures and words."""

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tlflax.atomic import replacing
from tlflax.comparison.advice import advise
from tlflax.comparison.costs import seconds_alone, speeds_of
from tlflax.comparison.entry import Entry, find_runs, names_of, read_entries
from tlflax.comparison.notes import caution, differences, reused_features, warned
from tlflax.comparison.pairs import Pair, compare_pairs
from tlflax.comparison.ranking import pareto, pareto_goals, ranked, standard_error, within_reach
from tlflax.comparison.table import COLUMNS, Table
from tlflax.errors import ConfigError, suggest
from tlflax.result import Picture

PLOTS = (
    "accuracy",
    "curves",
    "parameters",
    "trained_parameters",
    "seconds",
    "epoch_seconds",
    "speed",
)


@dataclasses.dataclass
class Comparison:
    """Runs side by side.

    Attributes:
      content: what compare.json holds.
      histories: row name -> rows of its metrics.jsonl.
    """

    content: dict[str, Any]
    histories: dict[str, list[dict[str, Any]]]

    @property
    def words(self) -> str:
        """Recommendation, pairs, notes and who has warnings, one sentence a line."""
        c = self.content
        lines = [a["words"] for a in c["recommendation"].values()] + [c["caution"]]
        lines += [*(p["words"] for p in c["pairs"]), *c["notes"], *warned(c["runs"])]
        return "\n".join(lines)

    def table(self) -> Table:
        """One row a run, for a terminal or a notebook."""
        return Table(self.content["runs"])

    def plot(self, kind: str = "accuracy") -> Picture:
        """A picture.

        Args:
          kind: ``accuracy``, ``curves``, or accuracy over ``parameters``,
            ``trained_parameters``, ``seconds`` of training, ``epoch_seconds`` or ``speed``.

        Raises:
          ConfigError: another kind.
        """
        from tlflax.report import compare_plots

        if kind not in PLOTS:
            hint = suggest(str(kind), PLOTS)
            raise ConfigError(f"unknown plot {kind!r}{hint} (of {', '.join(PLOTS)})")
        buffer = io.BytesIO()
        compare_plots.draw(kind, self.content, self.histories, buffer)
        return Picture(buffer.getvalue())

    def write(self, out: Path) -> None:
        """Writes compare.json, compare.csv, the plots and compare.html.

        Raises:
          ConfigError: the folder cannot be written to.
        """
        from tlflax.report import compare_plots
        from tlflax.report.compare_page import write_page
        from tlflax.report.document import to_json
        from tlflax.report.page import drawn

        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot write to {out}: {error.strerror}") from error
        with replacing(out / "compare.json") as temporary:
            temporary.write_text(to_json(self.content) + "\n", encoding="utf-8")
        with (
            replacing(out / "compare.csv") as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            for row in self.content["runs"]:
                writer.writerow(
                    ["" if v is None else v for v in (f(row) for f in COLUMNS.values())]
                )
        pictures = {}
        for kind in PLOTS:
            pictures[kind] = drawn(compare_plots.draw, kind, self.content, self.histories)
            with replacing(out / f"compare_{kind}.png") as temporary:
                temporary.write_bytes(pictures[kind][0])
        write_page(out / "compare.html", self.content, pictures)


def compare(
    runs: Sequence[Any], out: str | Path | None = None, *, speed: bool = False
) -> Comparison:
    """Compares finished runs.

    Args:
      runs: run directories, folders of studies, or `tlflax.result.Run` objects.
      out: folder for compare.json, compare.csv, compare.html and pictures; ``None`` writes none.
      speed: measure inference now (all networks, one after the other) and store the result in
        each report.json; otherwise only what is stored there is shown.

    Raises:
      ConfigError: no finished run in a folder, or a damaged file.
    """
    if isinstance(runs, str | Path) or not isinstance(runs, Sequence):
        runs = [runs]
    folders, notes = find_runs([getattr(run, "folder", run) for run in runs])
    if speed:
        from tlflax.comparison.speed import measure

        measure(folders)
    entries: list[Entry] = []
    for folder, name in zip(folders, names_of(folders), strict=True):
        entries += read_entries(folder, name)
    pairs, more = compare_pairs(entries)
    content = _content(entries, pairs, [*notes, *more])
    found = Comparison(content, {e.name: e.history for e in entries})
    if out is not None:
        found.write(Path(out))
    return found


def _content(entries: Sequence[Entry], pairs: Sequence[Pair], notes: list[str]) -> dict[str, Any]:
    runs = [e for e in entries if e.of is None]
    split = "test" if any(e.scores["test"] for e in runs) else "validation"
    speeds, comparable = speeds_of(runs)
    alone = seconds_alone(entries)
    rows = [_row(e, speeds.get(e.of or e.name), alone[e.name]) for e in entries]
    own = [row for row in rows if row["baseline_of"] is None]
    names = {row["name"] for row in own}
    among = [p for p in pairs if p.first in names and p.second in names]
    # What was measured on another device or in other batches is shown, but ranks nothing.
    rivals = own if comparable else [row | {"images_per_second": None} for row in own]
    advice = advise(rivals, among, split)
    choice = [row["name"] for row in ranked(own)]
    left_out = [row["name"] for row in own if row["name"] not in choice]
    return {
        "split": split,
        "runs": rows,
        "pairs": [pair.content() for pair in pairs],
        "recommendation": advice,
        "within_reach": _reach(own, advice),
        "pareto": pareto(rivals),
        "pareto_goals": pareto_goals(rivals),
        "not_ranked": left_out,
        "caution": caution(split, runs),
        "notes": [
            *notes,
            *differences(runs, comparable, left_out),
            *reused_features(entries, alone),
        ],
    }


def _row(entry: Entry, speed: float | None, alone: float) -> dict[str, Any]:
    inference = None if entry.of else entry.report.get("inference")
    keys = ("accuracy", "accuracy_ci95", "n", "loss")
    return {
        "name": entry.name,
        "folder": str(entry.folder),
        "baseline_of": entry.of,
        "chosen_on_test": entry.chosen_on_test,
        "backbone": entry.report["backbone"],
        "endpoint": entry.report["endpoint"],
        "parameters": entry.parameters,
        "epochs": entry.epochs,
        "seconds": round(alone, 3),
        "seconds_measured": round(entry.seconds, 3),
        "seconds_per_epoch": round(entry.seconds_per_epoch, 4),
        **{s: {k: v[k] for k in keys} if v else None for s, v in entry.scores.items()},
        "images_per_second": speed,
        "inference": inference,
        "stages": [
            {k: s[k] for k in ("name", "epochs", "seconds", "trainable_parameters")}
            for s in entry.stages
        ],
        "seed": entry.report.get("seed"),
        "warnings": entry.report.get("warnings") or [],
    }


def _reach(rows: Sequence[dict[str, Any]], advice: dict[str, Any]) -> dict[str, Any] | None:
    """The one-standard-error rule in numbers."""
    known = ranked(rows)
    best = next((r for r in known if r["name"] == advice["accuracy"]["run"]), None)
    if best is None or len(known) < 2:
        return None
    near = [r["name"] for r in within_reach(known, best)]
    return {
        "of": best["name"],
        "standard_error": standard_error(best),
        "n": best["validation"]["n"],
        "runs": near,
    }
