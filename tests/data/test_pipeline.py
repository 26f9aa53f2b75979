import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from image_files import png

from tlflax.data.augment import held_size, make_augment
from tlflax.data.decode import Resize, decode, resize
from tlflax.data.listing import Split
from tlflax.data.pipeline import Images, eval_batches, in_order, prefetch, train_batches
from tlflax.data.plan import TrainPlan
from tlflax.errors import ConfigError, DataError

N, SIZE = 23, 8
FILES = [png(i, 10, 14) for i in range(N)]
LABELS = (np.arange(N) % 3).astype(np.int32)


def split(reads=None, files=FILES):
    def reader(row):
        if reads is not None:
            reads.append(row)
        return files[row]

    names = [f"{i}.png" for i in range(len(files))]
    labels = LABELS[: len(files)]
    return Split("train", names, labels, [], reader, np.arange(len(files)))


def batches(augment="none", start=0, stop=12, threads=2, batch_size=5, seed=(0,), **images):
    change = make_augment(augment, SIZE)
    held = Images(split(), held_size(change, SIZE), Resize(), **images)
    plan = TrainPlan(N, batch_size, seed)
    return list(train_batches(held, LABELS, plan, change, start, stop, threads))


def same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert all(np.array_equal(a[k], b[k]) for k in ("image", "label", "weight", "index"))


def test_contents_and_types():
    for batch in batches():
        assert batch["image"].dtype == np.uint8 and batch["image"].shape == (5, SIZE, SIZE, 3)
        assert batch["label"].dtype == np.int32 and batch["weight"].dtype == np.float32
        assert batch["index"].dtype == np.int64
        assert np.array_equal(batch["label"], LABELS[batch["index"]])
        for image, i in zip(batch["image"], batch["index"], strict=True):
            assert np.array_equal(image, resize(decode(FILES[i], "x"), SIZE, Resize()))


@pytest.mark.parametrize(
    "augment",
    ["none", "flip_crop", "keras_idg(rotation_range=40)", "keras_layers", "randaugment(n=3)"],
)
def test_threads_memory_and_start_change_nothing(augment):
    want = batches(augment, threads=0)
    same(want, batches(augment, threads=1))
    same(want, batches(augment, threads=5))
    same(want, batches(augment, hold_bytes=0))
    for start in (1, 5, 11):
        same(want[start:], batches(augment, start=start))
    assert batches(augment, start=12) == [] == batches(augment, start=13)


