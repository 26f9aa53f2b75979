r"""Compares tlflax with Keras 3 (on TensorFlow and on JAX) and torch, side by side in one run.

    scripts/bench_setup.sh                      once: a virtual environment for each peer
    python scripts/bench.py --data ../shared/real/datasets/cats_vs_dogs
    python scripts/bench.py --quick             equal outputs, no clock

The peers take turns (A B C D A B C D ...), medians are compared, and the best peer other than
tlflax is 1.0. Writes OUT/bench.json and OUT/bench.md after every row.

  --only a,b       workloads: f decode, a forward, c VGG16 block5 step, b full fine-tuning step,
                   d whole job on the frozen network, e whole job with the last block trained,
                   g bfloat16 steps (GPU only)
  --networks A,B   rows; of d and e, vgg16 and mobilenet_v2
  --peers A,B      tlflax, keras_tf, keras_jax, torch
  --rounds N       at most (7; whole jobs 3)
  --minutes N      budget (40): fewer rounds where they would not fit
  --data FOLDER    {train,test}/{cats,dogs}/*.jpg, for d, e and f
  --out FOLDER     of the results (runs/bench)
  --merge          keep the rows of OUT that are not measured now
  --envs FOLDER    made by bench_setup.sh (.bench)
  --here           this Python for every peer instead

Every peer does the work as its own documentation does it (see scripts/bench/peer_*.py and
job_*.py), from the same uint8 pixels in host memory, with the number of threads it takes by
itself. BatchNorm keeps its stored statistics in every peer's training steps: tlflax' default, and
what the Keras guide to fine-tuning does. The workload for GPUs has not been run yet.
"""

import argparse
import datetime
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

# Runs from anywhere, also where tlflax is not installed. Python looks here first for the folder
# bench/ (not for this file of the same name), then for tlflax.
ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path[:0] = [str(ROOT / "scripts"), str(ROOT)]

from bench import plan, table  # noqa: E402
from bench.measure import Bench  # noqa: E402
from bench.quick import Quick  # noqa: E402
from bench.workers import chosen, interpreters, start  # noqa: E402

from tlflax.command import run_command  # noqa: E402
from tlflax.errors import ConfigError  # noqa: E402


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the flags.

    Raises:
      ConfigError: unknown workload, network or peer.
    """
    parser = argparse.ArgumentParser(
        prog=argv[0], description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for flag in ("only", "networks", "peers"):
        parser.add_argument(f"--{flag}", default="", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=7, help=argparse.SUPPRESS)
    parser.add_argument("--minutes", type=float, default=40.0, help=argparse.SUPPRESS)
    default = ROOT.parent / "shared" / "real" / "datasets" / "cats_vs_dogs"
    parser.add_argument("--data", type=Path, default=default, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench", help=argparse.SUPPRESS)
    parser.add_argument("--envs", type=Path, default=ROOT / ".bench", help=argparse.SUPPRESS)
    for flag in ("merge", "here", "quick"):
        parser.add_argument(f"--{flag}", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv[1:])
    args.only = chosen(args.only, list(plan.WORKLOADS), "--only")
    args.networks = chosen(args.networks, list(plan.NETWORKS), "--networks")
    args.peers = chosen(args.peers, plan.PEERS, "--peers")
    if args.rounds < 1 or args.minutes <= 0:
        raise ConfigError("--rounds and --minutes must be above 0")
    needs_data = not args.quick and {"d", "e", "f"} & set(args.only)
    if needs_data and not (args.data / "train").is_dir():
        raise ConfigError(
            f"--data {args.data} has no train/ folder; name a folder with "
            "{train,test}/{cats,dogs}/*.jpg, or choose other workloads with --only a,b,c"
        )
    return args


def commit() -> str:
    """The checkout's revision, with + where files differ from it."""
    words = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+"]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def main(argv: list[str]) -> None:
    """The command."""
    args = parse(argv)
    pythons = interpreters(args.peers, args.envs.resolve(), args.here)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        workers = {}
        for peer, python in pythons.items():
            workers[peer] = start(peer, python, scratch)
            stack.callback(workers[peer].close)
        facts = {peer: worker.ask("describe") for peer, worker in workers.items()}
        if args.quick:
            entries = Quick(workers, pythons, scratch, print).run(args.only, args.networks)
            wrong = [e for e in entries if e["agrees"] is False]
            print(f"{len(entries) - len(wrong)} of {len(entries)} as they should be")
            sys.exit(1 if wrong else 0)
        args.out.mkdir(parents=True, exist_ok=True)
        old = table.read(args.out) if args.merge else {}
        results: dict[str, Any] = {
            "machine": table.machine(),
            "date": datetime.date.today().isoformat(),
            "commit": commit(),
            "command": " ".join(argv),
            "peers": {**old.get("peers", {}), **facts},
            "rows": old.get("rows", []),
            "notes": [],
        }
        bench = Bench(workers, pythons, facts, scratch, args.data, args.rounds)
        deadline = time.monotonic() + args.minutes * 60
        for row in bench.rows(args.only, args.networks, deadline):
            results["rows"] = table.merge(results["rows"], [row])
            results["notes"] = list(bench.notes)
            table.write(args.out, results)
        print(table.markdown(results))


if __name__ == "__main__":
    run_command(main)
