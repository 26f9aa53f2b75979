"""What is remembered of a trace: never another chain's, never what a caller changed."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlflax.backbones import inventory
from tlflax.backbones.chain import BlockDef, Chain
from tlflax.backbones.inventory import abstract_variables, describe, measure
from tlflax.backbones.spec import Contract
from tlflax.backbones.table import get


class Wide(nn.Module):
    """One layer whose shape depends on its options, whatever they are."""

    features: object = 2
    width: object = None

    @nn.compact
    def __call__(self, x, tap):
        n = self.width() if callable(self.width) else self.features
        n = {"1": 3, "True": 4, "1.0": 5}.get(str(n)) or int(np.sum(n))
        return tap(self.name, nn.Dense(n, name="dense")(x))


class Other(Wide):
    pass


def chain(name="a", cls=Wide, contract=None, precision="float32", **options):
    return Chain((BlockDef(name, cls, options),), contract or Contract(), precision=precision)


def widths(number):
    def width():
        return number

    return width


@pytest.fixture
def traces(monkeypatch):
    """The blocks that were traced, in order; nothing is remembered yet."""
    inventory._remembered.cache_clear()
    seen, real = [], Chain.__call__

    def counting(self, *args, **kwargs):
        seen.append(tuple(self))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Chain, "__call__", counting)
    return seen


def test_the_same_structure_is_traced_once(traces):
    spec = get("glyph_cnn")
    first = measure(spec.chain(), 21)
    assert measure(spec.chain(), 21) == first
    assert describe(spec.chain(), 21) == first[0]
    assert abstract_variables(spec.chain(), 21) == first[1]
    # What pixels are multiplied with has no shape.
    scaled = dataclasses.replace(spec.contract, scale=0.5, mean=(7.0,))
    assert measure(dataclasses.replace(spec.chain(), contract=scaled), 21) == first
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"features": 2}, {"features": 3}),
        ({"features": 1}, {"features": True}),
        ({"features": 1}, {"features": 1.0}),
        ({"features": (1, 2)}, {"features": (1, 1)}),
        ({"features": [1, 2]}, {"features": (1, 2)}),
        ({"features": [[1, 1]]}, {"features": [[1, True]]}),
        # Functions of one name.
        ({"width": widths(4)}, {"width": widths(5)}),
        ({"features": 5}, {"features": 5, "name": "b"}),
        ({"features": 6}, {"features": 6, "cls": Other}),
        ({"features": 7}, {"features": 7, "contract": Contract("L", mean=(0.0,), std=(1.0,))}),
        ({"features": 8}, {"features": 8, "precision": "bfloat16"}),
    ],
)
def test_two_structures_share_nothing(one, two, traces):
    for options in (one, two, one, two):
        found = chain(**options)
        blocks, variables = measure(found, 4)
        shapes = jax.eval_shape(
            lambda x, found=found: found.init(jax.random.key(0), x),
            jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.uint8),
        )
        assert variables == shapes and [b.name for b in blocks] == list(found)
    # Four are this test's own.
    assert len(traces) == 2 + 4


def test_size_and_where_to_stop_are_part_of_the_question():
    spec = get("glyph_cnn")
    assert describe(spec.chain(), 16)[0].shape != describe(spec.chain(), 32)[0].shape
    assert len(describe(spec.chain(), 16, "block1_pool")) < len(describe(spec.chain(), 16))


def test_answers_are_the_callers_own():
    spec = get("glyph_cnn")
    blocks, variables = measure(spec.chain(), 16)
    names, params = [b.name for b in blocks], sorted(variables["params"])
    blocks.clear()
    variables["params"][params[0]].clear()
    del variables["params"][params[1]]
    blocks, variables = measure(spec.chain(), 16)
    assert [b.name for b in blocks] == names and sorted(variables["params"]) == params
    assert variables["params"][params[0]]


def test_what_cannot_be_compared_is_traced_every_time(traces):
    for _ in range(2):
        assert describe(chain(features=np.array([1, 2])), 4)[0].shape == (4, 4, 3)
    assert len(traces) == 2
    with pytest.raises(KeyError, match="is not a layer"):
        describe(chain(), 4, "nowhere")


def test_few_are_remembered():
    assert 0 < inventory._remembered.cache_info().maxsize < 100
