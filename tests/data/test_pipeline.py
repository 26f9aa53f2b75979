import threading

import numpy as np
import pytest
from image_files import png

from tlflax.data.augment import held_size, make_augment
from tlflax.data.decode import Resize, decode, resize
from tlflax.data.listing import Split
from tlflax.data.pipeline import Images, eval_batches, prefetch, train_batches
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


@pytest.mark.parametrize("augment", ["none", "flip_crop"])
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


def test_eval_has_no_augment_parameter():
    import inspect

    assert "augment" not in inspect.signature(eval_batches).parameters


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
