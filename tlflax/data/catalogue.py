"""Prepared tfds datasets (array_record), read by random access without TensorFlow."""

import hashlib
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tlflax.data.listing import Listing, Split
from tlflax.data.manifest import Manifest
from tlflax.errors import DataError, listing, suggest

_SPLITS = {"train": "train", "validation": "val", "val": "val", "valid": "val", "test": "test"}


def list_catalogue(
    name: str,
    data_dir: str | os.PathLike | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> tuple[Listing, Manifest]:
    """Lists a prepared dataset NAME[/CONFIG].

    Args:
        name: tfds name, with the configuration if it has several.
        data_dir: folder of prepared datasets; default $TFDS_DATA_DIR or
            ~/tensorflow_datasets.
        cache_dir: where labels and checks are kept.

    Raises:
        DataError: it is not prepared as array_record, or is no labelled image dataset.
    """
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return list_directory(_find(name, Path(chosen).expanduser()), name, cache_dir)


def list_directory(
    directory: Path, name: str, cache_dir: str | os.PathLike | None = None
) -> tuple[Listing, Manifest]:
    """Lists the prepared dataset in `directory` (the one that holds features.json).

    Labels are read once and kept in the manifest.

    Raises:
        DataError: its features are not one image and one class label.
    """
    # Imported here: half a second, and only this source needs it.
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(directory))
    image_key, label_key = _features(builder, name)
    manifest = Manifest(str(directory.resolve()), cache_dir)
    stamp = _stamp(directory)
    warnings: list[str] = []
    splits: dict[str, Split] = {}
    decoders = {image_key: tfds.decode.SkipDecoding()}
    for given, info in builder.info.splits.items():
        target = _SPLITS.get(given)
        if target is None or target in splits or not info.num_examples:
            warnings.append(f"{name}: split '{given}' is not used")
            continue
        # The stubs of tfds know neither argument.
        records = builder.as_data_source(split=given, decoders=decoders)  # pyright: ignore
        labels = _labels(records, label_key, f"{given}:{stamp}", manifest)
        split = Split(
            target,
            [f"{name}/{given}/{i:06d}" for i in range(len(records))],
            labels,
            [],
            partial(_read, records, image_key),
            np.arange(len(records), dtype=np.int64),
            [stamp] * len(records),
        )
        unlabelled = int((labels < 0).sum())
        if unlabelled:
            warnings.append(
                f"{name}: {unlabelled} images of '{given}' have no label and are unused"
            )
            split = split.subset(np.flatnonzero(labels >= 0))
        if len(split):
            splits[target] = split
    if "train" not in splits:
        raise DataError(f"tfds:{name} has no labelled train split (it has {listing(splits)})")
    names = tuple(builder.info.features[label_key].names)  # pyright: ignore
    return Listing(str(directory.resolve()), names, splits, warnings), manifest


def _find(name: str, root: Path) -> Path:
    """Returns the newest prepared version's folder."""
    how = f"prepare it once with: python scripts/prepare_data.py {name}"
    prepared = _prepared(root)
    versions = prepared.get(name, [])
    if not versions:
        configs = [p for p in prepared if p.startswith(f"{name}/")]
        if len(configs) == 1:
            versions = prepared[configs[0]]
        elif configs:
            raise DataError(f"tfds:{name} has several configurations, name one: {listing(configs)}")
        else:
            raise DataError(
                f"tfds:{name} is not prepared in {root}{suggest(name, prepared)} "
                f"{'' if name in prepared else '- '}{how}"
            )
    usable = [v for v in versions if _file_format(v) == "array_record"]
    if not usable:
        found = listing(sorted({_file_format(v) for v in versions}))
        raise DataError(
            f"tfds:{name} is prepared as {found}, which cannot be read by random access; {how}"
        )
    return max(usable, key=lambda p: [int(n) for n in re.findall(r"\d+", p.name)])


def _prepared(root: Path) -> dict[str, list[Path]]:
    """Maps 'NAME' or 'NAME/CONFIG' to its version folders."""
    found: dict[str, list[Path]] = {}
    for depth in ("*/*/features.json", "*/*/*/features.json"):
        for path in sorted(root.glob(depth)):
            version = path.parent
            if re.fullmatch(r"\d+\.\d+\.\d+", version.name):
                found.setdefault(version.parent.relative_to(root).as_posix(), []).append(version)
    return found


def _file_format(version: Path) -> str:
    try:
        info = json.loads((version / "dataset_info.json").read_text())
        return info.get("fileFormat", "tfrecord")
    except (OSError, ValueError):
        return "an unfinished download"


def _features(builder: Any, name: str) -> tuple[str, str]:
    """Returns the keys of the one image and the one class label."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    supervised = builder.info.supervised_keys or ()
    chosen = []
    for kind, what in ((tfds.features.Image, "image"), (tfds.features.ClassLabel, "class label")):
        keys = [k for k, f in features.items() if isinstance(f, kind)]
        # The dataset itself may say which of several is meant (cifar100: label, coarse_label).
        keys = [k for k in keys if k in supervised] if len(keys) > 1 else keys
        if len(keys) != 1:
            have = listing(f"{k} ({type(f).__name__})" for k, f in features.items())
            raise DataError(
                f"tfds:{name} does not have exactly one {what}: its features are {have}"
            )
        chosen.append(keys[0])
    return chosen[0], chosen[1]


def _labels(records: Any, key: str, stamp: str, manifest: Manifest) -> np.ndarray:
    """Returns int32 [N]; from the manifest if the files have not changed."""
    given = stamp.split(":", 1)[0]
    stored = manifest.labels.get(given)
    if isinstance(stored, list) and len(stored) == 2 and stored[0] == stamp:
        return np.asarray(stored[1], np.int32)
    with ThreadPoolExecutor(4) as pool:
        labels = list(pool.map(lambda i: int(records[i][key]), range(len(records))))
    manifest.labels[given] = [stamp, labels]
    manifest.dirty = True
    return np.asarray(labels, np.int32)


def _read(records: Any, key: str, row: int) -> bytes:
    return records[row][key]


def _stamp(directory: Path) -> str:
    """One string that changes when any file of the prepared dataset does."""
    stats = [(p.name, p.stat()) for p in sorted(directory.iterdir()) if p.is_file()]
    lines = "\n".join(f"{name} {s.st_size} {s.st_mtime_ns}" for name, s in stats)
    return hashlib.sha256(lines.encode()).hexdigest()[:20]
