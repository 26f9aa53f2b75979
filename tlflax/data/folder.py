"""Folders of images: PATH/{train,val,test}/CLASS/* or PATH/CLASS/*, read where they are."""

import os
from pathlib import Path

import numpy as np

from tlflax.data.listing import Listing, Split
from tlflax.errors import DataError, listing, suggest

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
# Folder names people use for a split, lower case.
_ALIASES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


def hidden(name: str) -> bool:
    """Whether a file or folder is left out: a Mac puts ``__MACOSX`` into its archives."""
    return name.startswith((".", "__MACOSX"))


def list_folder(path: str) -> Listing:
    """Lists an image folder without reading any image.

    Class names are the sorted folder names of the training split. Hidden files are ignored;
    other files that are no images, and folders inside class folders, are counted in a warning.

    Raises:
        DataError: the folder is missing, holds no images or fewer than two classes, a class
            is empty, or val/test hold a class that train lacks.
    """
    root = Path(path).expanduser().resolve()
    if not root.is_dir():
        siblings = [p.name for p in root.parent.iterdir()] if root.parent.is_dir() else []
        kind = "is a file, not a folder" if root.exists() else "does not exist"
        raise DataError(f"folder:{path}: {root} {kind}{suggest(root.name, siblings)}")
    warnings: list[str] = []
    ignored: list[str] = []
    given = _split_folders(root, warnings)
    class_names = tuple(sorted(p.name for p in _folders(given["train"])))
    splits = {
        name: _list_split(root, given[name], name, class_names, warnings, ignored)
        for name in ("train", "val", "test")
        if name in given
    }
    if not sum(len(s) for s in splits.values()):
        raise DataError(f"{root} holds no images ({', '.join(SUFFIXES)}) in class folders")
    counts = np.bincount(splits["train"].labels, minlength=len(class_names))
    empty = [c for c, n in zip(class_names, counts, strict=True) if not n]
    if empty:
        raise DataError(
            f"{given['train']}: no images in class {listing(empty)}: add some or remove the folder"
        )
    if len(class_names) == 1:
        raise DataError(
            f"{given['train']}: only one class folder ({class_names[0]}): a classifier needs at "
            "least two (PATH/CLASS/* or PATH/train/CLASS/*)"
        )
    for name in [n for n in ("val", "test") if n in splits]:
        counts = np.bincount(splits[name].labels, minlength=len(class_names))
        missing = [c for c, n in zip(class_names, counts, strict=True) if not n]
        if not len(splits[name]):
            warnings.append(f"{given[name].name}/ holds no images and is ignored")
            del splits[name]
        elif missing:
            warnings.append(f"{given[name].name}/ has no images of {listing(missing)}")
    return Listing(str(root), class_names, splits, warnings, ignored)


def _split_folders(root: Path, warnings: list[str]) -> dict[str, Path]:
    """Maps split names to folders; a folder without splits is one big 'train'."""
    folders = _folders(root)
    found: dict[str, Path] = {}
    flat: list[Path] = []
    for folder in folders:
        name = _ALIASES.get(folder.name.lower())
        if name is None:
            continue
        if not _folders(folder):
            flat.append(folder)
        elif name in found:
            raise DataError(
                f"{root} has both {found[name].name}/ and {folder.name}/: remove or rename one"
            )
        else:
            found[name] = folder
    loose = sum(p.suffix.lower() in SUFFIXES for p in root.iterdir() if p.is_file())
    if loose:
        warnings.append(f"{loose} images lie outside the class folders of {root} and are ignored")
    if not found:
        if not folders:
            raise DataError(
                f"{root} has no class folders: expected PATH/CLASS/* or PATH/train/CLASS/*"
            )
        return {"train": root}
    if "train" not in found:
        names = listing(p.name for p in found.values())
        raise DataError(f"{root} has {names} but no train/ folder with class folders in it")
    for folder in flat:
        warnings.append(f"{folder.name}/ has no class folders (no labels) and is ignored")
    other = [p.name for p in folders if p not in found.values() and p not in flat]
    if other:
        warnings.append(f"folders beside the splits are ignored: {listing(other)}")
    return found


def _list_split(
    root: Path,
    folder: Path,
    name: str,
    class_names: tuple[str, ...],
    warnings: list[str],
    every_ignored: list[str],
) -> Split:
    index = {c: i for i, c in enumerate(class_names)}
    paths: list[str] = []
    files: list[str] = []
    labels: list[int] = []
    stamps: list[str] = []
    ignored: list[str] = []
    for class_folder in _folders(folder):
        if class_folder.name not in index:
            if not any(p.suffix.lower() in SUFFIXES for p in class_folder.iterdir()):
                continue
            raise DataError(
                f"{class_folder}: class '{class_folder.name}' is not in train/ (it has "
                f"{listing(class_names)}){suggest(class_folder.name, class_names)}"
            )
        above = f"{class_folder.relative_to(root).as_posix()}/"
        for entry in sorted(os.scandir(class_folder), key=lambda e: e.name):
            if entry.name.startswith("."):
                continue
            # Plain strings: a Path each would be most of the time for 50,000 images.
            relative = f"{above}{entry.name}"
            suffix = os.path.splitext(entry.name)[1].lower()
            if not entry.is_file() or suffix not in SUFFIXES:
                ignored.append(relative)
                continue
            stat = entry.stat()
            paths.append(entry.path)
            files.append(relative)
            labels.append(index[class_folder.name])
            stamps.append(f"{stat.st_size}:{stat.st_mtime_ns}")
    if ignored:
        warnings.append(
            f"{folder.name}: {len(ignored)} files or folders that are no images are ignored "
            f"(e.g. {ignored[0]})"
        )
        every_ignored += ignored

    def reader(row: int) -> bytes:
        try:
            return Path(paths[row]).read_bytes()
        except OSError as error:
            raise DataError(f"{files[row]}: cannot be read ({error.strerror})") from error

    rows = np.arange(len(files), dtype=np.int64)
    return Split(name, files, np.asarray(labels, np.int32), [], reader, rows, stamps)


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and not hidden(p.name))
