"""What runs cost, made comparable: speed of one network, seconds of shared features."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tlflax.comparison.entry import Entry


def speeds_of(runs: Sequence[Entry]) -> tuple[dict[str, float], bool]:
    """Images/s by run, and whether all were measured alike.

    Runs of one network share the median of theirs: what differs between them is noise.
    """
    groups: dict[str, list[Entry]] = defaultdict(list)
    for run in runs:
        if run.report.get("inference"):
            groups[run.architecture or run.name].append(run)
    found = {
        run.name: statistics.median(r.report["inference"]["images_per_second"] for r in group)
        for group in groups.values()
        for run in group
    }
    keys = ("device", "batch_size", "precision")
    ways = {tuple(r.report["inference"].get(k) for k in keys) for r in runs if r.name in found}
    return found, len(ways) <= 1


def seconds_alone(entries: Sequence[Entry]) -> dict[str, float]:
    """Seconds of each row, had it computed all its frozen features itself.

    The first of several runs computes what the others find on disk. Their share is put back at
    the rate at which some run among the compared computed the same features.
    """
    rates: dict[tuple[Any, ...], list[float]] = defaultdict(list)

    def key(entry: Entry, facts: dict[str, Any]) -> tuple[Any, ...]:
        # The store's name is a hash of weights, size, contract and precision.
        store = Path(facts.get("folder") or entry.report["backbone"]).name
        return store, facts.get("boundary"), facts.get("views")

    for entry in entries:
        for facts in entry.features:
            if facts.get("computed") and facts.get("seconds"):
                rates[key(entry, facts)].append(facts["seconds"] / facts["computed"])
    found = {}
    for entry in entries:
        more = 0.0
        for facts in entry.features:
            known = rates.get(key(entry, facts))
            if facts.get("reused") and known:
                more += facts["reused"] * statistics.median(known)
        found[entry.name] = entry.seconds + more
    return found
