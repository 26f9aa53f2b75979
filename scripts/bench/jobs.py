"""Whole jobs: a fresh process from JPEG files to the test accuracy, start to exit."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import drawn
from bench.plan import NETWORKS
from bench.workers import SCRIPTS, PeerFailed, environment, tail
from tlflax.errors import ConfigError

_CLASSES = ("cats", "dogs")
_BATCH = 32
# A peer that has used this multiple of the fastest peer's time is not the best one: stopped.
_PATIENCE = 1.6


def _files(data: Path, split: str, name: str, count: int, skip: int = 0) -> list[Path]:
    found = sorted((data / split / name).glob("*.jpg"))[skip : skip + count]
    if len(found) < count:
        raise ConfigError(
            f"{data / split / name} has too few .jpg files: {skip + count} are needed"
        )
    return found


def make_folder(data: Path, target: Path, images: Sequence[int]) -> Path:
    """Copies training, validation (cut from the training images) and test images of two classes.

    Args:
      data: holds ``{train,test}/{cats,dogs}/*.jpg``.
      target: new folder ``{train,val,test}/CLASS``.
      images: how many of each split, even numbers.

    Raises:
      ConfigError: ``data`` has too few.
    """
    train, val, test = (n // 2 for n in images)
    for name in _CLASSES:
        parts = {
            "train": _files(data, "train", name, train),
            "val": _files(data, "train", name, val, skip=train),
            "test": _files(data, "test", name, test),
        }
        for split, files in parts.items():
            folder = target / split / name
            folder.mkdir(parents=True)
            for file in files:
                shutil.copyfile(file, folder / file.name)
    return target


def drawn_folder(target: Path, size: int, images: Sequence[int]) -> Path:
    """The same layout with drawn PNG files of exactly ``size``: nothing to resize, no loss."""
    from PIL import Image

    for split, count in zip(("train", "val", "test"), images, strict=True):
        pixels = drawn.images(count, size, seed=len(split))
        for i, image in enumerate(pixels):
            folder = target / split / _CLASSES[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{split}{i:03d}.png")
    return target


def command(
    peer: str, python: Path, network: str, folder: Path, mode: str, epochs: int, size: int,
    workdir: Path, weights: Path,
) -> list[str]:  # fmt: skip
    """Command line of a job; ``mode`` is ``frozen``, ``hidden`` (tlflax) or ``last``."""
    spec = NETWORKS[network]
    if peer != "tlflax":
        module = f"bench.job_{'keras' if peer.startswith('keras') else peer}"
        numbers = [str(n) for n in (epochs, size, _BATCH)]
        return [str(python), "-m", module, network, str(folder), mode, *numbers]
    return [
        str(python), "-m", "tlflax.main",
        f"--config={SCRIPTS / 'bench' / 'job_tlflax.py'}:{mode}", f"--workdir={workdir}",
        f"--config.data=folder:{folder}", f"--config.backbone={spec.tlflax}",
        f"--config.image_size={size}", f"--config.batch_size={_BATCH}",
        f"--config.weights={weights}",
        f"--config.job_epochs={epochs}", f"--config.job_first=from {spec.last[0]}",
    ]  # fmt: skip


def run_process(
    words: Sequence[str], variables: Mapping[str, str], log: Path, limit: float | None = None
) -> dict[str, Any]:
    """Runs a process to its end.

    Args:
      words: command.
      variables: environment.
      log: for what it prints.
      limit: seconds after which it is stopped.

    Returns:
      ``seconds``, ``peak_mb`` (of its largest process), and ``stopped`` if it was.

    Raises:
      PeerFailed: it failed.
    """
    with open(log, "wb") as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            env=dict(variables), start_new_session=True,
        )  # fmt: skip
        stopped = False
        try:
            while True:
                # wait4 and not `wait`: it tells the memory of this very process.
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    break
                if limit is not None and not stopped and time.perf_counter() - began > limit:
                    os.killpg(process.pid, signal.SIGKILL)
                    stopped = True
                time.sleep(0.02)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if not stopped and process.returncode:
        raise PeerFailed(f"exit code {process.returncode}: {tail(log)}")
    unit = 2**20 if sys.platform == "darwin" else 1024
    found: dict[str, Any] = {"seconds": seconds, "peak_mb": usage.ru_maxrss / unit}
    return found | ({"stopped": True} if stopped else {})


def facts_of(peer: str, log: Path, workdir: Path) -> dict[str, Any]:
    """What a finished job says it did."""
    if peer != "tlflax":
        lines = log.read_text(errors="replace").splitlines()
        return json.loads(next(line for line in reversed(lines) if line.startswith("{")))
    report = json.loads((workdir / "report.json").read_text())
    (stage,) = report["stages"]
    return {
        "test_accuracy": report["test"]["accuracy"], "test_images": report["test"]["n"],
        "epochs": stage["epochs"], "trained_parameters": stage["trainable_parameters"],
        "cached": stage["cached"],
    }  # fmt: skip


class Jobs:
    """Runs one network's jobs in turn on one folder of images.

    Args:
      pythons: peer -> interpreter.
      network: row of the plan.
      folder: images, see `make_folder`.
      scratch: for run directories, caches and logs.
      epochs: of training.
      size: image side in pixels.
    """

    def __init__(
        self, pythons: Mapping[str, Path], network: str, folder: Path, scratch: Path,
        epochs: int, size: int,
    ):  # fmt: skip
        self.pythons, self.network, self.folder = pythons, network, folder
        self.scratch, self.epochs, self.size = scratch, epochs, size

    def run(self, peer: str, mode: str, cache: Path, limit: float | None = None) -> dict[str, Any]:
        """One job; its facts are under ``did``.

        Raises:
          PeerFailed: it failed.
        """
        workdir = Path(tempfile.mkdtemp(prefix=f"{peer}-{mode}-", dir=self.scratch))
        log = workdir.with_suffix(".log")
        words = command(
            peer, self.pythons[peer], self.network, self.folder, mode, self.epochs, self.size,
            workdir / "run", self._weights(peer, workdir),
        )  # fmt: skip
        found = run_process(words, environment(peer, cache), log, limit)
        if "stopped" not in found:
            found["did"] = facts_of(peer, log, workdir / "run")
        shutil.rmtree(workdir)
        return found

    def _weights(self, peer: str, workdir: Path) -> Path:
        """The file that tlflax reads, written once; the peers draw theirs as they build."""
        path = self.scratch / f"{self.network}.safetensors"
        if peer == "tlflax" and not path.exists():
            words = [str(self.pythons[peer]), "-m", "bench.random_weights", self.network, str(path)]
            run_process(words, environment(peer, self.scratch / "weights"), workdir / "weights.log")
        return path

    def rounds(self, mode: str, rounds: int, seconds: float, again: bool) -> list[dict[str, Any]]:
        """Every peer in turn, tlflax with an empty cache in each round.

        Args:
          mode: ``frozen`` or ``last``.
          rounds: at most.
          seconds: budget; another round begins only if it should fit. The first always runs.
          again: whether tlflax then trains another head with the cache it has filled.

        Returns:
          The peers' entries as `rounds.run_cell` gives them; with ``again`` a second time, with
          tlflax' second run.
        """
        began = time.monotonic()
        first: dict[str, Any] = {}
        second: dict[str, Any] = {}
        for _ in range(rounds):
            best = min(
                (min(e["seconds"]) for n, e in first.items() if n != "tlflax" and e.get("seconds")),
                default=None,
            )
            with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
                for peer in self.pythons:
                    if "failed" in first.get(peer, {}) or "stopped" in first.get(peer, {}):
                        continue
                    limit = None if peer == "tlflax" or best is None else best * _PATIENCE
                    entry = self._one(first, peer, mode, Path(folder), limit)
                    if peer == "tlflax" and again and "failed" not in entry:
                        self._one(second, peer, "hidden", Path(folder), None)
                    elif peer != "tlflax" and entry.get("seconds"):
                        took = entry["seconds"][-1]
                        best = took if best is None else min(best, took)
            used = time.monotonic() - began
            if used + used / max(1, _done(first)) > seconds:
                break
        others = {n: e for n, e in first.items() if n != "tlflax"}
        return [first, second | others] if again else [first]

    def _one(self, entries, peer, mode, cache, limit) -> dict[str, Any]:
        """Runs a job and adds it to the peer's entry."""
        entry = entries.setdefault(peer, {"seconds": [], "peak_mb": 0.0})
        try:
            found = self.run(peer, mode, cache, limit)
        except PeerFailed as error:
            entries[peer] = {"failed": str(error)}
            return entries[peer]
        if "stopped" in found:
            entry |= {"stopped": found["seconds"]}
            return entry
        entry["seconds"].append(found["seconds"])
        entry["peak_mb"] = max(entry["peak_mb"], found["peak_mb"])
        entry["did"] = found["did"]
        return entry


def _done(entries: Mapping[str, Any]) -> int:
    return max((len(e.get("seconds", ())) for e in entries.values()), default=0)
