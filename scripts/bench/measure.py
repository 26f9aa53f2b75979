"""The workloads, one row after another."""

import datetime
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import jobs, plan
from bench.plan import JOB_NETWORKS, NETWORKS, SHARES
from bench.rounds import compare, run_cell
from bench.workers import PeerFailed

# Whole jobs take minutes each; more rounds than this tell nothing new.
_JOB_ROUNDS = 3
_GPU_BATCH = 256


class Bench:
    """Measures rows.

    Args:
      workers: peer -> `Remote`.
      pythons: peer -> interpreter.
      facts: peer -> what its worker says about itself.
      scratch: folder for images, caches, logs.
      data: the real images.
      rounds: at most.
    """

    def __init__(
        self,
        workers: Mapping[str, Any],
        pythons: Mapping[str, Path],
        facts: Mapping[str, Mapping[str, Any]],
        scratch: Path,
        data: Path,
        rounds: int,
    ):
        self.workers, self.pythons, self.facts = workers, pythons, facts
        self.scratch, self.data, self.count = scratch, data, rounds
        self.notes: list[str] = []

    def rows(
        self, workloads: Sequence[str], networks: Sequence[str], deadline: float
    ) -> Iterator[dict[str, Any]]:
        """Yields a row for each cell, whatever time it takes; rounds follow the deadline."""
        cells = [(w, n) for w in workloads for n in self._networks(w, networks)]
        weight = {w: SHARES[w] / max(1, sum(v == w for v, _ in cells)) for w in workloads}
        for i, (workload, network) in enumerate(cells):
            # What is left, cut by the shares of what is still to come.
            left = max(0.0, deadline - time.monotonic())
            budget = left * weight[workload] / sum(weight[w] for w, _ in cells[i:])
            print(f"({workload}) {network}: at most {budget:.0f} s ...", flush=True)
            for row in self._cell(workload, network, budget):
                row["date"] = datetime.datetime.now().isoformat(timespec="seconds")
                failed = {p: e["failed"] for p, e in row["peers"].items() if "failed" in e}
                for peer, reason in failed.items():
                    self.notes.append(f"({workload}) {network}: {peer} failed: {reason}")
                    print(f"  {peer} failed: {reason}", flush=True)
                if row.get("ratio"):
                    print(f"  {row['ratio']:.2f} x {row['best_peer']}", flush=True)
                yield row

    def _networks(self, workload: str, networks: Sequence[str]) -> list[str]:
        if workload == "f":
            return ["cats and dogs"]
        if workload == "c":
            return [n for n in networks if n == "vgg16"]
        if workload in ("d", "e"):
            return [n for n in networks if n in JOB_NETWORKS]
        if workload == "g" and not self._gpu():
            return []
        return list(networks)

    def _gpu(self) -> list[str]:
        able = [p for p in ("tlflax", "torch") if p in self.facts]
        return [p for p in able if self.facts[p]["platform"] != "cpu"]

    def _cell(self, workload: str, network: str, budget: float) -> Iterator[dict[str, Any]]:
        if workload in ("d", "e"):
            yield from self._jobs(workload, network, budget)
        elif workload == "f":
            yield self._decode(budget)
        else:
            yield self._steps(workload, network, budget)

    def _steps(self, workload: str, network: str, budget: float) -> dict[str, Any]:
        """Forward passes and training steps."""
        spec = NETWORKS[network]
        batch = {"a": spec.batch, "g": _GPU_BATCH}.get(workload, spec.step_batch)
        options: dict[str, Any] = {"network": network, "batch": batch, "size": spec.size}
        options["kind"] = "forward" if workload == "a" else "step"
        if workload != "a":
            options["train"] = "last" if workload == "c" else "all"
        if workload == "g":
            options["precision"] = "bfloat16"
        able = self._gpu() if workload == "g" else list(self.workers)
        peers = [p for p in spec.peers() if p in able]
        found = run_cell(self.workers, {p: dict(options) for p in peers}, self.count, budget)
        target = {"a": spec.forward_target, "c": plan.BLOCK5_TARGET, "b": plan.STEP_TARGET}
        row = self._row(workload, network, found, target.get(workload))
        row |= {"unit": "images/s", "images": batch, "what": f"{spec.size} px, batch {batch}"}
        if workload in ("a", "b") and "tlflax" in self.workers:
            # The backward pass has two products for each of the forward pass.
            once = self.workers["tlflax"].ask("flops", network=network, size=spec.size)["flops"]
            row["flops"] = once * batch * (1 if workload == "a" else 3)
        return row

    def _decode(self, budget: float) -> dict[str, Any]:
        count, few = plan.DECODE_IMAGES, 2  # tlflax wants all three splits; one is decoded
        folder = jobs.make_folder(self.data, self.scratch / "decode", (count, few, few))
        size, batch = plan.DECODE_SIZE, plan.DECODE_BATCH
        options = {"kind": "decode", "folder": str(folder), "size": size, "batch": batch}
        found = run_cell(self.workers, {p: options for p in self.workers}, self.count, budget)
        row = self._row("f", "cats and dogs", found, None)
        return row | {
            "unit": "images/s",
            "images": count,
            "what": f"{count} JPEG files to {size} px",
        }

    def _jobs(self, workload: str, network: str, budget: float) -> Iterator[dict[str, Any]]:
        spec, images = NETWORKS[network], plan.JOB_IMAGES[network]
        folder = self.scratch / f"images-{network}"
        if not folder.exists():
            jobs.make_folder(self.data, folder, images)
        # An idle worker still holds memory and threads: none is left while jobs run.
        for worker in self.workers.values():
            try:
                worker.ask("free")
            except PeerFailed:
                pass  # it died in an earlier row, which says so
        mode = {"d": "frozen", "e": "last"}[workload]
        pythons = {p: v for p, v in self.pythons.items() if p in spec.peers()}
        runner = jobs.Jobs(pythons, network, folder, self.scratch, plan.EPOCHS, spec.size)
        rounds = min(self.count, _JOB_ROUNDS)
        results = runner.rounds(mode, rounds, budget, again=workload == "d")
        what = f"{spec.size} px, {images[0]}/{images[1]}/{images[2]} images"
        for name, entries in zip((workload, "d2"), results, strict=False):
            target = plan.JOB_TARGETS.get((name, network))
            row = self._row(name, network, {"peers": entries, "matmul": {}}, target)
            yield row | {"unit": "s", "images": sum(images), "what": what}

    def _row(
        self, workload: str, network: str, found: dict[str, Any], target: float | None
    ) -> dict[str, Any]:
        peers = {p: dict(e) for p, e in found["peers"].items()}
        return {
            "workload": workload, "network": network, "target": target,
            **compare(peers), "peers": peers, "matmul_gflops": found["matmul"],
            "peak_gflops": max(found["matmul"].values(), default=None),
        }  # fmt: skip