def test_augmentation_depends_on_seed_epoch_and_example_only():
    def pictures(batch_size, seed=(0,), epoch=0):
        steps = -(-N // batch_size)
        made = batches("flip_crop", epoch * steps, (epoch + 1) * steps, 2, batch_size, seed)
        return {
            int(i): image.tobytes()
            for b in made
            for i, image, w in zip(b["index"], b["image"], b["weight"], strict=True)
            if w
        }

    first = pictures(5)
    assert len(first) == N
    assert pictures(7) == first  # another batch size: other batches, the same pictures
    assert sum(pictures(5, epoch=1)[i] == first[i] for i in range(N)) <= 1
    assert sum(pictures(5, seed=(1,))[i] == first[i] for i in range(N)) <= 1
    assert len(set(pictures(5).values())) == N


def test_small_sets_are_decoded_once_and_large_ones_each_time():
    for hold, expected in ((2**20, N), (0, 2 * N)):
        reads = []
        images = Images(split(reads), SIZE, Resize(), hold)
        plan = TrainPlan(N, N, (0,))
        list(train_batches(images, LABELS, plan, None, 0, 2, threads=0))
        assert len(reads) == expected
    with pytest.raises(ValueError, match="read-only"):
        Images(split(), SIZE, Resize()).pixels(0)[:] = 0


def test_images_from_many_threads():
    images = Images(split(), SIZE, Resize())
    want = Images(split(), SIZE, Resize(), 0)
    found = [[] for _ in range(4)]

    def work(k):
        found[k] = [images.pixels(i).copy() for i in range(N)]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for pixels in found:
        assert all(np.array_equal(p, want.pixels(i)) for i, p in enumerate(pixels))


@pytest.mark.parametrize("hold", [0, 2**20])
@pytest.mark.parametrize("multiple", [1, 4])
def test_eval_is_in_order_complete_and_padded(hold, multiple):
    images = Images(split(), SIZE, Resize(), hold)
    found = list(eval_batches(images, LABELS, 10, multiple))
    assert len({b["image"].shape for b in found}) == 1
    assert len(found[0]["index"]) % multiple == 0
    real = [int(i) for b in found for i in b["index"][b["weight"] > 0]]
    assert real == list(range(N))
    for batch in found:
        for image, i in zip(batch["image"], batch["index"], strict=True):
            assert np.array_equal(image, images.pixels(i))
        assert np.array_equal(batch["label"], LABELS[batch["index"]])


def test_decode_error_reaches_the_caller_as_it_is():
    broken = [*FILES[:5], b"junk", *FILES[6:]]
    for threads in (0, 2):
        images = Images(split(files=broken), SIZE, Resize())
        plan = TrainPlan(N, 5, (0,))
        with pytest.raises(DataError, match=r"5\.png: not an image"):
            list(train_batches(images, LABELS, plan, None, 0, 5, threads))


def test_mismatches_are_refused():
    images = Images(split(), SIZE, Resize())
    with pytest.raises(ConfigError, match="plan is for 22"):
        train_batches(images, LABELS, TrainPlan(22, 5, (0,)), None, 0, 1)
    with pytest.raises(ConfigError, match="labels"):
        train_batches(images, LABELS[:5], TrainPlan(N, 5, (0,)), None, 0, 1)
    with pytest.raises(ConfigError, match="held at 8 pixels"):
        augment = make_augment("flip_crop", SIZE)
        train_batches(images, LABELS, TrainPlan(N, 5, (0,)), augment, 0, 1)


def test_leaving_early_leaves_no_threads():
    import time

    before = threading.active_count()
    images = Images(split(), SIZE, Resize())
    for _ in range(5):
        stream = train_batches(images, LABELS, TrainPlan(N, 5, (0,)), None, 0, 10_000, 2)
        next(stream)
        stream.close()
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() <= before


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_prefetch_keeps_order_and_runs_ahead(depth):
    placed = []

    def put(x):
        placed.append(x)
        return -x

    stream = prefetch(iter(range(4)), put, depth)
    assert next(stream) == 0 and len(placed) == min(depth, 4)
    assert list(stream) == [-1, -2, -3]


def test_prefetch_places_on_the_device_by_default():
    import jax

    (batch,) = prefetch(iter([{"image": np.zeros(3)}]))
    assert isinstance(batch["image"], jax.Array)


def test_batches_are_made_by_several_threads_and_not_far_ahead():
    together = threading.Barrier(2)
    made = []

    class Source:
        def __len__(self):
            return 40

        def __getitem__(self, k):
            if k < 2:
                together.wait(timeout=30)  # breaks unless both are in the making at once
            made.append(k)
            return k

    stream = in_order(Source(), threads=2)
    found = []
    for k in stream:
        found.append(k)
        # Two threads, two batches waiting, this one, and one taken up since.
        assert max(made) <= k + 6
    assert found == list(range(40)) == sorted(made)


def test_fifty_thousand_images_are_not_held_in_memory():
    n, size, batch = 50_000, 64, 32
    data = png(0, 70, 90)
    names = [f"c/{i}.png" for i in range(n)]
    whole = Split("train", names, np.zeros(n, np.int32), [], lambda row: data, np.arange(n))
    images = Images(whole, size, Resize())
    plan = TrainPlan(n, batch, (0,))
    tracemalloc.start()
    try:
        stream = train_batches(images, whole.labels, plan, None, 0, 30, threads=2)
        assert sum(len(b["index"]) for b in stream) == 30 * batch
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    one = batch * size * size * 3
    # At most six batches exist at a time, twice each while they are being stacked; the epoch's
    # order takes 8 bytes an image, twice while it is shuffled. All images would be 614 MB.
    assert peak < 12 * one + 16 * n + 2**20


_READ_FOLDER = """
import sys
from tlflax.data.pipeline import Images, train_batches
from tlflax.data.decode import Resize
from tlflax.data.plan import TrainPlan
from tlflax.data.source import load_dataset


def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096


before = resident()
data = load_dataset("folder:" + sys.argv[1])
images = Images(data.train, 224, Resize())
assert images.held is None and len(images) > 20_000
plan = TrainPlan(len(images), 32, (0,))
for _ in train_batches(images, data.train.labels, plan, None, 0, 40):
    pass
print(resident() - before)
"""


@pytest.mark.slow
def test_a_folder_of_fifty_thousand_images_takes_little_memory(tmp_path):
    if not Path("/proc/self/statm").exists():
        pytest.skip("resident memory is read from /proc")
    sources = [tmp_path / f"{i}.png" for i in range(20)]
    for i, path in enumerate(sources):
        path.write_bytes(png(i, 40, 30))
    for i in range(50_000):
        folder = tmp_path / "all" / f"class{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        # A file has at most some ten thousand links.
        (folder / f"{i:06d}.png").hardlink_to(sources[i % 20])
    argv = [sys.executable, "-c", _READ_FOLDER, str(tmp_path / "all")]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Seen: 110 MB, of it 1 kB for each image's names and hashes, the rest threads and modules.
    # The pixels would be 7.5 GB.
    assert int(done.stdout) < 300 * 2**20


def test_an_image_that_comes_twice_in_an_epoch_is_augmented_twice():
    # Two images of class 1 among 23: each comes five or six times in a balanced epoch.
    labels = np.zeros(N, np.int32)
    labels[[4, 9]] = 1
    change = make_augment("flip_crop", SIZE)
    held = Images(split(), held_size(change, SIZE), Resize())

    def epoch(threads):
        plan = TrainPlan(N, N, (0,), balance=labels)
        (batch,) = train_batches(held, labels, plan, change, 0, 1, threads)
        return batch

    batch = epoch(0)
    assert (batch["label"] == labels[batch["index"]]).all()
    assert batch["label"].sum() in (11, 12)
    versions = {image.tobytes() for image in batch["image"][batch["index"] == 4]}
    assert len(versions) == (batch["index"] == 4).sum() >= 5
    same([batch], [epoch(2)])
