"""From a source string to three checked splits: the one entry point for data."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tlflax.data import catalogue, copies, digits, folder
from tlflax.data import splits as cutting
from tlflax.data.listing import Listing, Split
from tlflax.data.manifest import Manifest, check
from tlflax.errors import ConfigError, DataError, listing, suggest

__all__ = ["Dataset", "Split", "load_dataset"]

_SCHEMES = ("folder:PATH", "tfds:NAME[/CONFIG]", "digits")
_DEFAULT_SPLITS = {"val": 0.2, "test": 0.2}
# The test cut does not follow the run's seed: several seeds are tested on the same images.
_TEST_SEED = 0
# How a validation split came to be that is none.
_TEST_AS_VAL = "the test images"
# Below this, one image is worth more than a percent of accuracy.
_SMALL_TEST = 100


@dataclass
class Dataset:
    """Training, validation and test images of one source.

    Attributes:
        source: the source string.
        class_names: names in label order.
        train: training images.
        val: validation images: choose by them as often as you like.
        test: test images: read once, at the end.
        warnings: what a user should know, one line each.
        skipped: images left out, dicts with 'file' and 'reason'.
        made: how each split came to be.
        leaked: share of the test images that are validation images too.
    """

    source: str
    class_names: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    warnings: list[str] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    made: dict[str, str] = field(default_factory=dict)
    leaked: float = 0.0

    @property
    def chosen_on_test(self) -> bool:
        """Whether so many test images are validation images that their accuracy is no estimate."""
        return self.leaked > copies.MEANINGLESS

    @property
    def fingerprint(self) -> str:
        """SHA-256 over class names and every (split, label, content hash): names no files."""
        h = hashlib.sha256("/".join(self.class_names).encode())
        for split in (self.train, self.val, self.test):
            lines = zip(split.labels.tolist(), split.hashes, strict=True)
            h.update("".join(f"\n{split.name} {y} {c}" for y, c in sorted(lines)).encode())
        return h.hexdigest()

    def summary(self) -> dict[str, Any]:
        """Returns what a report says about the data; JSON-able."""
        counts = {}
        for split in (self.train, self.val, self.test):
            per_class = np.bincount(split.labels, minlength=len(self.class_names)).tolist()
            counts[split.name] = dict(zip(self.class_names, per_class, strict=True))
        return {
            "source": self.source,
            "class_names": list(self.class_names),
            "counts": counts,
            "splits": "; ".join(f"{s}: {self.made[s]}" for s in counts if s in self.made),
            "chosen_on_test": self.chosen_on_test,
            "leaked": self.leaked,
            "skipped": list(self.skipped),
            "fingerprint": self.fingerprint,
        }


def load_dataset(
    source: str,
    *,
    classes: Sequence[str] = (),
    per_class: int = 0,
    splits: Mapping[str, float | int | str] | None = None,
    seed: int = 0,
    on_bad_image: str = "error",
    data_dir: str | os.PathLike | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> Dataset:
    """Lists, checks and splits the images of a source. No image is copied.

    Args:
        source: 'folder:PATH', 'tfds:NAME[/CONFIG]' or 'digits'.
        classes: class names to keep; empty keeps all.
        per_class: training images per class; 0 keeps all.
        splits: what to cut from the training images where the source has no such split: a
            fraction of them or a number of images. Default: a fifth each for val and test.
            ``test="val"`` makes the source's own validation images the test images, where it
            has no test split (Food-101 in tfds), and is a fifth where it has neither.
            ``val="test"`` takes the test images for validation, as many tutorials do, with a
            warning: a result chosen on its test images is no estimate. Where the source has
            validation images only, they are both; where it has both, its own validation images
            are left out.
        seed: decides which images become validation and, with `per_class`, training images.
        on_bad_image: 'error', or 'skip' to leave out (and record) what cannot be decoded.
        data_dir: where catalogue datasets lie; default $TFDS_DATA_DIR or
            ~/tensorflow_datasets.
        cache_dir: where the manifest and digits are kept; default $TLFLAX_CACHE or
            ~/.cache/tlflax.

    Raises:
        ConfigError: an argument is wrong.
        DataError: the images cannot be used as they are.
    """
    amounts = _amounts(splits)
    if isinstance(per_class, bool) or not isinstance(per_class, int) or per_class < 0:
        raise ConfigError(f"per_class must be a whole number >= 0, not {per_class!r}")
    if isinstance(classes, str):
        raise ConfigError(f"classes must be a tuple of names, not the string '{classes}'")
    offered, manifest = open_source(source, data_dir, cache_dir)
    offered = offered.restrict(classes)
    # First of all: how bad a copy is depends on which split is the test.
    warnings = list(offered.warnings)
    given, made = _renamed(offered.splits, amounts, warnings)
    try:
        given, skipped = check(given, manifest, on_bad_image)
        copies.mark(given, manifest)
    finally:
        unsaved = manifest.save()
    warnings += [unsaved] if unsaved else []
    if skipped:
        warnings.append(
            f"{len(skipped)} images were left out (on_bad_image=skip), e.g. "
            f"{skipped[0]['file']}: {skipped[0]['reason']}"
        )
    warnings += copies.check_copies(given)
    parts = _cut(given, made, amounts, seed, offered.class_names, warnings)
    if per_class:
        parts["train"] = _limit(parts["train"], per_class, seed, offered.class_names, warnings)
        made["train"] += f"; {per_class} per class (by content hash, seed {seed})"
    if amounts["val"] == "test":
        warnings.append(
            "the test images are the validation images too (data_splits: val='test'): they choose "
            "the checkpoint and when to stop, so the test accuracy is no estimate for new images; "
            "leave val='test' out to keep the two apart"
        )
    if len(parts["test"]) < _SMALL_TEST:
        warnings.append(
            f"the test split has only {len(parts['test'])} images: its accuracy is uncertain by "
            "several percent (see the interval)"
        )
    both = cutting.shared(parts["val"].looks, parts["test"].looks)
    return Dataset(
        source, offered.class_names, parts["train"], parts["val"], parts["test"],
        warnings, skipped, made, len(both) / max(1, len(parts["test"])),
    )  # fmt: skip


def open_source(
    source: str,
    data_dir: str | os.PathLike | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> tuple[Listing, Manifest]:
    """Lists the images of a source, unchecked and uncut; arguments as in `load_dataset`.

    Raises:
        ConfigError: there is no such kind of source.
        DataError: its folders or features are not those of labelled images.
    """
    scheme, _, rest = str(source).partition(":")
    if scheme == "folder" and rest:
        offered = folder.list_folder(rest)
        return offered, Manifest(offered.root, cache_dir)
    if scheme == "tfds" and rest:
        return catalogue.list_catalogue(rest, data_dir, cache_dir)
    if scheme == "digits" and not rest:
        return catalogue.list_directory(digits.prepare(cache_dir), "digits", cache_dir)
    hint = suggest(scheme, ("folder", "tfds", "digits"))
    raise ConfigError(f"data '{source}' is not one of {listing(_SCHEMES)}{hint}")


def _amounts(splits: Mapping[str, float | int | str] | None) -> dict[str, Any]:
    amounts = {**_DEFAULT_SPLITS, **dict(splits or {})}
    for name, amount in amounts.items():
        if name not in _DEFAULT_SPLITS:
            raise ConfigError(
                f"data_splits: '{name}' is not val or test{suggest(name, _DEFAULT_SPLITS)}"
            )
        if (name, amount) not in (("val", "test"), ("test", "val")):
            cutting.check_amount(name, amount)
    return amounts


def _renamed(given, amounts, warnings):
    """Given splits under the names that `amounts` wants them to have, and how they were made."""
    made, given = dict.fromkeys(given, "given"), dict(given)
    # Where the only images besides the training ones are called validation images.
    wanted = amounts["test"] == "val" or amounts["val"] == "test"
    if wanted and "val" in given and "test" not in given:
        val = given.pop("val")
        given["test"] = val.subset(np.arange(len(val)), "test")
        made = {"train": "given", "test": "the source's validation images"}
    if amounts["test"] == "val":
        amounts["test"] = _DEFAULT_SPLITS["test"]
        if "test" not in given:
            warnings.append(
                f"the source has no validation images to test on (data_splits: test='val'): "
                f"{amounts['test']:.0%} of the training images are cut out for that (say so with "
                "data_splits.test=0.2, and another number for more)"
            )
    if amounts["val"] == "test" and "val" in given:
        warnings.append(
            f"the source's own {len(given.pop('val'))} validation images are left out "
            "(data_splits: val='test')"
        )
        made.pop("val")
    return given, made


def _cut(given, made, amounts, seed, class_names, warnings):
    """Fills in the missing splits, and in `made` how; returns all three."""
    classes = len(class_names)
    train = given["train"]
    pool = np.bincount(train.labels, minlength=classes)
    fractions = [amounts[n] for n in ("val", "test") if n not in given]
    if all(isinstance(f, float) for f in fractions) and sum(fractions) >= 1:
        raise ConfigError(f"data_splits: {dict(amounts)} leaves nothing to train on")
    if not pool.all():
        empty = listing(class_names[i] for i in np.flatnonzero(pool == 0))
        raise DataError(f"no usable training images of class {empty}")
    parts = dict(given)
    for name, cut_seed in (("test", _TEST_SEED), ("val", seed)):
        if name in given:
            continue
        if amounts[name] == "test":
            every = np.arange(len(parts["test"]))
            parts[name], made[name] = parts["test"].subset(every, name), _TEST_AS_VAL
            continue
        counts = np.bincount(train.labels, minlength=classes)
        amount = amounts[name]
        wanted = cutting.targets(counts, amount, name, pool)
        stay, out = cutting.cut(train.looks, train.labels, wanted, cut_seed)
        parts[name], train = train.subset(out, name), train.subset(stay)
        made[name] = (
            f"{amount} cut from the training images, stratified, by content hash, seed {cut_seed}"
        )
        lacking = np.flatnonzero(np.bincount(parts[name].labels, minlength=classes) == 0)
        if lacking.size:
            names = listing(class_names[i] for i in lacking)
            warnings.append(f"{name} has no images of {names}: too few different images")
        if not len(parts[name]):
            raise DataError(f"{name}: no image can be cut from {pool.sum()} training images")
    parts["train"] = train
    return parts


def _limit(split: Split, per_class: int, seed: int, class_names, warnings) -> Split:
    counts = np.bincount(split.labels, minlength=len(class_names))
    short = [f"{class_names[i]} ({counts[i]})" for i in np.flatnonzero(counts < per_class)]
    if short:
        warnings.append(f"per_class={per_class}: fewer training images in {listing(short)}")
    return split.subset(cutting.limit_per_class(split.looks, split.labels, per_class, seed))
