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
from tlflax.convert.download import download
from tlflax.convert.forms import form
from tlflax.convert.load import take
from tlflax.convert.readers import WeightFile, check_path, read
from tlflax.convert.tensors import is_ours, load_variables, save_variables
from tlflax.errors import ConvertError, listing
from tlflax.folders import cache_dir

if TYPE_CHECKING:
    from tlflax.backbones.chain import Chain

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
      official: whether they are the network's own: the file of its name, or the packaged one.
    """

    variables: dict[str, Any]
    source: str
    sha256: str
    certificate: dict[str, Any]
    notes: tuple[str, ...] = ()
    official: bool = False


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes; of a folder, that of its sorted listing of names and hashes."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        lines = [f"{sha256(p)}  {p.relative_to(path).as_posix()}\n" for p in files]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
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
        if path.exists():
            return path
    return None


def convert_file(spec: Spec, chain: "Chain", path: Path) -> Weights:
    """Reads and converts a weight file for ``spec``.

    Raises:
      ConvertError: unreadable, of an unknown kind, or not these weights.
    """
    from tlflax.backbones.inventory import abstract_variables

    check_path(path)
    target = abstract_variables(chain, max(spec.min_size, 64))
    if path.suffix == ".safetensors" and is_ours(path):
        return _converted_before(spec, target, path)
    return convert_arrays(spec, target, read(path), path)


def convert_arrays(spec: Spec, target: Mapping, file: WeightFile, path: Path) -> Weights:
    """Converts what a reader found at ``path``.

    Raises:
      ConvertError: it does not fit the network.
    """
    if file.form != spec.form:
        raise ConvertError(
            f"{path.name} does not fit the network: it has {file.form} weights, {spec.name} "
            f"needs {spec.form} ones"
        )
    variables, dropped = form(spec.form).convert(file.arrays, target, spec, path.name)
    notes = ()
    if dropped:
        notes = (f"{len(dropped)} arrays of the source's own classifier were left out",)
    certificate = layout_certificate(variables, len(file.arrays), dropped)
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
    if spec.form == "graph":
        # A user's own network: the file must rebuild it.
        facts |= {"graph": spec.options["graph"], "contract": dataclasses.asdict(spec.contract)}
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
        return dataclasses.replace(convert_file(spec, chain, _packaged(spec)), official=True)
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
    return dataclasses.replace(found, source=source, notes=found.notes + other, official=True)


def _other_bytes(source: Source, path: Path) -> tuple[str, ...]:
    """A note where a file found by its name is not the published one, byte by byte."""
    if not source.hash:
        return ()
    kind, published = source.hash.split(":")
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, kind.removesuffix("-prefix")).hexdigest()
    # torch.hub publishes the first eight digits, in the file's name.
    if found == published or (kind.endswith("-prefix") and found.startswith(published)):
        return ()
    return (f"{path.name} fits, but its {kind} is {found}, not the published {published}",)


def converted_files(spec: Spec) -> list[Path]:
    """Converted weights of a network, the packaged ones or those in the cache, oldest first."""
    if spec.packaged:
        return [_packaged(spec)]
    found = (cache_dir() / "weights").glob(f"{spec.name}-*-c{_CONVERSION}.safetensors")
    return sorted(found, key=lambda p: p.stat().st_mtime)


def _packaged(spec: Spec) -> Path:
    assert spec.packaged is not None
    return Path(__file__).parent.parent / "weights" / spec.packaged


def _through_cache(spec: Spec, chain: "Chain", path: Path) -> Weights:
    if not path.exists() or (path.suffix == ".safetensors" and is_ours(path)):
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
