"""`--quick`: tiny sizes, and no clock: do all peers compute the same?"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.jobs import Jobs, drawn_folder
from bench.plan import JOB_NETWORKS, NETWORKS
from bench.workers import PeerFailed

# Float32 sums in other orders: some 1e-7 per layer, over up to 150 layers with random weights.
_TOLERANCE = 1e-4
# Losses of three steps with momentum, in which those differences grow.
_STEP_TOLERANCE = 1e-3
_STEPS = 3
_BATCH = 4
_JOB_IMAGES, _JOB_EPOCHS = (16, 8, 12), 2


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference over the largest magnitude; infinite for other shapes."""
    if a.shape != b.shape:
        return float("inf")
    gap = np.abs(a.astype(np.float64) - b).max() / max(np.abs(a).max(), 1e-30)
    return float(gap) if np.isfinite(gap) else float("inf")


class Quick:
    """Compares the peers' outputs; each comparison is a line and an entry of `results`.

    Args:
      workers: peer -> `Remote`.
      pythons: peer -> interpreter, for the whole jobs.
      scratch: folder for weights and outputs.
      say: prints a line.
    """

    def __init__(self, workers: Mapping[str, Any], pythons: Mapping[str, Path], scratch: Path, say):
        self.workers, self.pythons, self.scratch, self.say = workers, pythons, scratch, say
        self.results: list[dict[str, Any]] = []
        self._files: dict[str, dict[str, str]] = {}

    def run(self, workloads: Sequence[str], networks: Sequence[str]) -> list[dict[str, Any]]:
        """All comparisons; each entry says ``agrees`` or, without a second peer, ``None``."""
        for workload in workloads:
            if workload == "f":
                self.decode()
            elif workload in ("a", "b"):
                for name in networks:
                    self.network(name, workload)
            elif workload == "c" and "vgg16" in networks:
                self.network("vgg16", "c")
            elif workload in ("d", "e"):
                for name in [n for n in networks if n in JOB_NETWORKS]:
                    self.job(name, workload)
        return self.results

    def network(self, name: str, workload: str) -> None:
        """Forward pass, or the losses of three steps, from the same weights."""
        spec = NETWORKS[name]
        keras = [p for p in ("keras_tf", "keras_jax") if p in self.workers and spec.keras]
        form = spec.torch_form if spec.keras else ""
        if keras:
            files = self._weights(name, keras[0])
            groups = {"tlflax": (files["keras"], {})} | {k: (files["keras"], {}) for k in keras}
            if spec.torch and not form:
                groups["torch"] = (files["arrays"], {})
            self._compare(name, workload, groups)
        elif spec.keras and not form:
            self._compare(name, workload, {})
        if "torch" in self.workers and spec.torch and (form or not spec.keras):
            files = self._weights(name, "torch")
            ours = {"form": form} if form else {}
            groups = {"tlflax": (files["torch"], ours), "torch": (files["torch"], ours)}
            self._compare(name, workload, groups)

    def _weights(self, name: str, writer: str) -> dict[str, str]:
        """Weights drawn and written by a peer, once."""
        key = f"{name} {writer}"
        if key not in self._files:
            folder = Path(tempfile.mkdtemp(dir=self.scratch))
            options = {} if writer == "torch" else {"size": NETWORKS[name].quick}
            self._files[key] = self.workers[writer].ask(
                "save", network=name, folder=str(folder), **options
            )
        return self._files[key]

    def _compare(self, name: str, workload: str, groups: Mapping[str, tuple[str, dict]]) -> None:
        spec, outputs = NETWORKS[name], {}
        options: dict[str, Any] = {"network": name, "batch": _BATCH, "size": spec.quick}
        options["kind"] = "forward" if workload == "a" else "step"
        if workload != "a":
            options["train"] = "last" if workload == "c" else "all"
            options["rate"] = spec.quick_rate
        for peer, (weights, more) in groups.items():
            if peer not in self.workers:
                continue
            if peer == "torch" and weights.endswith(".npz"):
                self.workers[peer].ask("border")
            calls = 1 if workload == "a" else _STEPS
            outputs[peer] = self._values(peer, calls, options | more | {"weights": weights})
        limit = _TOLERANCE if workload == "a" else _STEP_TOLERANCE
        self._judge(workload, name, outputs, limit, moves=workload != "a")

    def _values(self, peer: str, calls: int, options: dict[str, Any]) -> np.ndarray:
        """What a peer computes; one NaN, which agrees with nothing, where it fails."""
        path = self.scratch / f"{peer}.npz"
        try:
            return self._asked(peer, calls, options, path)
        except PeerFailed as error:
            self.say(f"{peer} failed: {error}")
            return np.full(1, np.nan)

    def _asked(self, peer: str, calls: int, options: dict[str, Any], path: Path) -> np.ndarray:
        self.workers[peer].ask("prepare", **options)
        self.workers[peer].ask("values", path=str(path), calls=calls)
        self.workers[peer].ask("free")
        with np.load(path) as found:
            return np.stack([found[n] for n in found.files])

    def _judge(self, workload, name, outputs, limit, moves=False) -> None:
        """Compares every output with the first one's."""
        entry = {"workload": workload, "network": name, "peers": list(outputs), "limit": limit}
        entry["agrees"] = None
        if len(outputs) > 1:
            first, *rest = outputs
            gaps = {peer: difference(outputs[first], outputs[peer]) for peer in rest}
            entry["differences"] = gaps
            entry["agrees"] = max(gaps.values()) <= limit
            # Losses that stand still would agree whatever the gradients are.
            if moves and np.ptp(outputs[first]) < 10 * limit * np.abs(outputs[first]).max():
                entry["agrees"] = False
                entry["why"] = "the losses hardly change: nothing is compared"
        self._add(entry)

    def _add(self, entry: dict[str, Any]) -> None:
        self.results.append(entry)
        verdict = {True: "agree", False: "DIFFER", None: "not compared (one peer only)"}
        gaps = ", ".join(f"{p} {g:.1e}" for p, g in entry.get("differences", {}).items())
        why = entry.get("why") or (f"{gaps} (limit {entry['limit']:.0e})" if gaps else "")
        said = verdict[entry["agrees"]]
        self.say(
            f"({entry['workload']}) {entry['network']}: {', '.join(entry['peers'])}: {said} {why}"
        )

    def decode(self) -> None:
        """The same pixels from lossless files that need no resize: equal to the last bit."""
        size, images = 48, (12, 4, 4)
        folder = drawn_folder(Path(tempfile.mkdtemp(dir=self.scratch)), size, images)
        outputs = {}
        for peer in self.workers:
            options = {"kind": "decode", "folder": str(folder), "size": size}
            outputs[peer] = self._values(peer, 1, options | {"batch": images[0]})
        self._judge("f", "48 px", outputs, 0.0)

    def job(self, name: str, workload: str) -> None:
        """The jobs end, and agree on what was trained, for how long, and tested on how many."""
        spec, mode = NETWORKS[name], {"d": "frozen", "e": "last"}[workload]
        folder = drawn_folder(Path(tempfile.mkdtemp(dir=self.scratch)), spec.quick, _JOB_IMAGES)
        jobs = Jobs(self.pythons, name, folder, self.scratch, _JOB_EPOCHS, spec.quick)
        entry: dict[str, Any] = {"workload": workload, "network": name, "limit": 0.0}
        did = {}
        for peer in self.pythons:
            try:
                did[peer] = jobs.run(peer, mode, self.scratch / "cache")["did"]
            except PeerFailed as error:
                entry |= {"why": f"{peer} failed: {error}"}
        keys = ("trained_parameters", "test_images", "epochs")
        told = {peer: [found[k] for k in keys] for peer, found in did.items()}
        same = len({tuple(v) for v in told.values()}) == 1
        entry |= {"peers": list(self.pythons), "did": told}
        entry["agrees"] = "why" not in entry and same if len(self.pythons) > 1 else None
        if not same:
            entry.setdefault("why", f"{', '.join(keys)}: {told}")
        self._add(entry)
