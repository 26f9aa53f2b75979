r"""Train, evaluate, report: `python -m tlflax.main --config configs/NAME.py --workdir DIR`.

Flags:
  --config FILE[:ARG]     config file; ARG is passed to its get_config
  --config.KEY=VALUE      overrides one key of it
  --workdir DIR           run directory; run again with the same config and it resumes

Example:
  python -m tlflax.main --config configs/finetune.py --workdir runs/pets \
      --config.data=folder:pets --config.backbone=mobilenet_v2_1.0
"""

import itertools
import re
import sys
from pathlib import Path

from tlflax.command import run_command
from tlflax.errors import ConfigError, suggest


def parse(argv: list[str]) -> tuple[object, Path]:
    """Reads the flags.

    Args:
      argv: program name and arguments.

    Returns:
      The config (a ConfigDict with the overrides applied) and the run directory.

    Raises:
      ConfigError: anything wrong with them.
    """
    from absl import flags
    from ml_collections import config_flags

    _check_config_file(argv)
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file(
        "config", None, "Config file.", flag_values=values, sys_argv=argv
    )
    workdir = flags.DEFINE_string("workdir", None, "Run directory.", flag_values=values)
    try:
        rest = values(argv)
    except AttributeError as error:
        raise _unknown_key(argv, error) from error
    except (flags.Error, TypeError, ValueError, KeyError) as error:
        raise ConfigError(f"cannot read the flags: {_first_line(error)}") from error
    if len(rest) > 1:
        raise ConfigError(f"unexpected argument {rest[1]!r}; flags begin with --")
    if not workdir.value:
        raise ConfigError("no --workdir; name a new folder for this run, e.g. --workdir runs/a")
    return config.value, Path(workdir.value).expanduser()


def _check_config_file(argv: list[str]) -> None:
    """Turns the usual mistakes into one line before ml_collections sees them."""
    named = [a.split("=", 1)[1] for a in argv if a.startswith("--config=")]
    named += [b for a, b in itertools.pairwise(argv) if a == "--config"]
    if not named:
        raise ConfigError("no --config; start with --config configs/quickstart.py")
    path = Path(named[-1].rsplit(".py:", 1)[0] + ".py" if ".py:" in named[-1] else named[-1])
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path("configs")
        names = [str(p) for p in sorted(folder.glob("*.py"))]
        raise ConfigError(f"config file {path} does not exist{suggest(str(path), names)}")


def _unknown_key(argv: list[str], error: AttributeError) -> ConfigError:
    from tlflax.config import DEFAULTS

    found = re.search(r"key '?\"?([\w.]+)", str(error)) or re.search(r"'([\w.]+)'", str(error))
    keys = [a[9:].split("=", 1)[0] for a in argv if a.startswith("--config.")]
    missing = found[1] if found and any(found[1] in k.split(".") for k in keys) else None
    if missing is None and keys:
        missing = next((k for k in keys if k.split(".")[0] not in DEFAULTS), keys[0])
    if missing is None:
        return ConfigError(f"the config file is wrong: {_first_line(error)}")
    valid = re.findall(r"\"(\w+)\"", str(error)) or list(DEFAULTS)
    hint = suggest(missing, [*DEFAULTS, *valid])
    return ConfigError(f"unknown config key {missing!r}{hint} (keys: {', '.join(DEFAULTS)})")


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def main(argv: list[str]) -> None:
    """The command."""
    if any(a in ("-h", "--help", "--helpfull", "-help") for a in argv[1:]):
        print(__doc__)
        return
    config, workdir = parse(argv)
    # Imported late: `--help` and a mistyped flag answer without waiting for jax.
    from tlflax.run import run

    run(config, workdir, command=["python", "-m", "tlflax.main", *argv[1:]])


if __name__ == "__main__":
    run_command(main)
    sys.exit(0)
