"""List the backbones: `python -m tlflax.zoo [NAME] [--size N]`.

Without NAME: the table (needs no jax, answers at once). With NAME: its endpoints with shapes,
strides, parameters and the layers inside.
"""

import argparse
from pathlib import Path

from tlflax.backbones.names import group
from tlflax.backbones.spec import Spec
from tlflax.backbones.table import ZOO, get
from tlflax.command import run_command
from tlflax.convert.readers import is_path
from tlflax.errors import ConfigError


def summary() -> str:
    """The table of all networks."""
    lines = [f"{'name':<23} {'parameters':>11} {'size':>5} {'top-1':>6}  weights"]
    for s in ZOO.values():
        top1 = f"{s.top1:.1f}" if s.top1 else "-"
        count = f"{s.parameters:,}" if s.parameters else "-"
        weights = s.source.file_name if s.source else _elsewhere(s)
        lines.append(f"{s.name:<23} {count:>11} {s.size:>5} {top1:>6}  {weights}")
    return "\n".join(lines)


def certificates(spec: Spec) -> list[str]:
    """What conversions of this network on this machine were compared with, newest last."""
    from tlflax.convert.store import converted_files
    from tlflax.convert.tensors import read_facts

    lines = []
    for path in converted_files(spec):
        facts = read_facts(path)
        found = facts["certificate"]
        lines.append(f"{found['date']}, {facts['source']}: {found['statement']}")
    return lines or ["none yet: the weights have not been converted on this machine"]


def _open(name: str) -> tuple[Spec, list[str]]:
    """A network of the zoo, or a Keras model of one's own with its certificate."""
    if not is_path(name):
        return get(name), []
    from tlflax.convert.own import open_own

    spec, weights = open_own(Path(name).expanduser())
    return spec, [weights.certificate["statement"], *weights.notes]


def _origin(spec: Spec) -> str:
    if spec.form == "graph":
        return "in its file"
    return spec.source.url if spec.source else _elsewhere(spec)


def _elsewhere(spec: Spec) -> str:
    return f"in the package: {spec.packaged}" if spec.packaged else "none, for weights='none'"


def details(name: str, size: int | None) -> str:
    """Endpoints of one network."""
    from tlflax.backbones.inventory import describe

    spec, found = _open(name)
    size = spec.size if size is None else size
    if size < spec.min_size:
        raise ConfigError(
            f"--size {size} is below the smallest size of {spec.name}, {spec.min_size}"
        )
    blocks = describe(spec.chain(), size)
    names = [b.name for b in blocks]
    short: dict[str, list[str]] = {}
    for block in names:
        # The shortest group prefix that means this block alone.
        parts = block.split("_")
        prefixes = ["_".join(parts[:i]) for i in range(1, len(parts))]
        short[block] = [p for p in prefixes if group(p, names) == [block]][:1]
    for alias, block in spec.aliases.items():
        short[block].append(alias)
    width = max(map(len, names)) + 2
    lines = [
        f"{spec.name}: {sum(b.parameters + b.statistics for b in blocks):,} parameters, "
        f"weights trained at {spec.size} px, at least {spec.min_size} px",
        f"input: {spec.contract.sentence()}",
        f"weights: {_origin(spec)} ({spec.licence})",
        *(f"certificate: {line}" for line in found or certificates(spec)),
        "",
        f"{'endpoint':<{width}}{'shape at ' + str(size):<16}{'stride':>6}{'parameters':>12}  "
        f"{'also':<14}  layers inside",
    ]
    for b in blocks:
        shape = "x".join(map(str, b.shape))
        inside = ", ".join(layer for layer in b.layers if layer != b.name) or "-"
        lines.append(
            f"{b.name:<{width}}{shape:<16}{b.stride:>6}{b.parameters + b.statistics:>12,}  "
            f"{', '.join(short[b.name]) or '-':<14}  {inside}"
        )
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser("tlflax.zoo", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("name", nargs="?", help="backbone, or the path of a Keras model")
    parser.add_argument("--size", type=int, help="image side in pixels for the shapes")
    args = parser.parse_args(argv[1:])
    print(details(args.name, args.size) if args.name else summary())


if __name__ == "__main__":
    run_command(main)
