"""What is wrong with these images: `python -m tlflax.audit DATASET [--out FILE]`.

Decodes every image once and lists, with file names and the fix: files that cannot be read or have
a wrong suffix; EXIF rotation, transparency, palettes, CMYK, 16 bits, animations; the same picture
in two splits or under two labels, by decoded pixels and re-encoded, resized or mirrored; missing
and rare classes, splits too small to measure with, images smaller than the network's input.

Example:
  python -m tlflax.audit folder:pets --out audit.json

Exit code: 0 if nothing must be changed (there may be warnings and notes), 2 if something must:
unreadable or black images, the same picture in two splits, or one under two labels.
"""

import argparse
import json
import sys
from collections.abc import Iterable

from tlflax.atomic import replacing
from tlflax.command import run_command
from tlflax.errors import ConfigError, DataError
from tlflax.output import check_out, writing

# Of the files of one finding, and of the classes; the rest is in the JSON.
_SHOWN, _CLASSES = 4, 24


def text(report) -> str:
    """The report for people.

    Args:
      report: `tlflax.data.audit.Report`.
    """
    from tlflax.data.audit import SEVERITIES

    rate = report.images / max(report.seconds, 1e-9)
    lines = [
        f"{report.source}: {report.images:,} images, {len(report.class_names)} classes, "
        f"{report.seconds:.1f} s ({rate:,.0f} images/s)",
        "",
        *_table(report),
    ]
    if report.sizes:
        sides = [f"{w} x {h}" for w, h in zip(*report.sizes.values(), strict=True)]
        lines.append(f"width x height: min {sides[0]}, median {sides[1]}, max {sides[2]}")
    for split, (low, high) in report.intervals().items():
        lines.append(
            f"{split}: an accuracy of 90 % would have the 95 % interval {low:.1%}-{high:.1%}"
        )
    for severity, title in SEVERITIES.items():
        found = [f for f in report.findings if f.severity == severity]
        lines += ["", f"{title}: {len(found) or 'nothing'}"]
        for finding in found:
            fix = f" {finding.fix[:1].upper()}{finding.fix[1:]}." if finding.fix else ""
            lines.append(f"- {finding.message}.{fix}")
            lines += [f"    {file}" for file in finding.files[:_SHOWN]]
            if len(finding.files) > _SHOWN:
                lines.append(f"    ... {len(finding.files) - _SHOWN} more (--out lists all)")
    return "\n".join(lines)


def _table(report) -> list[str]:
    """Images per class and split, with the largest class over the smallest."""
    splits = report.counts
    shown = report.class_names[:_CLASSES]
    width = max(map(len, (*shown, "largest / smallest")))
    lines = [f"{'images':<{width}}" + "".join(f"{s:>9}" for s in splits)]
    for name in shown:
        lines.append(f"{name:<{width}}" + "".join(f"{c[name]:>9,}" for c in splits.values()))
    if len(report.class_names) > _CLASSES:
        lines.append(f"... {len(report.class_names) - _CLASSES} more classes (--out lists all)")
    totals = [sum(c.values()) for c in splits.values()]
    lines.append(f"{'all':<{width}}" + "".join(f"{n:>9,}" for n in totals))
    ratios = [
        max(c.values()) / min(c.values()) if min(c.values()) else float("inf")
        for c in splits.values()
    ]
    lines.append(f"{'largest / smallest':<{width}}" + "".join(f"{r:>9.1f}" for r in ratios))
    return lines


def main(argv: list[str]) -> None:
    """The command.

    Raises:
      DataError: something must be changed.
    """
    parser = argparse.ArgumentParser(
        "tlflax.audit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", help="folder:PATH (or PATH), tfds:NAME[/CONFIG], digits")
    parser.add_argument("--split", default="", help="e.g. train,test; default: all")
    parser.add_argument("--out", help="JSON file to write, with all file names")
    parser.add_argument(
        "--image_size", type=int, default=224, help="side of the network's input (default 224)"
    )
    parser.add_argument(
        "--no-look-alikes", action="store_true",
        help="only search for copies pixel for pixel (frames of a film all look alike)",
    )  # fmt: skip
    parser.add_argument("--data_dir", help="where tfds datasets are")
    args = parser.parse_args(argv[1:])
    if args.image_size < 1:
        raise ConfigError(f"--image_size must be at least 1, got {args.image_size}")
    out = check_out(args.out) if args.out else None
    from tlflax.data.audit import examine

    report = examine(
        args.dataset,
        splits=tuple(s.strip() for s in args.split.split(",") if s.strip()),
        image_size=args.image_size,
        look_alikes=not args.no_look_alikes,
        data_dir=args.data_dir,
        progress=_bar,
    )
    print(text(report))
    if out:
        with writing(out), replacing(out) as temporary:
            temporary.write_text(json.dumps(report.plain(), indent=2) + "\n", encoding="utf-8")
        print(f"\nwritten: {args.out}")
    if report.failed:
        wrong = sum(f.severity == "error" for f in report.findings)
        sys.stdout.flush()
        raise DataError(f"{wrong} thing{'s' * (wrong > 1)} must be changed: see above")


def _bar(facts: Iterable, total: int) -> Iterable:
    from tqdm import tqdm

    # None: shown on a terminal only.
    return tqdm(facts, total=total, desc="decoding", unit="images", disable=None, leave=False)


if __name__ == "__main__":
    run_command(main)
