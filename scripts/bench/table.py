"""Results as JSON and as a Markdown table."""

import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.plan import PEERS, TITLES, WORKLOADS

_LETTERS = ("a", "b", "c", "d", "d2", "e", "f", "g")
_NAMES = {**WORKLOADS, "d2": "the job of (d) again with another head, same cache folder"}


def machine() -> dict[str, Any]:
    """Processor, cores, memory, system."""
    name, memory = platform.processor() or platform.machine(), None
    try:
        text = Path("/proc/cpuinfo").read_text()
        name = (re.search(r"model name\s*: (.+)", text) or [name, name])[1]
        flags = (re.search(r"flags\s*: (.+)", text) or ["", ""])[1].split()
        wide = [f for f in ("avx2", "avx512f", "amx_tile") if f in flags]
        name += f" ({', '.join(wide)})" if wide else ""
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        memory = round(pages / 2**30, 1)
    except (OSError, ValueError):
        pass  # not Linux: what platform says must do
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"processor": name, "cores": cores, "memory_gb": memory, "system": platform.platform()}


def merge(old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of both; a row measured again replaces the old one."""
    rows = {(r["workload"], r["network"]): r for r in (*old, *new)}
    return sorted(rows.values(), key=lambda r: _LETTERS.index(r["workload"]))


def write(folder: Path, results: Mapping[str, Any]) -> None:
    """Writes bench.json and bench.md, each as a whole or not at all."""
    texts = {"bench.json": json.dumps(results, indent=1) + "\n", "bench.md": markdown(results)}
    for name, text in texts.items():
        temporary = folder / f".{name}.new"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(folder / name)


def read(folder: Path) -> dict[str, Any]:
    """What an earlier run wrote, ``{}`` if there is none."""
    path = folder / "bench.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def markdown(results: Mapping[str, Any]) -> str:
    """The table for people."""
    m, lines = results["machine"], []
    memory = f", {m['memory_gb']} GB" if m["memory_gb"] else ""
    lines.append(f"{m['processor']}, {m['cores']} cores{memory}; {results['date']}.")
    for name, facts in results["peers"].items():
        versions = ", ".join(f"{k} {v}" for k, v in facts["versions"].items())
        threads = f", {facts['threads']} threads" if "threads" in facts else ""
        lines.append(f"{TITLES[name]}: {versions}; Python {facts['python']}{threads}.  ")
    peak = max((r.get("peak_gflops") or 0 for r in results["rows"]), default=0)
    if peak:
        lines.append(f"Best matrix product between the rounds: {peak:.0f} GFLOP/s (float32).")
    for workload in dict.fromkeys(r["workload"] for r in results["rows"]):
        lines += ["", f"**({workload}) {_NAMES[workload]}**", ""]
        lines += _block([r for r in results["rows"] if r["workload"] == workload])
    for note in results.get("notes", ()):
        lines += ["", note]
    return "\n".join(lines) + "\n"


def _block(rows: Sequence[dict[str, Any]]) -> list[str]:
    names = [p for p in PEERS if any(p in r["peers"] for r in rows)]
    head = ["network", *[TITLES[n] for n in names], "tlflax / best peer", "at least", "peak MB"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        cells = [f"{row['network']}, {row['what']}"]
        cells += [_cell(row, row["peers"].get(n)) for n in names]
        cells.append(_ratio(row))
        cells.append(f"{row['target']:g}" if row.get("target") else "")
        peaks = [row["peers"].get(n, {}).get("peak_mb") for n in names]
        cells.append(" / ".join(f"{p:.0f}" if p else "-" for p in peaks))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _cell(row: Mapping[str, Any], entry: Mapping[str, Any] | None) -> str:
    """Rate or seconds, and the fraction of the matrix product's peak."""
    if entry is None:
        return ""
    if "failed" in entry:
        return "failed"
    if "median" not in entry:
        return f"> {entry['stopped']:.0f} s" if "stopped" in entry else ""
    if row["unit"] == "s":
        return f"{entry['median']:.1f} s"
    rate = row["images"] / entry["median"]
    text = f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"
    if row.get("flops") and row.get("peak_gflops"):
        text += f" ({row['flops'] / entry['median'] / 1e9 / row['peak_gflops']:.0%})"
    return f"{text} {row['unit']}"


def _ratio(row: Mapping[str, Any]) -> str:
    if row.get("ratio") is None:
        return ""
    low, high = row["range"]
    text = f"{row['ratio']:.2f}" if row["ratio"] < 10 else f"{row['ratio']:.1f}"
    spread = f" ({low:.2f}-{high:.2f})" if low != high else ""
    missed = row.get("target") and row["ratio"] < row["target"]
    return f"{text}{spread}" if missed or not row.get("target") else f"**{text}**{spread}"
