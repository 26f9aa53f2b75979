"""Shows or deletes what is kept between runs: `python -m tlflax.cache [--clear]`.

Features of frozen blocks are by far the largest part; every other file there (converted weights,
downloads, compiled programs, image manifests) is counted by its folder. Everything can be deleted
at any time: it is made again.
"""

import argparse
import shutil
import time

from tlflax import folders
from tlflax.command import run_command
from tlflax.errors import ConfigError


def summary() -> str:
    """Table of the stored features, and the size of the other folders."""
    from tlflax.features.space import contents

    root = folders.cache_dir()
    lines = [f"{root} (set TLFLAX_CACHE for another place)"]
    stored = contents(root / "features")
    if stored:
        lines += ["", f"{'features of':<44}{'at':>5}  {'type':<9}{'size':>9}  last used"]
    for entry in sorted(stored, key=lambda e: -e["used"]):
        facts = entry["identity"]
        name = f"{facts.get('backbone', '?')} up to {facts.get('boundary', '?')}"
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry["used"]))
        lines.append(
            f"{name:<44}{facts.get('image_size', '?'):>5}  {facts.get('dtype', '?'):<9}"
            f"{megabytes(entry['bytes']):>9}  {day}"
        )
    lines.append("")
    for folder in sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else ():
        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        lines.append(f"{folder.name:<44}{megabytes(size):>25}")
    return "\n".join(lines)


def clear() -> str:
    """Deletes the stored features of all networks."""
    folder = folders.cache_dir() / "features"
    if not folder.is_dir():
        return f"nothing to delete: {folder} does not exist"
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise ConfigError(f"cannot delete {folder}: {error.strerror}") from error
    return f"deleted {folder} ({megabytes(size)})"


def megabytes(count: int) -> str:
    """A size for people."""
    return f"{count / 2**20:,.1f} MB"


def main(argv: list[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser("tlflax.cache", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--clear", action="store_true", help="delete the stored features")
    args = parser.parse_args(argv[1:])
    print(clear() if args.clear else summary())


if __name__ == "__main__":
    run_command(main)
