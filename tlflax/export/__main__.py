"""Export a finished run: `python -m tlflax.export RUN_DIR --format stablehlo|keras|torch`.

`stablehlo` is a zip that needs only jax to run, `keras` a `.keras` file (or `.weights.h5`, by the
suffix of `--out`), `torch` a `.safetensors` that timm or torchvision loads. The file is reloaded
in the program it is for, and its answers are compared with the run's, before it is kept.
"""

import argparse
import os

from tlflax.command import run_command
from tlflax.compilation import keep_compiled
from tlflax.export import FORMATS, export_run


def main(argv: list[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser("tlflax.export", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run_dir", help="directory of a finished run")
    parser.add_argument("--format", required=True, help=f"one of {', '.join(FORMATS)}")
    parser.add_argument("--out", help="file to write; by default in the run directory")
    parser.add_argument("--style", help="whose names for torch: timm or torchvision; by default "
                        "those of the weights' official source")  # fmt: skip
    args = parser.parse_args(argv[1:])
    options = {"style": args.style} if args.style else {}
    keep_compiled()
    path, lines = export_run(args.run_dir, args.format, args.out, **options)
    for line in lines:
        print(line)
    print(f"written: {path} ({os.path.getsize(path) / 1e6:.1f} MB)")


if __name__ == "__main__":
    run_command(main)
