"""Pre-flight: every image is hashed and decoded once, and the result is kept on disk."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tlflax import folders
from tlflax.data.decode import preview
from tlflax.data.listing import Split
from tlflax.errors import ConfigError, DataError, listing, suggest

_VERSION = 2
_BAR_FROM = 2000  # images: fewer are checked in a few seconds, a bar would only flicker.
ON_BAD_IMAGE = ("error", "skip")


class Manifest:
    """What is known about the images under one root: one list per file.

    It holds stamp, SHA-256 of the bytes, fault, and digests of the preview's and of the full
    size's pixels. The last is filled in where two previews are equal (see `tlflax.data.copies`).

    An entry counts only while the stamp (size and mtime_ns) is the same, and only where the bytes
    could be read: that they could not says something about the disk, not about the image. A file
    that cannot be parsed is rebuilt: the cache is only ever a saving of time.

    Args:
        root: absolute path of the data.
        cache_dir: folder of the cache, see `tlflax.folders.cache_dir`.
    """

    def __init__(self, root: str, cache_dir: str | os.PathLike | None = None):
        key = hashlib.sha256(root.encode()).hexdigest()[:20]
        self.path = folders.cache_dir(cache_dir) / "manifests" / f"{key}.json"
        self.root = root
        self.images: dict[str, list] = {}
        self.labels: dict[str, list] = {}
        self.dirty = False
        try:
            stored = json.loads(self.path.read_text())
            if stored["version"] == _VERSION and stored["root"] == root:
                images, labels = stored["images"], stored["labels"]
                if all(len(entry) == 5 for entry in images.values()) and isinstance(labels, dict):
                    self.images, self.labels = images, labels
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self.dirty = True  # missing or damaged: everything is looked at again.

    def lookup(self, file: str, stamp: str) -> tuple[str, str | None] | None:
        """Returns (hash, fault or None) of a file whose stamp has not changed, else None."""
        entry = self.images.get(file)
        return (entry[1], entry[2]) if entry and entry[0] == stamp and entry[1] else None

    def store(self, file: str, stamp: str, digest: str, reason: str | None, small: str) -> None:
        """Remembers the hash, the fault and the digest of the preview of a file.

        Without a hash (the bytes could not be read) only for this run: it is not written down.
        """
        self.images[file] = [stamp, digest, reason, small, ""]
        self.dirty = True

    def preview(self, file: str) -> str:
        """Returns the digest of a stored file's preview."""
        return self.images[file][3]

    def pixels(self, file: str, compute: Callable[[], str]) -> str:
        """Returns the digest of a stored file's pixels, computed when first asked for."""
        entry = self.images[file]
        if not entry[4]:
            entry[4], self.dirty = compute(), True
        return entry[4]

    def save(self) -> str | None:
        """Writes the manifest atomically if it changed; returns a warning if it cannot be."""
        if not self.dirty:
            return None
        content = {
            "version": _VERSION,
            "root": self.root,
            "images": {file: entry for file, entry in self.images.items() if entry[1]},
            "labels": self.labels,
        }
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self.path.parent, suffix=".tmp")
            with os.fdopen(handle, "w") as file:
                json.dump(content, file)
            os.replace(temporary, self.path)
        except OSError as error:
            return (
                f"the image manifest cannot be written to {self.path.parent} ({error.strerror}): "
                "images are checked again at every start (set TLFLAX_CACHE to a writable folder)"
            )
        self.dirty = False
        return None


def check(
    splits: dict[str, Split], manifest: Manifest, on_bad_image: str = "error"
) -> tuple[dict[str, Split], list[dict[str, str]]]:
    """Hashes and decodes every image that the manifest does not know yet.

    Args:
        splits: the splits that will be used.
        manifest: the cache; updated, not saved.
        on_bad_image: 'error' or 'skip'.

    Returns:
        The splits with `hashes` filled and bad images left out, and the images left out as
        dicts with 'file' and 'reason'.

    Raises:
        ConfigError: `on_bad_image` is neither of the two.
        DataError: an image cannot be decoded and `on_bad_image` is 'error'.
    """
    if on_bad_image not in ON_BAD_IMAGE:
        hint = suggest(str(on_bad_image), ON_BAD_IMAGE)
        raise ConfigError(f"on_bad_image '{on_bad_image}' is not one of error, skip{hint}")
    unknown = [
        (split, i)
        for split in splits.values()
        for i in range(len(split))
        if manifest.lookup(split.files[i], split.stamps[i]) is None
    ]
    for (split, i), found in zip(unknown, _inspect_all(unknown), strict=True):
        manifest.store(split.files[i], split.stamps[i], *found)

    skipped: list[dict[str, str]] = []
    good: dict[str, Split] = {}
    for name, split in splits.items():
        known = [manifest.images[file] for file in split.files]
        skipped += [
            {"file": file, "reason": entry[2]}
            for file, entry in zip(split.files, known, strict=True)
            if entry[2]
        ]
        good[name] = split.subset([i for i, entry in enumerate(known) if not entry[2]])
        good[name].hashes = [entry[1] for entry in known if not entry[2]]
    if skipped and on_bad_image == "error":
        shown = listing((f"{bad['file']}: {bad['reason']}" for bad in skipped), limit=3)
        raise DataError(
            f"{len(skipped)} of {sum(len(s) for s in splits.values())} images cannot be used: "
            f"{shown}. Repair or remove them, or leave them out with --config.on_bad_image=skip"
        )
    return good, skipped


def pixel_digest(image: np.ndarray | None) -> str:
    """Returns a digest of uint8 [H, W, 3] pixels and their shape; of no image, an empty one."""
    if image is None:
        return ""
    h = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    h.update(np.ascontiguousarray(image).data)
    return h.hexdigest()


def _inspect_all(items: list[tuple[Split, int]]):
    """Yields (hash, fault or None, digest of the preview) per item, in order."""
    if not items:
        return
    # Decoding releases the GIL; a few threads more than cores hide the reading.
    with ThreadPoolExecutor(min(32, (os.cpu_count() or 1) + 2)) as pool:
        results = pool.map(lambda item: _inspect(*item), items)
        if len(items) > _BAR_FROM:
            from tqdm import tqdm

            results = tqdm(results, total=len(items), desc="checking images", unit="images")
        yield from results


def _inspect(split: Split, i: int) -> tuple[str, str | None, str]:
    try:
        data = split.read(i)
    except DataError as error:
        return "", str(error).removeprefix(f"{split.files[i]}: "), ""
    small, reason = preview(data)
    return hashlib.sha256(data).hexdigest(), reason, pixel_digest(small)
