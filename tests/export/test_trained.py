import numpy as np
import pytest
from exported_runs import write_run
from tiny import quick_compilation  # noqa: F401

from tlflax.errors import ConvertError
from tlflax.export.trained import Trained, relative, rms


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return Trained(write_run(tmp_path_factory.mktemp("t"), "glyph_cnn", 24) / "model.safetensors")


def judged(reference):
    """A `Trained` that is known to answer so."""
    trained = Trained.__new__(Trained)
    trained.__dict__["reference"] = np.array(reference, np.float32)
    return trained


def test_images_are_prepared_as_predict_does(trained):
    assert trained.images.shape == (4, 24, 24, 3) and trained.images.dtype == np.uint8
    # The photos are larger and not square, so that the resize rule takes part.
    found = trained.predictor.predict(trained.images).probabilities
    np.testing.assert_array_equal(found, trained.reference)
    # They differ enough for the run to answer them otherwise.
    assert np.ptp(trained.reference, axis=0).max() > 1e-3


def test_features_are_the_endpoints(trained):
    assert trained.features().shape == (4, 3, 3, 128)
    assert set(trained.backbone()) == {"params", "batch_stats"}


def test_close_enough():
    lines = judged([[0.2, 0.8], [0.7, 0.3]]).judge(
        np.array([[0.2000001, 0.8], [0.7, 0.3]]), 1e-5, "who"
    )
    assert len(lines) == 1 and lines[0].startswith("who: log probabilities of 2 random image(s)")


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        ([[0.2, 0.8]], [[0.21, 0.79]]),
        ([[0.2, 0.8]], [[np.nan, 0.8]]),
        # A sure answer: equal to eight digits, but ten logits apart.
        ([[1e-20, 1.0]], [[1e-16, 1.0]]),
        # Below what float32 holds.
        ([[0.0, 1.0]], [[1e-16, 1.0]]),
    ],
)
def test_too_far_off(reference, found):
    with pytest.raises(ConvertError, match="who does not answer as the run does"):
        judged(reference).judge(np.array(found), 1e-5, "who")


def test_another_number_of_classes():
    with pytest.raises(ConvertError, match=r"answers with \(1, 3\), not \(1, 2\)"):
        judged([[0.2, 0.8]]).judge(np.full((1, 3), 1 / 3), 1e-5, "who")


@pytest.mark.parametrize(
    ("reference", "little"),
    [
        ([[0.5, 0.5], [0.5, 0.5]], True),
        ([[0.0, 1.0], [0.0, 1.0]], True),
        # Sure of both, but not equally.
        ([[1e-20, 1.0], [1e-21, 1.0]], False),
        ([[0.2, 0.8], [0.3, 0.7]], False),
    ],
)
def test_what_proves_little_is_said(reference, little):
    lines = judged(reference).judge(np.array(reference, np.float32), 1e-5, "who")
    assert ("proves little" in lines[-1]) == little


def test_errors_are_relative_to_the_largest():
    assert relative(np.array([1.0, 10.1]), np.array([1.0, -10.0])) == pytest.approx(2.01)
    assert np.isnan(relative(np.array([np.nan]), np.array([1.0])))
    assert rms(np.array([3.0, 4.0])) == pytest.approx(np.sqrt(12.5))
