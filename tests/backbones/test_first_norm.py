"""What comes into the first BatchNorm, against the convolution computed by hand."""

import numpy as np
import pytest
from scipy.signal import correlate

from tlflax.backbones.first_norm import FirstNorm
from tlflax.backbones.table import get
from tlflax.model import Architecture, Model


@pytest.fixture(scope="module")
def glyphs():
    model = Model(Architecture("glyph_cnn", "auto", ("a", "b"), 8))
    variables = model.init(0)
    return model, {c: v["backbone"] for c, v in variables.items() if "backbone" in v}


def test_moments_are_those_of_the_first_convolution(glyphs):
    model, variables = glyphs
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype(np.float32)
    found = FirstNorm(model.chain, model.endpoint)(variables, images)
    kernel = np.asarray(variables["params"]["block1_pool"]["block1_conv1"]["kernel"])
    outputs = np.stack(
        [
            [correlate(image[..., 0], kernel[:, :, 0, k], "same") for k in range(kernel.shape[3])]
            for image in images
        ]
    )
    np.testing.assert_allclose(found.mean, outputs.mean((0, 2, 3)), atol=1e-5)
    np.testing.assert_allclose(found.var, outputs.var((0, 2, 3)), rtol=1e-4)
    stored = variables["batch_stats"]["block1_pool"]["block1_bn1"]
    np.testing.assert_array_equal(found.stored_mean, stored["mean"])
    np.testing.assert_array_equal(found.stored_var, stored["var"])


def test_the_images_are_taken_as_prepared(glyphs):
    model, variables = glyphs
    norm = FirstNorm(model.chain, model.endpoint)
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    once, twice = norm(variables, images), norm(variables, 2 * images)
    np.testing.assert_allclose(twice.var, 4 * once.var, rtol=1e-4)


def test_a_network_without_batch_norm_has_none():
    chain = get("vgg16").chain()
    params = {
        f"block1_conv{i}": {
            f"block1_conv{i}": {
                "kernel": np.zeros((3, 3, a, 64), np.float32),
                "bias": np.zeros(64, np.float32),
            }
        }
        for i, a in ((1, 3), (2, 64))
    }
    images = np.zeros((1, 8, 8, 3), np.float32)
    assert FirstNorm(chain, "block1_conv2")({"params": params}, images) is None
