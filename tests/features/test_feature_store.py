"""Rows on disk: found by image, shared, bounded, never trusted blindly."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tlflax.features import segment, store
from tlflax.features.space import contents
from tlflax.features.store import Store, StoreFull

SHAPE = (3, 2)


def key(i: int) -> bytes:
    return hashlib.sha256(str(i).encode()).digest()


def rows(*numbers: int) -> np.ndarray:
    pattern = np.arange(6, dtype=np.float32).reshape(SHAPE) / 7
    return np.stack([n + pattern for n in numbers]).astype(np.float32)


def opened(root, name="a", dtype="float32", budget=2**30) -> Store:
    made = Store(root, name, SHAPE, dtype, {"backbone": name}, budget)
    made.refresh()
    return made


def filled(root, *numbers, **options) -> Store:
    made = opened(root, **options)
    made.append([key(n) for n in numbers], rows(*numbers))
    return made


def test_rows_come_back_in_any_order_and_in_another_process(tmp_path):
    first = filled(tmp_path, 1, 2, 3)
    first.append([key(4)], rows(4))
    again = opened(tmp_path)
    wanted = [key(n) for n in (4, 1, 3, 3)]
    assert again.missing([*wanted, key(9)]) == [4]
    found = again.find(wanted)
    assert len(found) == 4 and found.nbytes == 4 * 24
    np.testing.assert_array_equal(found.batch(np.array([0, 1, 2, 3, 1])), rows(4, 1, 3, 3, 1))
    copy = found.batch(np.array([1]))
    copy[:] = -1
    np.testing.assert_array_equal(found.batch(np.array([1])), rows(1))


def test_a_segment_is_an_ordinary_numpy_file(tmp_path):
    (path,) = filled(tmp_path, 5, 6).folder.glob("*.npy")
    found = np.load(path, mmap_mode="r")
    np.testing.assert_array_equal(found["row"], rows(5, 6))
    assert found["key"][1].tobytes() == key(6)


def test_bfloat16_rows_are_rounded_once(tmp_path):
    made = filled(tmp_path, 1, dtype="bfloat16")
    found = made.find([key(1)]).batch(np.array([0]))
    assert found.dtype == ml_dtypes.bfloat16 and made.find([key(1)]).nbytes == 12
    np.testing.assert_array_equal(found, rows(1).astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "other shape", "other dtype"])
def test_a_file_that_is_no_segment_is_left_out(tmp_path, damage):
    made = filled(tmp_path, 1)
    (path,) = made.folder.glob("*.npy")
    data = path.read_bytes()
    if damage == "other shape":
        np.save(path, segment.pack([key(1)], np.zeros((1, 2, 3), np.float32), "float32"))
    elif damage == "other dtype":
        np.save(path, segment.pack([key(1)], rows(1), "bfloat16"))
    else:
        path.write_bytes({"truncated": data[:-1], "empty": b"", "text": b"hello"}[damage])
    again = opened(tmp_path)
    assert again.missing([key(1)]) == [0]
    again.append([key(1)], rows(1))
    assert opened(tmp_path).missing([key(1)]) == []


def test_a_flipped_bit_is_noticed(tmp_path):
    made = filled(tmp_path, 1, 2)
    (path,) = made.folder.glob("*.npy")
    data = bytearray(path.read_bytes())
    data[-3] ^= 1  # in the row of 2
    path.write_bytes(data)
    again = opened(tmp_path)
    # The whole segment goes: who else found the broken row would compute it again and again.
    assert again.damaged([key(1), key(2), key(2), key(3)]) == 2 and not path.exists()
    assert again.missing([key(1), key(2)]) == [0, 1]
    again.append([key(1), key(2)], rows(1, 2))
    assert opened(tmp_path).damaged([key(1), key(2)]) == 0
    np.testing.assert_array_equal(again.find([key(2)]).batch(np.array([0])), rows(2))


def test_a_damaged_row_that_cannot_be_deleted_is_made_again(tmp_path, monkeypatch):
    (path,) = filled(tmp_path, 1).folder.glob("*.npy")
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    again = opened(tmp_path)

    def refused(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refused)
    monkeypatch.setattr(segment, "write", refused)
    assert again.damaged([key(1)]) == 1 and path.exists()
    again.append([key(1)], rows(1))
    np.testing.assert_array_equal(again.find([key(1)]).batch(np.array([0])), rows(1))
    assert "held in memory" in again.notes[0]


def test_what_another_process_adds_is_found(tmp_path):
    mine, other = opened(tmp_path), opened(tmp_path)
    other.append([key(1)], rows(1))
    assert mine.missing([key(1)]) == [0]
    mine.refresh()
    assert mine.missing([key(1)]) == []


def test_many_at_once(tmp_path):
    """Threads here, processes below: every row is there, none is mixed up."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: filled(tmp_path, n, n + 100), range(16)))
    found = opened(tmp_path).find([key(n) for n in (*range(16), *range(100, 116))])
    everything = rows(*range(16), *range(100, 116))
    np.testing.assert_array_equal(found.batch(np.arange(32)), everything)


