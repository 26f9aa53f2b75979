"""Class weights, and the warnings about classes of different size."""

import numpy as np
import pytest

from tlflax.errors import ConfigError
from tlflax.policy.imbalance import check_imbalance, class_weights, vector
from tlflax.policy.stage import make_stage


def stage(name="head", **fields):
    return make_stage({"name": name, "epochs": 1, **fields})


COUNTS = {"cat": 60, "dog": 30, "lynx": 10}


def test_balanced_is_scikit_learns():
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.repeat([0, 1, 2], list(COUNTS.values()))
    wanted = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    found = class_weights(stage(class_weights="balanced"), COUNTS)
    assert list(found) == list(COUNTS)
    np.testing.assert_allclose(list(found.values()), wanted)
    given = vector(found)
    assert given is not None and given.dtype == np.float32
    # One on average over the images: the learning rate means what it meant.
    assert given[labels].mean() == pytest.approx(1)


def test_a_dict_names_some_classes_and_none_is_nothing():
    found = class_weights(stage(class_weights={"lynx": 5}), COUNTS)
    assert found == {"cat": 1.0, "dog": 1.0, "lynx": 5.0}
    assert class_weights(stage(), COUNTS) == {} and vector({}) is None


def test_a_class_without_images_is_left_out_of_the_balance():
    found = class_weights(stage(class_weights="balanced"), {**COUNTS, "owl": 0})
    assert found["lynx"] == pytest.approx(100 / (3 * 10)) and np.isfinite(found["owl"])


def test_an_unknown_class_is_named_with_the_nearest():
    wrong = stage(class_weights={"linx": 5})
    with pytest.raises(ConfigError, match=r"names 'linx', which is no class; did you mean lynx\?"):
        class_weights(wrong, COUNTS)
    with pytest.raises(ConfigError, match="linx"):
        check_imbalance([stage(), wrong], COUNTS)


@pytest.mark.parametrize(
    ("stages", "counts", "says"),
    [
        ([{}], {"cat": 50, "dog": 10}, []),  # exactly 1:5
        ([{}], {"cat": 51, "dog": 10}, ["'cat' has 51 images", "'dog' (10)", "stage 'a'"]),
        ([{}], {"owl": 30, "cat": 100, "dog": 2, "lynx": 9}, ["'dog' (2), 'lynx' (9)"]),
        ([{}], {"cat": 50, "dog": 0, "owl": 40}, []),  # no images at all is another matter
        ([{"class_weights": "balanced"}], {"cat": 99, "dog": 9}, []),
        ([{"class_weights": {"dog": 2.0}}], {"cat": 99, "dog": 9}, []),
        ([{"sampling": "balanced"}], {"cat": 99, "dog": 9}, []),
        ([{}, {"sampling": "balanced"}, {}], {"cat": 99, "dog": 9}, ["stages 'a', 'c'"]),
        (
            [{"sampling": "balanced", "class_weights": "balanced"}],
            {"cat": 99, "dog": 9},
            ["made up for twice"],
        ),
        ([{"class_weights": {"cat": 8, "dog": 8}}], COUNTS, ["are 7.3 on average"]),
        ([{"class_weights": {"cat": 0.1}}], {"cat": 90, "dog": 10}, ["0.19 on average"]),
    ],
)
def test_warnings(stages, counts, says):
    made = [stage(name, **fields) for name, fields in zip("abc", stages, strict=False)]
    found = check_imbalance(made, counts)
    assert len(found) == (1 if says else 0)
    for words in says:
        assert words in found[0]
