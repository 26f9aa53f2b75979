"""Finding the peers' environments, starting their processes, talking to them."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.plan import PACKAGES, PEERS
from tlflax.errors import ConfigError, suggest

SCRIPTS = Path(__file__).resolve().parents[1]
ROOT = SCRIPTS.parent
# The last of a process' own words that an error shows.
_TAIL = 1500


class PeerFailed(Exception):
    """A peer's process could not do what it was asked to; the message says what it said."""


def chosen(text: str, valid: Sequence[str], flag: str) -> list[str]:
    """Names of a comma-separated list, in the order of ``valid``; all for ``""``.

    Raises:
      ConfigError: an unknown name.
    """
    names = [n.strip() for n in text.split(",") if n.strip()]
    for name in names:
        if name not in valid:
            hint = suggest(name, valid)
            raise ConfigError(f"{flag}: unknown {name!r}{hint} (of {', '.join(valid)})")
    return [v for v in valid if v in names] if names else list(valid)


def interpreters(peers: Sequence[str], envs: Path, here: bool = False) -> dict[str, Path]:
    """Python of each peer.

    Args:
      peers: names.
      envs: folder made by bench_setup.sh.
      here: take this interpreter for every peer instead.

    Raises:
      ConfigError: an environment, or with ``here`` a package, is missing.
    """
    if here:
        for peer in peers:
            lacking = [m for m in PACKAGES[peer] if importlib.util.find_spec(m) is None]
            if lacking:
                raise ConfigError(
                    f"--here: this Python has no {', '.join(lacking)}, which {peer} needs; "
                    "leave --here out, or name other --peers"
                )
        return {peer: Path(sys.executable) for peer in peers}
    found = {peer: envs / peer / "bin" / "python" for peer in peers}
    missing = [peer for peer, python in found.items() if not python.exists()]
    if missing:
        rest = [p for p in PEERS if p in peers and p not in missing]
        other = f", or leave it out: --peers {','.join(rest)}" if rest else ""
        raise ConfigError(
            f"no environment for {', '.join(missing)} in {envs}; "
            f"run scripts/bench_setup.sh {envs}{other}"
        )
    return found


def environment(peer: str, cache: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Environment variables of a peer's processes: nothing of the user's caches."""
    # Only tlflax' may see the checkout: another's modules could be found there first.
    paths = [str(SCRIPTS)] + ([str(ROOT)] if peer == "tlflax" else [])
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    variables |= {"TLFLAX_CACHE": str(cache / "tlflax"), "KERAS_HOME": str(cache / "keras")}
    variables |= {"TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONUNBUFFERED": "1"}
    if peer.startswith("keras_"):
        variables["KERAS_BACKEND"] = {"tf": "tensorflow", "jax": "jax"}[peer.split("_")[1]]
    return variables | dict(extra or {})


class Remote:
    """A worker process.

    Args:
      peer: name.
      command: what starts it.
      variables: its environment.
      log: file for what it prints.
    """

    def __init__(self, peer: str, command: Sequence[str], variables: Mapping[str, str], log: Path):
        self.peer, self.log = peer, log
        self._output = open(log, "ab")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._output,
            env=dict(variables), text=True,
        )  # fmt: skip

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Sends a command and waits for the answer.

        Raises:
          PeerFailed: it answers with an error, or not at all.
        """
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise PeerFailed(f"its process ended ({process.wait()}): {tail(self.log)}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerFailed(answer["error"])
        return answer

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._output.close()


def start(peer: str, python: Path, folder: Path) -> Remote:
    """Starts a peer's worker; what it prints goes to ``folder/PEER.log``."""
    command = [str(python), "-m", "bench.worker", peer]
    return Remote(peer, command, environment(peer, folder / "cache"), folder / f"{peer}.log")


def tail(log: Path) -> str:
    """The end of a log on one line."""
    text = log.read_bytes()[-_TAIL:].decode(errors="replace") if log.exists() else ""
    return " ".join(text.split())[-400:]