def test_killed_while_writing_leaves_no_half_segment(tmp_path):
    code = f"""
import os, signal, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from pathlib import Path
import test_feature_store as t
from tlflax.features import segment
made = t.filled(Path({str(tmp_path)!r}), 1)
real = os.fsync
os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
made.append([t.key(2)], t.rows(2))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    assert opened(tmp_path).missing([key(1), key(2)]) == [1]


def age(made: Store, seconds: float) -> None:
    path = made.folder / "identity.json"
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def test_the_store_that_was_not_used_for_longest_makes_room(tmp_path):
    big = 4000  # rows of 88 bytes
    stores = [opened(tmp_path, name) for name in "abc"]
    for i, made in enumerate(stores):
        made.append([key(n) for n in range(big)], np.zeros((big, *SHAPE), np.float32))
        age(made, 10_000 - 1000 * i)
    stores[0].touch()  # now the last used
    budget = int(3.5 * big * 88)
    opened(tmp_path, "d", budget=budget).reserve(big)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "c"]
    # The evicted rows can still be read by who had them open.
    assert not stores[1].find([key(7)]).batch(np.array([0])).any()


def test_a_store_in_use_is_not_evicted(tmp_path):
    filled(tmp_path, *range(1000), name="busy")
    with pytest.raises(StoreFull, match=r"other features in .* are in use; raise cache_gb"):
        opened(tmp_path, "new", budget=100_000).reserve(1000)
    assert (tmp_path / "busy").is_dir()


def test_nothing_is_deleted_where_that_does_not_suffice(tmp_path):
    filled(tmp_path, *range(1000), name="busy")
    age(filled(tmp_path, *range(100), name="old"), 10_000)
    with pytest.raises(StoreFull, match="are in use"):
        opened(tmp_path, "new", budget=100_000).reserve(1000)
    assert (tmp_path / "old").is_dir()
    opened(tmp_path, "new", budget=100_000).reserve(100)
    assert not (tmp_path / "old").is_dir() and (tmp_path / "busy").is_dir()


def test_more_than_the_budget(tmp_path):
    with pytest.raises(StoreFull, match=r"need .* GB, more than cache_gb \(0.5 GB\)"):
        opened(tmp_path, budget=2**29).reserve(10**8)


def test_a_full_disk_is_seen_before_the_work(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=2**30 + 100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    opened(tmp_path).reserve(1)
    with pytest.raises(StoreFull, match="set TLFLAX_CACHE to a folder on another disk"):
        opened(tmp_path).reserve(2)


def test_without_a_folder_to_write_to_rows_are_held_in_memory(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    made = opened(tmp_path / "file")
    made.append([key(1)], rows(1))
    made.append([key(2)], rows(2))
    assert len(made.notes) == 1 and "set TLFLAX_CACHE to a writable folder" in made.notes[0]
    assert not made.on_disk
    np.testing.assert_array_equal(made.find([key(2)]).batch(np.array([0])), rows(2))
    monkeypatch.setattr(store, "MEMORY_BYTES", 2 * made.row_bytes)
    with pytest.raises(StoreFull, match="cannot be written to"):
        made.append([key(3)], rows(3))


def test_what_is_there_is_told(tmp_path):
    assert contents(tmp_path / "nowhere") == []
    filled(tmp_path, 1, 2)
    (found,) = contents(tmp_path)
    assert found["folder"] == tmp_path / "a" and found["identity"] == {"backbone": "a"}
    assert found["bytes"] == sum(p.stat().st_size for p in (tmp_path / "a").iterdir())
    assert json.loads((tmp_path / "a" / "identity.json").read_text()) == {"backbone": "a"}


@pytest.mark.skipif(not hasattr(__import__("mmap"), "MADV_DONTNEED"), reason="no madvise here")
def test_pages_that_were_read_are_given_back(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_RELEASE_BYTES", 2**20)
    made = Store(tmp_path, "a", (256, 256), "float32", {}, 2**30)
    count = 64  # rows of 256 KiB: 16 MiB
    made.append([key(n) for n in range(count)], np.ones((count, 256, 256), np.float32))
    again = Store(tmp_path, "a", (256, 256), "float32", {}, 2**30)
    again.refresh()
    found = again.find([key(n) for n in range(count)])

    def mapped() -> int:
        """Resident bytes of the segment file in this process."""
        lines = Path("/proc/self/smaps").read_text().split("\n")
        at = next(i for i, line in enumerate(lines) if line.endswith(".npy"))
        return next(int(x.split()[1]) for x in lines[at:] if x.startswith("Rss:")) * 1024

    highest = 0
    for n in range(count):
        assert found.batch(np.array([n])).all()
        highest = max(highest, mapped())
    # Of 16 MiB: the system maps some neighbours of each page.
    assert highest < 8 * 2**20


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="peak memory is read from /proc")
def test_ten_thousand_rows_need_little_memory(tmp_path):
    """9x9x512 (VGG16's block4_pool at 150 pixels) for 10,000 images: 1.7 GB, read three times."""
    code = f"""
import hashlib, resource
from pathlib import Path
import numpy as np
from tlflax.data.plan import TrainPlan
from tlflax.features import boundary
from tlflax.features.store import Store

class Source:
    def __init__(self, missing, rows):
        self.missing, self.rows = missing, rows
    def __len__(self):
        return -(-len(self.missing) // self.rows)
    def __getitem__(self, k):
        first = np.array(self.missing[k * self.rows : (k + 1) * self.rows], np.float32)
        return {{"image": np.resize(first, self.rows)}}

def prefix(batch):
    return np.broadcast_to(batch["image"][:, None, None, None], (32, 9, 9, 512))

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
keys = [hashlib.sha256(str(i).encode()).digest() for i in range(10_000)]
store = Store(Path({str(tmp_path)!r}), "a", (9, 9, 512), "float32", {{}}, 2**32)
boundary.fill(store, keys, Source, prefix, 32)
plan = TrainPlan(10_000, 32, (0,))
features = store.find(keys)
steps = 3 * plan.steps_per_epoch
for batch in boundary.train_batches(features, np.zeros(10_000, int), plan, 0, steps):
    assert (batch["image"][:, 8, 8, 511] == batch["index"]).all()
print(features.nbytes, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    stored, grown = map(int, done.stdout.split())
    assert stored > 1.6e9
    # Pages of the file at most _RELEASE_BYTES, a segment in the making a few times its size.
    assert grown < 1e9
