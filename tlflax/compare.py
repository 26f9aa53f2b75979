r"""Finished runs side by side: `python -m tlflax.compare RUN_DIR... [--out DIR] [--speed]`.

The folder of a study (config key `runs`) stands for its runs. Written into DIR: compare.html,
compare.json, compare.csv and pictures. Only what the runs recorded is read; nothing is trained or
tested again.
"""

import argparse
import sys
import types
from pathlib import Path
from typing import Any

from tlflax.command import run_command


def main(argv: list[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser("tlflax.compare", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", nargs="+", help="directories of finished runs, or of a study")
    parser.add_argument(
        "--out", help="folder to write to; default: the study's own, or else ./compare"
    )
    parser.add_argument(
        "--speed",
        action="store_true",
        help="measure inference of every network now, and keep it in the runs' report.json",
    )
    args = parser.parse_args(argv[1:])
    from tlflax.comparison.build import compare
    from tlflax.folders import STUDY

    own = len(args.runs) == 1 and (Path(args.runs[0]) / STUDY).is_file()
    out = Path(args.out or (args.runs[0] if own else "compare"))
    if args.speed:
        from tlflax.compilation import keep_compiled

        keep_compiled()
    found = compare(args.runs, out, speed=args.speed)
    print(found.table())
    print(f"\n{found.words}\n\nwritten: {out / 'compare.html'}")


class _Callable(types.ModuleType):
    """Keeps `tlflax.compare(...)` a function after this module has been imported."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from tlflax.comparison.build import compare

        return compare(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable

if __name__ == "__main__":
    run_command(main)
