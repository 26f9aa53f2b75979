"""One peer's process: reads a command per line (JSON), does it, answers with a line.

    python -m bench.worker PEER

Only one worker works at a time; the driver gives the turns.
"""

import importlib
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench import drawn
from bench.plan import NETWORKS

MODULES = {"keras_tf": "peer_keras", "keras_jax": "peer_keras"}


def peak_memory_mb() -> float:
    """Largest resident set of this process since `forget_peak`, in MB (Linux; else of its life)."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        found = None
    if found:
        return int(found[1]) / 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 1024)


def forget_peak() -> None:
    """Starts the count of `peak_memory_mb` anew, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # then the peak is that of all workloads so far, an upper bound


class Worker:
    """The commands; `peer` does the work, one workload at a time.

    Args:
      name: of the peer.
    """

    def __init__(self, name: str):
        self.peer = importlib.import_module(f"bench.{MODULES.get(name, f'peer_{name}')}").Peer()
        self.work: Callable[[], Any] | None = None
        self.products: dict[int, Callable[[], Any]] = {}

    def describe(self) -> dict[str, Any]:
        """Versions, device, threads."""
        return {**self.peer.describe(), "python": sys.version.split()[0], "cores": os.cpu_count()}

    def prepare(self, kind: str, network: str = "", **options: Any) -> dict[str, Any]:
        """Gets a workload ready and runs it once, which compiles it.

        Args:
          kind: method of the peer: ``forward``, ``step``, ``decode``.
          network: row of the plan.
          options: ``batch``, ``size``, and what the method takes.
        """
        self.work = None
        forget_peak()
        began = time.perf_counter()
        if kind == "decode":
            self.work = self.peer.decode(**options)
        else:
            batch, size = options.pop("batch"), options.pop("size")
            pixels = drawn.images(batch, size)
            self.work = getattr(self.peer, kind)(NETWORKS[network], pixels, **options)
        assert self.work is not None
        self.work()
        return {"seconds": time.perf_counter() - began}

    def measure(self, repeats: int) -> dict[str, Any]:
        """Seconds per call, over ``repeats`` calls in a row."""
        assert self.work is not None
        began = time.perf_counter()
        for _ in range(repeats):
            self.work()
        seconds = (time.perf_counter() - began) / repeats
        return {"seconds": seconds, "peak_mb": peak_memory_mb()}

    def matmul(self, side: int, repeats: int) -> dict[str, Any]:
        """Best rate of a float32 product of two square matrices, in GFLOP/s."""
        if side not in self.products:
            rng = np.random.default_rng(0)
            pair = [rng.standard_normal((side, side), np.float32) for _ in range(2)]
            self.products[side] = self.peer.product(*pair)
            self.products[side]()
        best = float("inf")
        for _ in range(repeats):
            began = time.perf_counter()
            self.products[side]()
            best = min(best, time.perf_counter() - began)
        return {"gflops": 2 * side**3 / best / 1e9}

    def values(self, path: str, calls: int = 1) -> dict[str, Any]:
        """What the prepared work returns, call by call, written as .npz."""
        assert self.work is not None
        np.savez(path, *[np.asarray(self.work()) for _ in range(calls)])
        return {"path": path}

    def free(self) -> dict[str, Any]:
        """Lets go of the workload."""
        self.work = None
        self.peer.clear()
        return {}

    def __getattr__(self, name: str) -> Any:
        # save, flops: what not every peer has.
        return getattr(self.peer, name)


def serve(name: str) -> None:
    """Answers until the driver closes the pipe."""
    # Answers have a channel of their own: libraries print to stdout.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker = Worker(name)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(worker, command.pop("do"))(**command)
        except Exception as error:
            traceback.print_exc()
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            answer = {"error": reason[:500]}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    serve(sys.argv[1])
