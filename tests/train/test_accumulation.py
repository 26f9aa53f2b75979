"""Less memory for the same update: a batch in parts, and blocks computed twice."""

import functools

import jax
import numpy as np
import optax
import pytest
import tiny
from small_step import a_batch, lowered, prepared, stepped

from tlflax.errors import ConfigError
from tlflax.model import Architecture, Model
from tlflax.train.step import make_train_step

IMAGES = a_batch(shape=(16, 16, 3))


def close(a, b):
    # Float32: sums over the rows in another order (1e-6), through one backward pass.
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-6), a, b)


@functools.cache
def whole():
    """The step that nothing is saved in."""
    return stepped(tiny.model(dropout=0.0), bn="train")


def test_the_update_is_that_of_the_whole_batch():
    model = tiny.model(dropout=0.0)
    (loss, one), (loss_of_parts, parted) = stepped(model), stepped(model, accumulate=3)
    assert loss_of_parts == pytest.approx(loss, rel=1e-6)
    close(one, parted)
    before = prepared(model)[1]["trainable"]
    # The comparison above is of a step far larger than its tolerance.
    for path in before:
        assert np.abs(one["trainable"][path] - before[path]).max() > 1e-4, path


@pytest.mark.slow
@pytest.mark.parametrize("parts", [2, 3, 12])
def test_the_update_of_all_blocks_is_that_of_the_whole_batch(parts):
    model = tiny.model(dropout=0.0)
    options = {"train": "all", "start": None, "batch": IMAGES}
    one, parted = (stepped(model, **options, accumulate=n) for n in (1, parts))
    assert parted[0] == pytest.approx(one[0], rel=1e-6)
    close(one[1], parted[1])


@pytest.mark.slow
def test_live_batch_norm_sees_one_part_after_the_other():
    model, batch = tiny.model(dropout=0.0), a_batch()
    _, found = stepped(model, bn="train", accumulate=2)
    # By hand: rows 0, 2, ... first (part k has the rows k, k + 2, ...), then the others. Weights
    # do not move between the parts of one step.
    tx = optax.sgd(0.0)
    policy, state, frozen = prepared(model, bn="train", tx=tx)
    step = make_train_step(model.module(policy.live), tx, seed=(0, 0), start="block2_pool")
    for i in (0, 1):
        state, _ = step(state, frozen, {k: v[i::2] for k, v in batch.items()})
    assert len(found["statistics"]) == 4
    for path, value in found["statistics"].items():
        # The same float32 sums in another program.
        np.testing.assert_allclose(value, state["statistics"][path], rtol=1e-5, atol=1e-6)
        assert np.abs(value - whole()[1]["statistics"][path]).max() > 1e-3, path


def test_each_part_draws_its_own_dropout():
    model = tiny.model(dropout=0.5)
    features = np.random.default_rng(0).standard_normal((1, 128), np.float32)
    batch = {"image": np.repeat(features, 2, axis=0), "label": np.zeros(2, np.int32)}

    def loss(*weight):
        rows = {**batch, "weight": np.array(weight, np.float32)}
        return stepped(model, "head", start="block3_pool", batch=rows, accumulate=2)[0]

    # Two times the same row: with one and the same mask its loss would be the same as well.
    first, second = loss(1, 0), loss(0, 1)
    assert abs(first - second) > 1e-3
    assert loss(1, 1) == pytest.approx((first + second) / 2, rel=1e-6)


def test_rows_must_be_divisible():
    with pytest.raises(ValueError, match="a batch of 12 rows cannot be cut into 5 equal parts"):
        stepped(tiny.model(), "head", start="block3_pool", accumulate=5)


@pytest.mark.slow
def test_a_training_with_parts_and_recomputing_is_the_same_training(tmp_path):
    def trained(name, **fields):
        stage = {"train": "block3", "optimizer": "sgd", "lr": 0.01} | fields
        out = tiny.fit(tmp_path / name, stage, network=tiny.model(dropout=0.0))
        return [row["train_loss"] for row in out.history], tiny.flat(out.variables)

    # 39 images in batches of 13: with four parts there are 16 rows, three of them padding.
    one, parted = trained("one"), trained("parted", accumulate=4, remat=True)
    # Six steps of float32 sums in another order.
    np.testing.assert_allclose(parted[0], one[0], rtol=1e-5)
    for path, value in one[1].items():
        np.testing.assert_allclose(parted[1][path], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2"])
def test_accumulate_is_a_number_of_parts(value):
    with pytest.raises(ConfigError, match="accumulate must be a whole number from 1"):
        tiny.stages({"accumulate": value})


def test_remat_is_true_or_false():
    with pytest.raises(ConfigError, match="remat must be True or False, got 'blocks'"):
        tiny.stages({"remat": "blocks"})


@pytest.mark.slow
def test_recomputed_blocks_give_the_same_update():
    loss, again = stepped(tiny.model(dropout=0.0), bn="train", remat=True)
    assert loss == pytest.approx(whole()[0], rel=1e-6)
    close(whole()[1], again)
    assert again["statistics"]


@pytest.mark.slow
@pytest.mark.parametrize("bn", ["stored", "train"])
@pytest.mark.parametrize("endpoint", ["block2_conv1", "block3_pool"])
def test_all_recomputed_blocks_give_the_same_update(endpoint, bn):
    # block2_conv1 is a layer inside the last block: the pass ends in the middle of it.
    model = tiny.model(dropout=0.5, endpoint=endpoint)
    options = {"train": "all", "bn": bn, "start": None, "batch": IMAGES}
    kept, again = (stepped(model, **options, remat=remat) for remat in (False, True))
    assert again[0] == pytest.approx(kept[0], rel=1e-6)
    close(kept[1], again[1])


def memory(*args, **options):
    """Bytes of temporary buffers of the compiled step."""
    analysis = lowered(*args, **options).compile().memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes


@pytest.mark.slow
def test_parts_need_less_memory():
    batch = a_batch(256, (8, 8, 32))
    model = Model(Architecture("glyph_cnn", "auto", tiny.CLASSES, 32))
    one, parted = (
        memory(model, batch, "block3", start="block2_pool", accumulate=n) for n in (1, 16)
    )
    # A sixteenth of the activations; the gradients do not shrink.
    assert parted < 0.25 * one


@pytest.mark.slow
def test_recomputing_needs_less_memory_in_a_deep_network():
    model = Model(Architecture("cifar_resnet56", "auto", tiny.CLASSES, 32))
    batch = a_batch(64, (32, 32, 3))
    kept, again = (memory(model, batch, remat=remat) for remat in (False, True))
    # 27 blocks of two convolutions: one map a block stays instead of about six.
    assert again < 0.5 * kept
