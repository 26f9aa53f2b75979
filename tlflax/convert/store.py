"""Where weights come from: the package, a local file, `weights_dir`, or the official URL.

A foreign file is converted once; the result is kept as safetensors in the cache folder under
the SHA-256 of its source, so a changed file is never mistaken for the old one.
"""

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlflax import tree
from tlflax.backbones.spec import Source, Spec
from tlflax.convert.certificate import layout_certificate
from tlflax.convert.keras_h5 import read_keras_h5
from tlflax.convert.load import convert_keras, take
from tlflax.convert.tensors import load_variables, save_variables
from tlflax.errors import ConvertError, listing, suggest
from tlflax.folders import cache_dir

if TYPE_CHECKING:
    from tlflax.backbones.chain import Chain

READABLE = (".h5", ".hdf5", ".safetensors")

# Raised whenever conversion itself changes, so that old cache entries are not used.
_CONVERSION = 1


@dataclasses.dataclass(frozen=True)
class Weights:
    """Converted weights of a whole chain and where they come from.

    Attributes:
      variables: ``{"params": ..., "batch_stats": ...}`` without the ``backbone`` level.
      source: official URL, or the file's name.
      sha256: of the source file.
      certificate: what was compared with what (see `tlflax.convert.certificate`).
      notes: things left out, for the report's warnings.
    """

    variables: dict[str, Any]
    source: str
    sha256: str
    certificate: dict[str, Any]
    notes: tuple[str, ...] = ()


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _folders(weights_dir: str | None) -> list[Path]:
    given = [weights_dir, os.environ.get("TLFLAX_WEIGHTS")]
    # Keras' own download folder: whoever used keras.applications has the files already.
    keras = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "models"
    return [Path(f).expanduser() for f in given if f] + [cache_dir() / "downloads", keras]


def find_official(spec: Spec, weights_dir: str | None) -> Path | None:
    """Looks for the official file by name in `weights_dir` and the usual folders.

    Raises:
      ConvertError: `weights_dir` was given and is no folder.
    """
    assert spec.source is not None
    if weights_dir and not Path(weights_dir).expanduser().is_dir():
        raise ConvertError(f"weights_dir {weights_dir} is not a folder")
    for folder in _folders(weights_dir):
        path = folder / spec.source.file_name
        if path.is_file():
            return path
    return None


def download(source: Source) -> Path:
    """Downloads an official file with progress bar, hash check and atomic rename (pooch).

    Raises:
      ConvertError: no connection or another hash.
    """
    import pooch

    # pooch's own annotation of a downloader names the arguments of a processor.
    downloader: Any = pooch.HTTPDownloader(progressbar=True, timeout=30)
    folder = cache_dir() / "downloads"
    try:
        path = pooch.retrieve(
            source.url,
            known_hash=source.hash,
            fname=source.file_name,
            path=folder,
            downloader=downloader,
        )
    except Exception as error:  # requests, urllib3 and pooch have no common base class
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise ConvertError(
            f"could not download {source.url} ({reason}). Fetch {source.file_name} by hand and "
            f"put it in a folder named with --config.weights_dir=FOLDER"
        ) from error
    return Path(path)


def convert_file(spec: Spec, chain: "Chain", path: Path) -> Weights:
    """Reads and converts a weight file for ``spec``.

    Raises:
      ConvertError: unreadable, of an unknown kind, or not these weights.
    """
    from tlflax.backbones.inventory import abstract_variables

    if path.is_dir():
        raise ConvertError(f"{path} is a folder; name a weight file ({', '.join(READABLE)})")
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*") if p.suffix in READABLE)
        hint = f"; in that folder: {listing(near, 4)}" if near else ""
        raise ConvertError(f"weight file {path} does not exist{suggest(path.name, near) or hint}")
    if path.suffix not in READABLE:
        raise ConvertError(f"cannot read {path}: readable formats are {', '.join(READABLE)}")
    size = max(spec.min_size, 64)
    if path.suffix == ".safetensors":
        return _converted_before(spec, abstract_variables(chain, size), path)
    arrays = read_keras_h5(path)
    target = abstract_variables(chain, size)
    variables, dropped = convert_keras(arrays, target, spec.top_layers, f"{path.name}")
    notes = ()
    if dropped:
        notes = (f"{len(dropped)} arrays of the source's own classifier were left out",)
    certificate = layout_certificate(variables, len(arrays), dropped)
    return Weights(variables, path.name, sha256(path), certificate, notes)


