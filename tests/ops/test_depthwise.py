"""The CPU form of the depthwise convolution against XLA's own, in value and both gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tlflax.ops import depthwise
from tlflax.ops.depthwise import _native, _shifted, depthwise_conv

CASES = [
    (height, width, stride, kernel, padding)
    for height, width in ((8, 5), (7, 6), (5, 9))
    for stride in (1, 2)
    for kernel in (3, 5)
    for padding in ("SAME", "VALID")
    # Twenty-five taps take long to compile: one shape is enough for those.
    if kernel == 3 or height == 7
]


def oracle(x, w, stride, padding):
    return lax.conv_general_dilated(
        x,
        w,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
        precision="highest",
    )


jitted = jax.jit(oracle, static_argnums=(2, 3))


def draw(height, width, kernel, dtype=np.float32, channels=3, batch=2):
    rng = np.random.default_rng(height * 100 + width * 10 + kernel)
    x = rng.standard_normal((batch, height, width, channels))
    w = rng.standard_normal((kernel, kernel, 1, channels))
    return jnp.asarray(x, dtype), jnp.asarray(w, dtype)


def close(a, b, tolerance=1e-5):
    assert a.shape == b.shape and a.dtype == b.dtype
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


def value_and_gradients(function, x, w, stride, padding):
    y, pull = jax.vjp(lambda x, w: function(x, w, stride, padding), x, w)
    # A weight that differs from place to place, so that shifted or flipped gradients show.
    cotangent = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape).astype(y.dtype)
    return y, *pull(cotangent)


def marked(case):
    """Twenty-five taps with stride 1 run with the slow tests: same code as for nine."""
    stride, kernel = case[2:4]
    return pytest.param(*case, marks=pytest.mark.slow if (stride, kernel) == (1, 5) else ())


@pytest.mark.parametrize(
    ("height", "width", "stride", "kernel", "padding"), [marked(case) for case in CASES]
)
def test_value_and_gradients(height, width, stride, kernel, padding):
    @jax.jit
    def both(x, w):
        functions = depthwise_conv, oracle
        return [value_and_gradients(f, x, w, stride, padding) for f in functions]

    for a, b in zip(*both(*draw(height, width, kernel)), strict=True):
        close(a, b)


def test_without_jit_and_under_grad():
    x, w = draw(7, 6, 3)

    def loss(function, x, w):
        return jnp.sum(jnp.sin(function(x, w, 2, "SAME")))

    for argument in (1, 2):
        found = jax.grad(loss, argument)(depthwise_conv, x, w)
        close(found, jax.jit(jax.grad(loss, argument), static_argnums=0)(oracle, x, w))


def test_under_vmap():
    x, w = draw(6, 7, 3, batch=4)
    images = x.reshape(2, 2, *x.shape[1:])
    run = jax.vmap(functools.partial(depthwise_conv, stride=2, padding="SAME"), (0, None))
    run = jax.jit(run)
    close(run(images, w).reshape(4, 3, 4, 3), jitted(x, w, 2, "SAME"))
    # Over kernels as well: per-example gradients do that.
    kernels = jnp.stack([w, -2 * w])
    both = jax.jit(jax.vmap(lambda x, w: depthwise_conv(x, w, 1, "SAME")))(images, kernels)
    close(both[1], jitted(images[1], -2 * w, 1, "SAME"))


def test_gradient_under_vmap_and_jit():
    x, w = draw(6, 6, 3, batch=3)

    def loss(function, w, image):
        return jnp.sum(function(image[None], w, 1, "SAME") ** 2)

    def per_example(function):
        return jax.jit(jax.vmap(jax.grad(functools.partial(loss, function)), (None, 0)))(w, x)

    close(per_example(depthwise_conv), per_example(oracle))


@pytest.mark.parametrize("stride", [1, 2])
def test_bfloat16(stride):
    x, w = draw(8, 7, 3, jnp.bfloat16)
    run = jax.jit(value_and_gradients, static_argnums=(0, 3, 4))
    found = run(depthwise_conv, x, w, stride, "SAME")
    wide = [a.astype(jnp.float32) for a in (x, w)]
    exact = run(oracle, *wide, stride, "SAME")
    for a, b in zip(found, exact, strict=True):
        assert a.dtype == jnp.bfloat16
        # 8 bits of mantissa: half an ulp, 2^-9, for each of up to 9 (kernel: 56) summands.
        close(a.astype(jnp.float32), b, 0.03)


@pytest.mark.parametrize("function", [_native, _shifted])
def test_both_forms_are_the_same_sum(function):
    # The form for the other platforms runs on CPU too, only slowly.
    x, w = draw(7, 8, 3)
    for stride, padding in ((1, "SAME"), (2, "SAME"), (2, "VALID")):
        run = jax.jit(function, static_argnums=(2, 3))
        close(run(x, w, stride, padding), jitted(x, w, stride, padding))


@pytest.mark.parametrize(("height", "width", "padding"), [(8, 7, "SAME"), (9, 6, "VALID")])
def test_large_maps_take_pairs_of_columns(height, width, padding, monkeypatch):
    x, w = draw(height, width, 3)
    monkeypatch.setattr(depthwise, "_PAIRED", x[0].size - 1)
    run = jax.jit(lambda x, w: _shifted(x, w, 2, padding))
    assert "barrier" in run.lower(x, w).as_text()
    close(run(x, w), oracle(x, w, 2, padding))


@pytest.mark.parametrize("batch", [16, 19])
def test_kernel_gradient_of_more_images_than_are_added_at_once(batch):
    x, w = draw(3, 3, 1, batch=batch)
    gradient = jax.jit(jax.grad(lambda w: jnp.sum(x * depthwise_conv(x, w, 1, "SAME"))))
    close(gradient(w)[0, 0, 0], jnp.sum(x * x, (0, 1, 2)))


def test_a_map_smaller_than_the_kernel():
    x, w = draw(1, 1, 3)
    run = jax.jit(depthwise_conv, static_argnums=(2, 3))
    close(run(x, w, 2, "SAME"), jitted(x, w, 2, "SAME"))
    close(run(x, w, 1, "SAME"), x * w[1, 1, 0])


def test_cpu_takes_the_fast_form():
    x, w = draw(8, 8, 3)
    if jax.default_backend() != "cpu":
        pytest.skip("other platforms keep the native convolution")
    step = jax.jit(value_and_gradients, static_argnums=(0, 3, 4))
    text = step.lower(depthwise_conv, x, w, 1, "SAME").compile().as_text()
    assert "convolution(" not in text and "custom-call" not in text
    native = step.lower(oracle, x, w, 1, "SAME").compile().as_text()
    assert "convolution(" in native or "custom-call" in native
