"""What the tests of all networks measure: every layer's output, and distances from stored ones."""

import jax
import numpy as np
from keras_layout import positions

from tlflax.backbones.inventory import abstract_variables


def numbers(spec, size):
    rng = np.random.default_rng(0)

    def leaf(path, s):
        noise = rng.standard_normal(s.shape, np.float32)
        if path[-1].key == "var":
            return np.exp(noise)
        return noise / np.sqrt(max(1, np.prod(s.shape[:-1]))).astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, abstract_variables(spec.chain(), size))


# Float32: one compiled function may fuse a block differently from another.
def close(a, b):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(np.abs(b).max(), 1e-6))


def outputs(chain, variables, images):
    """Every marked layer's output, in the order of the chain, from one compiled pass.

    Compiling takes most of the time; without optimisation it takes a third.
    """
    order = []

    def run(variables, images):
        record = {}
        chain.apply(variables, images, record=record)
        order[:] = record
        return record

    compiled = jax.jit(run, compiler_options={"xla_backend_optimization_level": 0})
    found = compiled(variables, images)
    return {name: np.asarray(found[name]) for name in order}


def error_of(array, expected):
    """Norm relative to itself; mean, maximum and values relative to the largest magnitude."""
    flat = array.astype(np.float64).ravel()
    head = [np.linalg.norm(flat), flat.mean(), np.abs(flat).max()]
    values = np.array([*head, *flat[positions(flat.size)]])
    scale = np.array([expected[0], *[expected[2]] * 10])
    return (np.abs(values - expected) / scale).max()
