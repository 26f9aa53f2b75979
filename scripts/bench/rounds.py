"""Interleaved rounds (A B C D A B C D ...): every peer in turn, one at a time."""

import math
import statistics
import time
from collections.abc import Mapping
from typing import Any

from bench.workers import PeerFailed

# A turn lasts at least this long, so that the clock and the switch do not matter.
_TURN_SECONDS = 0.4
_FEWEST = 2
_SIDE, _PRODUCTS = 1536, 3


def run_cell(
    workers: Mapping[str, Any],
    prepare: Mapping[str, Mapping[str, Any]],
    rounds: int,
    seconds: float,
) -> dict[str, Any]:
    """Measures one cell of the table.

    Args:
      workers: peer -> `Remote`.
      prepare: peer -> arguments of its `prepare`; peers that are not named sit out.
      rounds: at most.
      seconds: budget; rounds stop when the next would not fit, but not before two.

    Returns:
      ``peers``: by name ``seconds`` (one per round, per call), ``first_seconds`` (with
      compilation), ``peak_mb``, or ``failed`` with the reason; ``matmul``: by name the best
      GFLOP/s of a matrix product between the rounds.
    """
    began, found, repeats, matmul = time.monotonic(), {}, {}, {}
    for name, arguments in prepare.items():
        try:
            first = workers[name].ask("prepare", **arguments)["seconds"]
            once = workers[name].ask("measure", repeats=1)["seconds"]
        except PeerFailed as error:
            found[name] = {"failed": str(error)}
            continue
        repeats[name] = max(1, math.ceil(_TURN_SECONDS / once))
        found[name] = {"seconds": [], "first_seconds": first, "peak_mb": 0.0}
    for done in range(rounds):
        a_round = time.monotonic()
        for name in [n for n in repeats if "failed" not in found[n]]:
            try:
                turn = workers[name].ask("measure", repeats=repeats[name])
                product = workers[name].ask("matmul", side=_SIDE, repeats=_PRODUCTS)["gflops"]
            except PeerFailed as error:
                found[name] = {"failed": str(error)}
                continue
            found[name]["seconds"].append(turn["seconds"])
            found[name]["peak_mb"] = turn["peak_mb"]
            matmul[name] = max(matmul.get(name, 0.0), product)
        took = time.monotonic() - a_round
        if done + 1 >= _FEWEST and time.monotonic() - began + took > seconds:
            break
    for name in repeats:
        try:
            workers[name].ask("free")
        except PeerFailed as error:
            found[name] = {"failed": str(error)}
    return {"peers": found, "matmul": matmul}


def compare(peers: dict[str, dict[str, Any]], ours: str = "tlflax") -> dict[str, Any]:
    """Speeds relative to the best peer other than ``ours``, from medians, and their range.

    Args:
      peers: as `run_cell` gives them; ``median`` and ``speed`` (1.0 = the best peer's) are added.
      ours: the one that is compared with the rest.

    Returns:
      ``best_peer``, ``ratio`` of ``ours`` and its smallest and largest value over the rounds
      (each round's own best peer); nothing where one side is missing.
    """
    for entry in peers.values():
        if entry.get("seconds"):
            entry["median"] = statistics.median(entry["seconds"])
    others = {n: e["median"] for n, e in peers.items() if n != ours and "median" in e}
    if not others:
        return {}
    best = min(others, key=lambda n: others[n])
    for entry in peers.values():
        if "median" in entry:
            entry["speed"] = others[best] / entry["median"]
    if "median" not in peers.get(ours, {}):
        return {"best_peer": best}
    mine = peers[ours]["seconds"]
    each = [
        min(peers[n]["seconds"][i] for n in others if i < len(peers[n]["seconds"])) / mine[i]
        for i in range(min(len(mine), max(len(peers[n]["seconds"]) for n in others)))
    ]
    return {"best_peer": best, "ratio": peers[ours]["speed"], "range": [min(each), max(each)]}
