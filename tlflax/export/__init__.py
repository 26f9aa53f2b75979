"""Trained classifiers in other programs' formats, each proven by reloading it there."""

import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from tlflax.errors import ConfigError, suggest
from tlflax.output import check_out

FORMATS = ("stablehlo", "keras", "torch")


def export_run(
    run_dir: str | Path, format: str, out: str | Path | None = None, **options: Any
) -> tuple[Path, list[str]]:
    """Exports a finished run, reloads the result and compares it with the run's own answers.

    A format's module has ``DEFAULT_NAME``, ``SUFFIXES``, ``check(trained)`` (what cannot be
    exported, before any work), ``write(trained, path)`` and ``prove(trained, path)``.

    Args:
      run_dir: directory of a finished run, or its model.safetensors.
      format: one of `FORMATS`.
      out: file to write; by default in the run directory under the format's default name.
      options: of the format: ``style`` (``timm`` or ``torchvision``) for torch.

    Returns:
      The file, and what was compared with what and how far it was off, in lines.

    Raises:
      TlflaxError: no such run, format or folder; a network that the format has no form for; a
        reloaded file that does not answer as the run does. Nothing is left behind then.
    """
    exporter = _exporter(format)
    if options and format != "torch":
        raise ConfigError(f"{', '.join(options)} is for --format torch, not for {format}")
    source, path = _source(Path(run_dir)), None
    if out is not None:
        path = _destination(Path(out).expanduser(), exporter)
        if path.exists() and path.samefile(source):
            raise ConfigError(f"--out {path} is the run's own model: choose another name")
    from tlflax.export.trained import Trained

    trained = Trained(source)
    exporter.check(trained, **options)
    path = path or source.parent / exporter.DEFAULT_NAME
    try:
        # Proven first, moved after: a failed export leaves neither a file nor a damaged old one.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            made = Path(folder) / path.name
            exporter.write(trained, made, **options)
            lines = exporter.prove(trained, made, **options)
            for file in sorted(Path(folder).iterdir()):
                file.replace(path.parent / file.name)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error
    return path, lines


def _exporter(format: str) -> ModuleType:
    if format not in FORMATS:
        hint = suggest(format, FORMATS)
        raise ConfigError(f"unknown format {format!r}{hint} (one of {', '.join(FORMATS)})")
    import importlib

    return importlib.import_module(f"tlflax.export.{format}")


def _source(run_dir: Path) -> Path:
    """The run's model.safetensors."""
    if run_dir.is_file():
        return run_dir
    if not run_dir.is_dir():
        raise ConfigError(f"{run_dir} does not exist: give the directory of a finished run")
    path = run_dir / "model.safetensors"
    if path.is_file():
        return path
    if (run_dir / "config.json").is_file():
        raise ConfigError(
            f"the run in {run_dir} is not finished (it has no model.safetensors yet): the command "
            "that started it goes on with it"
        )
    raise ConfigError(f"{run_dir} holds no run: it has no model.safetensors")


def _destination(path: Path, exporter: ModuleType) -> Path:
    if not path.name.endswith(exporter.SUFFIXES):
        raise ConfigError(f"--out must end in {' or '.join(exporter.SUFFIXES)}, got {path.name}")
    return check_out(str(path))