def _converted_before(spec: Spec, target: Mapping, path: Path) -> Weights:
    variables, facts = load_variables(path)
    if "architecture" in facts:
        raise ConvertError(
            f"{path} is a trained classifier on {facts.get('backbone')}, not weights of a whole "
            "backbone; `python -m tlflax.predict` uses it"
        )
    if facts.get("backbone") != spec.name:
        raise ConvertError(f"{path} holds {facts.get('backbone')}, not {spec.name}")
    extra = sorted(set(tree.flatten(variables)) - set(tree.flatten(target)))
    lacking = [f for f in ("source", "sha256", "certificate", "notes") if f not in facts]
    if extra or lacking:
        raise ConvertError(
            f"{path} is not as `python -m tlflax.convert` writes it (without {listing(lacking)}; "
            f"unknown {listing(extra, 4)}); convert the original file again"
        )
    return Weights(
        take(variables, target, path.name),
        facts["source"],
        facts["sha256"],
        facts["certificate"],
        tuple(facts["notes"]),
    )


def save_weights(path: Path, spec: Spec, weights: Weights) -> None:
    """Writes converted weights with their certificate as safetensors."""
    facts = {
        "backbone": spec.name,
        "source": weights.source,
        "sha256": weights.sha256,
        "certificate": weights.certificate,
        "notes": list(weights.notes),
        "licence": spec.licence,
    }
    save_variables(path, weights.variables, facts)


def load_weights(
    spec: Spec, chain: "Chain", weights: str, weights_dir: str | None = None
) -> Weights:
    """Finds, converts once and returns the weights of a zoo network.

    Args:
      spec: the network.
      chain: its chain, uncut.
      weights: ``official``, or the path of a readable file.
      weights_dir: folder searched for the official file before downloading.

    Raises:
      ConvertError: not found, not downloadable, or they do not fit.
    """
    if weights != "official":
        return _through_cache(spec, chain, Path(weights).expanduser())
    if spec.packaged:
        path = Path(__file__).parent.parent / "weights" / spec.packaged
        return convert_file(spec, chain, path)
    if spec.source is None:
        raise ConvertError(f"{spec.name} has no official weights; give a path or weights='none'")
    local = find_official(spec, weights_dir)
    path = local or download(spec.source)
    try:
        found = _through_cache(spec, chain, path)
    except ConvertError as error:
        if path.parent != cache_dir() / "downloads":
            raise
        # Our own download, e.g. a login page served in place of the file: not to be found again.
        path.unlink(missing_ok=True)
        raise ConvertError(f"{error} (removed; the next run downloads it again)") from error
    other = _other_bytes(spec.source, path)
    source = spec.source.url
    if local and (other or not spec.source.hash):
        # A name alone does not make it the published file.
        source = f"{path.name}, a local file of the official name ({source})"
    return dataclasses.replace(found, source=source, notes=found.notes + other)


def _other_bytes(source: Source, path: Path) -> tuple[str, ...]:
    """A note where a file found by its name is not the published one, byte by byte."""
    if not source.hash:
        return ()
    kind, published = source.hash.split(":")
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, kind).hexdigest()
    if found == published:
        return ()
    return (f"{path.name} fits, but its {kind} is {found}, not the published {published}",)


def _through_cache(spec: Spec, chain: "Chain", path: Path) -> Weights:
    if path.suffix == ".safetensors" or not path.is_file():
        return convert_file(spec, chain, path)
    key = f"{spec.name}-{sha256(path)[:16]}-c{_CONVERSION}.safetensors"
    cached = cache_dir() / "weights" / key
    if cached.is_file():
        try:
            return convert_file(spec, chain, cached)
        except ConvertError:
            # Damaged cache entry: it can always be made again from the source.
            cached.unlink(missing_ok=True)
    weights = convert_file(spec, chain, path)
    try:
        save_weights(cached, spec, weights)
    except OSError as error:
        # A read-only or full home folder costs time at the next run, nothing else.
        note = f"converted weights could not be kept in {cached.parent}: {error.strerror}"
        return dataclasses.replace(weights, notes=(*weights.notes, note))
    return weights
