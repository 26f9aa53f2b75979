"""Mixup, cutmix and class weights inside the step: against numpy, and what they leave alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from small_step import a_batch, lowered, prepared, stepped

from tlflax.errors import PolicyError
from tlflax.train import mixing, stage_run
from tlflax.train.mixing import MIXING, mix

MAPS = a_batch(shape=(4, 6, 2))
REAL = np.flatnonzero(MAPS["weight"])
PADDING = np.flatnonzero(MAPS["weight"] == 0)


def mixed(mixup=0.0, cutmix=0.0, number=0, batch=MAPS):
    batch = {k: jnp.asarray(v) for k, v in batch.items()}
    # Not as one program: the sampler of the Beta distribution is a second of compiling in each.
    found = mix(batch, jax.random.key(number), mixup, cutmix)
    return {k: np.asarray(v) for k, v in found.items()}


def drawn(number, alpha):
    """Partner of each row and share of the row's own, from the same draws, by numpy."""
    of_partners, _, of_share, _ = jax.random.split(jax.random.key(number), 4)
    draws = np.asarray(jax.random.uniform(of_partners, (len(MAPS["weight"]),)))
    partner = np.arange(len(draws))
    partner[REAL] = REAL[np.argsort(draws[REAL])]
    return partner, float(jax.random.beta(of_share, alpha, alpha))


@pytest.mark.parametrize("number", range(6))
def test_mixup_is_what_numpy_makes_of_the_same_draws(number):
    found = mixed(mixup=0.4, number=number)
    partner, own = drawn(number, 0.4)
    x = MAPS["image"].astype(np.float64)
    # float32: a few roundings of numbers of size 1.
    np.testing.assert_allclose(found["image"], own * x + (1 - own) * x[partner], atol=1e-6)
    one_hot = np.eye(3)
    wanted = own * one_hot[MAPS["label"]] + (1 - own) * one_hot[MAPS["label"][partner]]
    share = found["share"][:, None]
    targets = share * one_hot[found["label"]] + (1 - share) * one_hot[found["other"]]
    np.testing.assert_allclose(targets, wanted, atol=1e-6)
    assert (found["share"] >= 0.5).all()
    # A permutation of the real rows: their sum, and that of their targets, is what it was.
    np.testing.assert_allclose(found["image"][REAL].sum(0), x[REAL].sum(0), atol=1e-5)
    np.testing.assert_allclose(targets[REAL].sum(0), one_hot[MAPS["label"][REAL]].sum(0), atol=1e-5)


def test_partners_are_any_of_the_real_rows_equally_often():
    draw = jax.jit(jax.vmap(mixing._partners, (0, None)))
    partners = np.asarray(draw(jax.random.split(jax.random.key(0), 3000), MAPS["weight"]))
    assert (partners[:, PADDING] == PADDING).all()
    assert (np.sort(partners[:, REAL], axis=1) == REAL).all()
    counts = np.array([[(partners[:, i] == j).mean() for j in REAL] for i in REAL])
    # Nine rows: 1/9 each, with a standard deviation of 0.0057 in 3000 draws; five of them.
    np.testing.assert_allclose(counts, 1 / len(REAL), atol=0.029)


@pytest.mark.parametrize("kind", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 1.0, "cutmix": 1.0}])
def test_padding_is_untouched_and_gets_nowhere(kind):
    poisoned = {**MAPS, "image": MAPS["image"].copy()}
    poisoned["image"][PADDING] = 1e30
    for number in range(8):
        found = mixed(**kind, number=number, batch=poisoned)
        assert (found["image"][PADDING] == poisoned["image"][PADDING]).all()
        assert np.abs(found["image"][REAL]).max() < 10
        assert (found["weight"] == MAPS["weight"]).all()
        for label in ("label", "other"):
            assert (found[label][PADDING] == MAPS["label"][PADDING]).all()


def test_a_batch_without_real_rows_stays_as_it_is():
    empty = {**MAPS, "weight": np.zeros_like(MAPS["weight"])}
    assert (mixed(mixup=0.4, batch=empty)["image"] == MAPS["image"]).all()


def pasted(number, alpha=1.0, shape=(8, 12, 1)):
    """Where each position of each real row comes from: 1 the partner, 0 the row itself."""
    rows = np.arange(len(MAPS["weight"]), dtype=np.float32)
    batch = {**MAPS, "image": np.broadcast_to(rows[:, None, None, None], (len(rows), *shape))}
    found = mixed(cutmix=alpha, number=number, batch=batch)
    partner, _ = drawn(number, alpha)
    moved = REAL[partner[REAL] != REAL]
    return found, [(found["image"][i, ..., 0] != i) for i in moved], moved, partner


