"""Convert weights: `python -m tlflax.convert SOURCE DEST.safetensors [--backbone NAME]`.

SOURCE is a file of the zoo's weights, or a Keras model of your own, which brings its network.

Prints the certificate and embeds it in the file. `--reference FILE.npz` compares outputs with
stored ones (array `x`: uint8 RGB images; others: outputs or their means by layer name),
`--verify` with the live network of the source framework.
"""

import argparse
import dataclasses
from pathlib import Path

from tlflax.backbones.spec import Spec
from tlflax.backbones.table import ZOO, get
from tlflax.command import run_command
from tlflax.compilation import keep_compiled
from tlflax.convert.forms import form
from tlflax.convert.readers import WeightFile, check_path, read
from tlflax.convert.store import Weights, convert_arrays, convert_file, save_weights
from tlflax.convert.tensors import is_ours, read_facts
from tlflax.errors import ConvertError, listing


def recognise(path: Path, preprocessing: str = "auto") -> tuple[Spec, Weights]:
    """Finds the one network that a weight file fits; a Keras model may bring its own.

    Raises:
      ConvertError: none fits (with the nearest reason), or more than one.
    """
    from tlflax.convert.own import has_network, open_own

    check_path(path)
    if path.suffix == ".safetensors" and is_ours(path):
        facts = read_facts(path)
        if "graph" in facts:
            return open_own(path, preprocessing)
        spec = get(str(facts.get("backbone")))
        return spec, convert_file(spec, spec.chain(), path)
    brings_network = has_network(path)
    try:
        file = read(path)
        fitting, reasons = _fitting(file, path)
    except ConvertError:
        if not brings_network:
            raise
        # Whatever it is, it is not one of the zoo's weight files.
        fitting, reasons = [], {}
    if len(fitting) == 1:
        return fitting[0]
    if brings_network:
        return open_own(path, preprocessing)
    names = listing(s.name for s, _ in fitting)
    if fitting:
        raise ConvertError(f"{path.name} fits {names}: say which with --backbone NAME")
    nearest = min(reasons, key=lambda n: len(reasons[n]))
    raise ConvertError(f"{path.name} fits no network of the zoo; nearest {nearest}: "
                       f"{reasons[nearest]}")  # fmt: skip


def _fitting(file: WeightFile, path: Path) -> tuple[list[tuple[Spec, Weights]], dict[str, str]]:
    """Networks of the zoo that the file fits, and why the nearest others do not."""
    from tlflax.backbones.inventory import abstract_variables

    every = [s for s in ZOO.values() if s.form == file.form and s.parameters]
    # Tracing all networks takes long; the number of parameters nearly always tells.
    sizes = {s.name: abs(_parameters(file, s) - (s.parameters or 0)) for s in every}
    likely = [s for s in every if sizes[s.name] == 0]
    fitting, reasons = [], {}
    for spec in likely or sorted(every, key=lambda s: sizes[s.name])[:1]:
        try:
            target = abstract_variables(spec.chain(), max(spec.min_size, 64))
            fitting.append((spec, convert_arrays(spec, target, file, path)))
        except ConvertError as error:
            if "does not fit" not in str(error):
                raise
            reasons[spec.name] = str(error)
    return fitting, reasons


def _parameters(file: WeightFile, spec: Spec) -> int:
    """How many numbers of the file belong to ``spec``, if the file is of that network."""
    counted = form(spec.form).counted
    return sum(a.size for name, a in file.arrays.items() if counted(name, spec))


def report(spec: Spec, weights: Weights) -> str:
    """The certificate as text."""
    c = weights.certificate
    lines = [
        f"{spec.name}: {c['parameters']:,} parameters from {weights.source}",
        f"sha256 {weights.sha256}",
        f"certificate ({c['method']}): {c['statement']}",
    ]
    lines += [f"note: {n}" for n in weights.notes]
    if c["endpoints"]:
        width = max(map(len, c["endpoints"]))
        lines.append(f"{'endpoint':<{width}}  max abs   max rel")
        for name, e in c["endpoints"].items():
            lines.append(f"{name:<{width}}  {e['max_abs']:.2e}  {e['max_rel']:.2e}")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser("tlflax.convert", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("source", help="weight file, Keras model or SavedModel folder")
    parser.add_argument("dest", help="file to write, ending in .safetensors")
    parser.add_argument("--backbone", help="zoo name; recognised if only one fits")
    parser.add_argument("--preprocessing", default="auto", help="of a Keras model of your own")
    parser.add_argument("--reference", help=".npz with stored outputs to compare with")
    parser.add_argument("--verify", action="store_true", help="compare with the source framework")
    args = parser.parse_args(argv[1:])
    source, dest = Path(args.source).expanduser(), Path(args.dest).expanduser()
    if dest.suffix != ".safetensors":
        raise ConvertError(f"the destination must end in .safetensors, got {dest.name}")
    keep_compiled()
    if args.backbone:
        spec = get(args.backbone)
        weights = convert_file(spec, spec.chain(), source)
    else:
        spec, weights = recognise(source, args.preprocessing)
    from tlflax.convert import certificate

    chain, found = spec.chain(), weights.certificate
    if args.reference:
        reference = Path(args.reference)
        found = certificate.against_reference(chain, weights.variables, found, reference)
    if args.verify:
        found = certificate.against_framework(spec, chain, weights.variables, found, source)
    weights = dataclasses.replace(weights, certificate=found)
    try:
        save_weights(dest, spec, weights)
    except OSError as error:
        raise ConvertError(f"cannot write {dest}: {error.strerror}") from error
    print(report(spec, weights))
    print(f"written: {dest}")


if __name__ == "__main__":
    run_command(main)
