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
import traceback
from pathlib import Path

from tlflax.command import run_command
from tlflax.errors import ConfigError, TlflaxError, suggest


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

    path = _check_config_file(argv)
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file(
        "config", None, "Config file.", flag_values=values, sys_argv=argv
    )
    workdir = flags.DEFINE_string("workdir", None, "Run directory.", flag_values=values)
    try:
        rest = values(_joined(argv))
    except TlflaxError:
        raise
    except Exception as error:
        raise _explain(error, argv, path) from error
    if len(rest) > 1:
        raise ConfigError(f"unexpected argument {rest[1]!r}; flags begin with --")
    if not workdir.value:
        raise ConfigError("no --workdir; name a new folder for this run, e.g. --workdir runs/a")
    return config.value, Path(workdir.value).expanduser()


def _joined(argv: list[str]) -> list[str]:
    """``--config.data_splits.val 0.1`` as one argument: of a key without a type absl asks that."""
    joined: list[str] = []
    for argument in argv:
        last = joined[-1] if joined else ""
        waits = last.startswith("--config.data_splits.") and "=" not in last
        if waits and not argument.startswith("--"):
            joined[-1] = f"{last}={argument}"
        else:
            joined.append(argument)
    return joined


def _check_config_file(argv: list[str]) -> Path:
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
    return path


def _explain(error: Exception, argv: list[str], path: Path) -> ConfigError:
    """What went wrong while the config file ran or the flags were applied to it."""
    unknown = re.search(r'[Kk]ey "(\w+)" does not exist', str(error))
    # The last line of the config file on the way to the error, if it was there.
    steps = traceback.extract_tb(error.__traceback__)
    lines = [s.lineno for s in steps if Path(s.filename).resolve() == path.resolve()]
    if isinstance(error, SyntaxError) and Path(error.filename or "").resolve() == path.resolve():
        return ConfigError(f"{path}, line {error.lineno}: {error.msg}")
    if lines:
        found = f"unknown config key {unknown[1]!r}{_hint(unknown[1], error)}" if unknown else None
        what = f"{type(error).__name__}: {_first_line(error)}"
        return ConfigError(f"{path}, line {lines[-1]}: {found or what}")
    if isinstance(error, AttributeError) and "get_config" in str(error):
        return ConfigError(f"{path} has no function get_config")
    if any(a.startswith("--config.stages") for a in argv):
        return ConfigError(
            "stages cannot be changed from the command line; give the number a name of its own in "
            "the config file, as configs/finetune.py does with head_lr"
        )
    if unknown or isinstance(error, AttributeError | KeyError):
        keys = [a[9:].split("=", 1)[0] for a in argv if a.startswith("--config.")]
        # Several keys may be overridden: the wrong one is the one the message begins with.
        words = re.findall(r"\w+", str(error))
        named = (k for word in words for k in keys if word in k.split("."))
        key = next(named, next(iter(keys), "?"))
        return ConfigError(f"unknown config key {key!r}{_hint(key.split('.')[-1], error)}")
    return ConfigError(f"cannot read the flags: {_first_line(error)}")


def _hint(key: str, error: Exception) -> str:
    """Nearest keys; ml_collections names those of the config itself in its message."""
    from tlflax.config import DEFAULTS

    present = re.findall(r"'(\w+)\\*': ", str(error))
    present += re.findall(r'Did you mean "(\w+)"', str(error))
    return (
        suggest(key, [*DEFAULTS, *DEFAULTS["data_splits"], *present])
        or f" (keys: {', '.join(DEFAULTS)})"
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def main(argv: list[str]) -> None:
    """The command."""
    if any(a in ("-h", "--help", "--helpfull", "-help") for a in argv[1:]):
        print(__doc__)
        return
    config, workdir = parse(argv)
    # Imported late: `--help` and a mistyped flag answer without waiting for jax.
    from tlflax.compilation import keep_compiled
    from tlflax.run import run
    from tlflax.study import is_study, study

    keep_compiled()
    start = study if is_study(config) else run
    start(config, workdir, command=["python", "-m", "tlflax.main", *argv[1:]])


if __name__ == "__main__":
    run_command(main)
    sys.exit(0)
