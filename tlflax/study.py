"""Several runs of one config, each with some keys changed, in one directory.

    config.runs = (
        {"name": "frozen", "tune_epochs": 0},
        {"name": "tuned"},
    )

Each goes to WORKDIR/NAME. All have the same data, cut and seed unless an entry says otherwise.
"""

import contextlib
import copy
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from tlflax import config as configs
from tlflax import run as runs
from tlflax.atomic import replacing
from tlflax.comparison.build import Comparison, compare
from tlflax.comparison.speed import measure
from tlflax.errors import ConfigError, TlflaxError, suggest
from tlflax.features.caching import Caching
from tlflax.folders import STUDY
from tlflax.result import Run
from tlflax.setup import prepare

_NAME = r"[A-Za-z0-9][\w .+-]*"


def is_study(config: Any) -> bool:
    """Whether a config holds several runs."""
    return isinstance(config, ml_collections.ConfigDict | Mapping) and bool(config.get("runs"))


def study(config: Any, workdir: Path, command: Sequence[str] = ()) -> Comparison:
    """Trains every run of a config and compares them; those that are finished are opened.

    Everything that can be wrong in any of them before its data is read stops the study before
    the first one begins.

    Args:
      config: ConfigDict or mapping with the key ``runs``.
      workdir: folder of the run directories and of the comparison (compare.html ...); an
        interrupted study goes on in it.
      command: what was typed, for the reports.

    Raises:
      TlflaxError: something the user must change; the message names the run.
    """
    entries = read_runs(config)
    if (workdir / "report.json").exists() or (workdir / "checkpoints").exists():
        raise ConfigError(f"{workdir} holds a single run; use a new --workdir for several")
    for name, c in entries.items():
        if not runs.finished(workdir / name):
            with _named(name):
                Caching(c["cache"], c["cache_gb"], c["cache_dtype"])
                prepare(c)
    for name, c in entries.items():
        with _named(name):
            configs.claim(workdir / name, c)
    facts = {"runs": list(entries), "command": shlex.join(command)}
    with replacing(workdir / STUDY) as temporary:
        temporary.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    for i, (name, c) in enumerate(entries.items(), 1):
        print(f"\nrun {i} of {len(entries)}: {name}")
        with _named(name):
            runs.run(c, workdir / name, command)
    folders = [workdir / name for name in entries]
    # All together where one is missing: measured under the same load they can be compared.
    if not all("inference" in Run.open(folder).results for folder in folders):
        measure(folders)
    found = compare(folders, workdir)
    print(f"\n{found.table()}\n\n{found.words}\n\ncomparison: {workdir / 'compare.html'}")
    return found


def read_runs(config: Any) -> dict[str, dict[str, Any]]:
    """Resolved config of each run, by name.

    An entry may change the keys of `tlflax.config.DEFAULTS` and those of the config's own that
    stages refer to through ``config.get_ref``.

    Raises:
      ConfigError: a name is missing, unfit for a folder or taken; an unknown key; runs in a run.
    """
    entries = config["runs"]
    if isinstance(entries, Mapping) or not isinstance(entries, list | tuple):
        raise ConfigError(
            "runs must be a tuple of dicts such as ({'name': 'frozen', 'stages': ...},), "
            f"got {entries!r}"
        )
    found: dict[str, dict[str, Any]] = {}
    taken: dict[str, str] = {}  # folders on some disks do not tell capitals apart
    for position, entry in enumerate(entries):
        name = _name(entry, position)
        if name.lower() in taken:
            raise ConfigError(f"runs: two are called {taken[name.lower()]!r}")
        taken[name.lower()] = name
        with _named(name):
            found[name] = configs.resolve(_changed(config, position))
    return found


def _name(entry: Any, position: int) -> str:
    if not isinstance(entry, Mapping | ml_collections.ConfigDict):
        raise ConfigError(f"runs: each is a dict with a name, got {entry!r}")
    name = entry.get("name")
    if name is None:
        raise ConfigError(f"runs: number {position + 1} has no 'name' ({_keys(entry)})")
    if not isinstance(name, str) or not re.fullmatch(_NAME, name) or name != name.rstrip(" ."):
        raise ConfigError(
            "runs: a name becomes a folder: letters, digits, blanks, '.', '+', '-' and '_', with "
            f"a letter or digit first, got {name!r}"
        )
    return name


def _keys(entry: Any) -> str:
    return f"its keys: {', '.join(map(str, entry.keys()))}" if entry else "it is empty"


def _changed(config: Any, position: int) -> Any:
    """A copy of the config with one entry's changes, without ``runs``."""
    # Copied as a whole, references among keys, stages and entries stay references in the copy.
    changed = copy.deepcopy(config)
    entry = changed["runs"][position]
    known = [k for k in changed.keys() if k != "runs"]
    valid = list(dict.fromkeys([*configs.DEFAULTS, *known]))
    for key in [k for k in entry.keys() if k != "name"]:
        if key == "runs":
            raise ConfigError("runs inside a run: list them all in one tuple")
        if key not in valid:
            hint = suggest(str(key), valid) or f" (keys: {', '.join(known)})"
            raise ConfigError(f"unknown config key {key!r}{hint}")
        try:
            changed[key] = entry[key]
        except (TypeError, KeyError) as error:
            raise ConfigError(f"{key}: {str(error).strip()}") from error
    changed["runs"] = ()
    return changed


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Puts the run's name in front of the message of an error."""
    try:
        yield
    except TlflaxError as error:
        raise type(error)(f"run {name!r}: {error}") from error
