"""One audit from the source to the report."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tlflax.data.audit import about_copies, about_files, about_sets, twins
from tlflax.data.audit.facts import THUMB, Facts, look, scan
from tlflax.data.audit.findings import SEVERITIES, Finding
from tlflax.data.listing import Listing, Split
from tlflax.data.source import open_source
from tlflax.errors import ConfigError, listing, suggest
from tlflax.evaluate.statistics import wilson

_SOURCES = ("folder", "tfds", "digits")


@dataclass
class Report:
    """What was found.

    Attributes:
        source: as it can be given as --config.data.
        class_names: in label order.
        counts: images per class of each split.
        sizes: smallest, median and largest width and height in pixels.
        findings: most severe first.
        images: number of images looked at.
        seconds: wall time.
    """

    source: str
    class_names: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    sizes: dict[str, list[int]]
    findings: list[Finding] = field(default_factory=list)
    images: int = 0
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether something must be changed."""
        return any(f.severity == "error" for f in self.findings)

    def intervals(self) -> dict[str, list[float]]:
        """95 % interval of an accuracy of 90 % on each split but train."""
        sizes = {s: sum(c.values()) for s, c in self.counts.items() if s != "train"}
        return {s: list(wilson(round(0.9 * n), n)) for s, n in sizes.items()}

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "source": self.source,
            "images": self.images,
            "class_names": list(self.class_names),
            "counts": self.counts,
            "sizes": self.sizes,
            "interval_at_90": self.intervals(),
            "must_change": self.failed,
            "findings": [f.plain() for f in self.findings],
            "seconds": round(self.seconds, 2),
        }


def examine(
    source: str,
    *,
    splits: Sequence[str] = (),
    image_size: int = 224,
    look_alikes: bool = True,
    data_dir: str | os.PathLike | None = None,
    progress: Callable[[Iterable[Facts], int], Iterable[Facts]] = lambda facts, total: facts,
) -> Report:
    """Decodes every image of a source once and says what is wrong with them.

    Args:
        source: 'folder:PATH', 'tfds:NAME[/CONFIG]', 'digits', or a path.
        splits: names of those to look at; empty for all that the source has.
        image_size: side of the network's input in pixels.
        look_alikes: whether to search for copies with other pixels.
        data_dir: where catalogue datasets lie; default as in `load_dataset`.
        progress: wraps the iterator over the images.

    Raises:
        ConfigError: there is no such source or split.
        DataError: the folders are not those of labelled images.
    """
    began = time.monotonic()
    source = full_source(source)
    offered, manifest = open_source(source, data_dir)
    manifest.save()
    chosen = _chosen(offered, splits)
    total = sum(len(s) for s in chosen)
    thumbs = np.zeros((total, THUMB, THUMB), np.uint8)
    facts = list(progress(scan(chosen, thumbs), total))

    whole = list(offered.splits) == ["train"]
    classes = len(offered.class_names)
    counts = {s.name: np.bincount(s.labels, minlength=classes) for s in chosen}
    groups = twins.identical(facts)
    found = about_files.about_files(facts, image_size, not source.startswith("folder:"))
    found += about_copies.about_copies(facts, groups)
    pairs, complete, tiny = [], True, 0
    if look_alikes:
        large = twins.comparable(facts, thumbs)
        tiny = sum(f.fault is None for f in facts) - len(large)
        near, complete = twins.look_alikes(thumbs[large], [facts[i].digest for i in large])
        pairs = [p._replace(first=int(large[p.first]), second=int(large[p.second])) for p in near]
    found += about_copies.about_look_alikes(facts, pairs, whole)
    found += about_sets.about_counts(counts, offered.class_names, whole)
    found += about_sets.about_rest(offered.warnings, _ignored(offered), tiny, complete)
    found.sort(key=lambda f: list(SEVERITIES).index(f.severity))
    return Report(
        source,
        offered.class_names,
        {
            s: dict(zip(offered.class_names, map(int, c), strict=True)) for s, c in counts.items()
        },
        _sizes(facts),
        found,
        total,
        time.monotonic() - began,
    )  # fmt: skip


def full_source(source: str) -> str:
    """A bare path becomes 'folder:PATH'.

    Raises:
        ConfigError: it is neither a path that exists nor a source.
    """
    if source.partition(":")[0] in _SOURCES:
        return source
    if Path(source).expanduser().is_dir():
        return f"folder:{source}"
    hint = suggest(source.partition(":")[0], _SOURCES)
    raise ConfigError(
        f"{source} is no folder, and not one of folder:PATH, tfds:NAME[/CONFIG], digits{hint}"
    )


def _chosen(offered: Listing, names: Sequence[str]) -> list[Split]:
    for name in names:
        if name not in offered.splits:
            raise ConfigError(
                f"--split {name}: there is no such split (there are {listing(offered.splits)})"
                f"{suggest(name, offered.splits)}"
            )
    return [s for name, s in offered.splits.items() if not names or name in names]


def _ignored(offered: Listing) -> list[Facts]:
    """Files that the listing left out; those without fault are images all the same."""
    found = []
    for name in offered.ignored:
        facts, path = Facts(name, "", -1), Path(offered.root) / name
        try:
            look(path.read_bytes(), facts)
        except OSError as error:
            facts.fault = str(error.strerror)
        found.append(facts)
    return found


def _sizes(facts: Sequence[Facts]) -> dict[str, list[int]]:
    good = [f for f in facts if f.fault is None]
    if not good:
        return {}
    sides = {"width": [f.width for f in good], "height": [f.height for f in good]}
    return {k: [min(v), int(np.median(v)), max(v)] for k, v in sides.items()}