def test_cutmix_pastes_one_box_and_counts_what_is_left():
    shares = []
    for number in range(40):
        found, boxes, moved, partner = pasted(number)
        (box,) = {b.tobytes(): b for b in boxes}.values()  # the same for all rows
        rows, columns = box.any(1), box.any(0)
        assert (box == np.outer(rows, columns)).all()
        for side in (rows, columns):
            assert np.abs(np.diff(np.r_[0, side, 0].astype(int))).sum() in (0, 2)  # one piece
        for i in moved:
            assert set(np.unique(found["image"][i])) <= {i, partner[i]}
        own = 1 - box.mean()
        shares.append(own)
        dominant = MAPS["label"] if own >= 0.5 else MAPS["label"][partner]
        assert (found["label"] == dominant).all()
        np.testing.assert_allclose(found["share"], max(own, 1 - own), rtol=1e-6)
    # Uniform areas whose boxes lose what sticks out: more than half is left on average.
    assert 0.5 < np.mean(shares) < 0.9 and np.std(shares) > 0.1


def test_with_both_on_each_batch_has_one_of_them():
    kinds = []
    for number in range(60):
        image = mixed(mixup=1.0, cutmix=1.0, number=number)["image"]
        x = MAPS["image"]
        kinds.append(bool(np.isin(image[REAL].round(4), x.round(4)).mean() > 0.99))
    # 30 of 60 expected, standard deviation 3.9.
    assert 14 <= sum(kinds) <= 46


def test_pixels_become_numbers_in_the_same_range():
    pixels = a_batch(shape=(16, 16, 3))
    found = mixed(mixup=0.4, batch=pixels)["image"]
    assert found.dtype == np.float32 and found.min() >= 0 and 128 < found.max() <= 255
    maps = {**MAPS, "image": jnp.asarray(MAPS["image"], jnp.bfloat16)}
    assert mixed(mixup=0.4, batch=maps)["image"].dtype == jnp.bfloat16
    vectors = a_batch(shape=(7,))
    assert mixed(mixup=0.4, batch=vectors)["image"].shape == (12, 7)


# Inside the step. A head on flattened maps compiles in no time.

WEIGHTS = np.array([3.0, 1.0, 0.5], np.float32)
MIX = {"mixup": 0.4, "cutmix": 1.0}
START = "block2_pool"


def flat_head():
    return tiny.model(dropout=0.0, endpoint=START, head="flatten")


def step(**options):
    return stepped(flat_head(), "head", start=START, **options)


def by_hand(seed, smoothing, weights, **kind):
    """Loss and correct answers of the first step, from the model's logits."""
    _, state, _ = prepared(flat_head(), "head")
    run, stage = seed
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(run), stage), 0)
    batch = {k: jnp.asarray(v) for k, v in a_batch().items()}
    rows = mix(batch, jax.random.fold_in(key, MIXING), kind.get("mixup", 0), kind.get("cutmix", 0))
    rows = {k: np.asarray(v) for k, v in rows.items()}
    kernel, bias = (state["trainable"][f"head/logits/{k}"] for k in ("kernel", "bias"))
    logits = rows["image"].reshape(len(rows["image"]), -1).astype(np.float64) @ kernel + bias
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    loss = 0.0
    for label, share in (("label", rows["share"]), ("other", 1 - rows["share"])):
        target = np.eye(3)[rows[label]] * (1 - smoothing) + smoothing / 3
        loss += share * weights[rows[label]] * -(target * log_p).sum(1)
    real = rows["weight"] > 0
    return loss[real].mean(), (logits.argmax(1) == rows["label"])[real].sum()


@pytest.fixture
def quick_beta(monkeypatch):
    """Another distribution, which compiles in no time; draws of the real one are tested above."""
    monkeypatch.setattr(jax.random, "beta", lambda key, a, b: jax.random.uniform(key) ** (a * b))


@pytest.mark.parametrize(
    ("seed", "kind", "options"),
    [
        ((3, 1), {"mixup": 0.4}, {}),
        ((0, 0), MIX, {"label_smoothing": 0.1, "class_weights": WEIGHTS}),
        ((7, 2), MIX, {"label_smoothing": 0.1, "class_weights": WEIGHTS}),
    ],
)
def test_loss_and_accuracy_of_a_mixed_step(seed, kind, options, quick_beta):
    loss, state = step(seed=seed, **kind, **options)
    weights = options.get("class_weights", np.ones(3))
    wanted, correct = by_hand(seed, options.get("label_smoothing", 0.0), weights, **kind)
    assert loss == pytest.approx(wanted, rel=1e-5)
    assert state["sums"]["weight"] == len(REAL)
    assert state["sums"]["correct"] == correct
    assert float(state["sums"]["loss"]) == pytest.approx(wanted * len(REAL), rel=1e-5)


def test_the_batch_is_mixed_before_it_is_cut_into_parts():
    options = {**MIX, "label_smoothing": 0.1, "class_weights": WEIGHTS}
    (loss, one), (parted_loss, parted) = (step(accumulate=n, **options) for n in (1, 2))
    assert parted_loss == pytest.approx(loss, rel=1e-6)
    # As in test_accumulation: float32 sums in another order.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6), one, parted)
    plain = step(class_weights=WEIGHTS)[1]
    path = "head/logits/kernel"
    assert np.abs(plain["trainable"][path] - one["trainable"][path]).max() > 1e-3


def test_a_class_weight_is_how_often_a_row_is_there():
    batch = a_batch()
    weighted = step(batch=batch, class_weights=np.array([3, 1, 2], np.float32))
    times = np.array([3, 1, 2])[batch["label"]]
    repeated = {k: np.repeat(v, times, axis=0) for k, v in batch.items()}
    again = step(batch=repeated)
    # The mean is over rows: there are more of them when they are repeated.
    factor = batch["weight"].sum() / repeated["weight"].sum()
    assert weighted[0] * factor == pytest.approx(again[0], rel=1e-5)
    before = prepared(flat_head(), "head")[1]["trainable"]
    for path, start in before.items():
        one, other = (s[1]["trainable"][path] - start for s in (weighted, again))
        np.testing.assert_allclose(one * factor, other, rtol=1e-3, atol=1e-6)
        assert np.abs(one).max() > 1e-4
    # Right answers are counted and not weighed.
    assert weighted[1]["sums"]["correct"] == step(batch=batch)[1]["sums"]["correct"]


def test_weights_and_seeds_are_arguments_of_the_program():
    def text(**options):
        return lowered(flat_head(), a_batch(), "head", start=START, **options).as_text()

    plain, weighed = text(), text(class_weights=WEIGHTS)
    assert text(class_weights=2 * WEIGHTS, seed=(5, 1)) == weighed != plain
    assert text(mixup=0.2, seed=(5, 1)) == text(mixup=0.2) != plain


# In a training: 39 images in batches of 13, three steps an epoch; dropout 0.2 is in the model.
STAGES = (
    {
        "train": ("all",), "epochs": 1, "cutmix": 1.0, "sampling": "balanced",
        "augment": "flip_crop",
        "class_weights": {"vertical": 2.0}, "label_smoothing": 0.1,
    },
    {"mixup": 1.0, "epochs": 1},
)  # fmt: skip


def test_killed_with_everything_on_the_same_run_comes_out(tmp_path, monkeypatch):
    network = tiny.model(endpoint="block1_pool")
    whole = tiny.fit(tmp_path / "whole", *STAGES, network=network)
    monkeypatch.setattr(stage_run, "_SAVE_WITHIN_EPOCH_SECONDS", -1.0)
    for steps in (2, 3):  # killed in the first stage, then in the second
        with monkeypatch.context() as patch:
            tiny.cut_at(patch, steps)
            with pytest.raises(RuntimeError, match="killed"):
                tiny.fit(tmp_path / "cut", *STAGES, network=network)
    out = tiny.fit(tmp_path / "cut", *STAGES, network=network)
    assert tiny.same(whole.variables, out.variables)
    assert tiny.rows(tmp_path / "cut") == tiny.rows(tmp_path / "whole")
    first, second = out.stages
    assert (first["augment"], first["cutmix"], first["sampling"]) == ("flip_crop", 1.0, "balanced")
    assert first["class_weights"] == {"vertical": 2.0}
    assert first["weight_of_class"] == {"diagonal": 1.0, "horizontal": 1.0, "vertical": 2.0}
    assert "sampling" not in second and "cutmix" not in second and second["mixup"] == 1.0
    assert second["cached"] and second["weight_of_class"] is None


@pytest.mark.parametrize(
    ("network", "stage", "boundary"),
    [
        ({"endpoint": "block2_pool"}, {"train": ("block2",)}, "block1_pool"),
        ({"head": "flatten"}, {}, "block3_pool"),
        ({}, {"train": ("block3",)}, "block2_pool"),
        ({}, {"train": ("all",)}, None),
    ],
)
def test_cutmix_has_something_to_cut(network, stage, boundary):
    (made,) = tiny.stages({"cutmix": 1.0, **stage})
    assert tiny.model(**network).policy(made).boundary == boundary


def test_cutmix_needs_something_to_cut():
    (made,) = tiny.stages({"cutmix": 1.0})
    model = tiny.model()
    with pytest.raises(PolicyError, match=r"stage 's0': cutmix needs pixels") as caught:
        model.policy(made)
    assert "averages over its map; use mixup" in str(caught.value)
    assert "block3_pool" in str(caught.value)
    assert model.policy(tiny.stages({"mixup": 1.0})[0]).boundary == "block3_pool"
