"""What a run does before its first step, and what it leaves for later."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from tlflax.model import Architecture, Model

LATE = {
    "grain", "h5py", "huggingface_hub", "matplotlib", "pooch", "scipy", "sklearn", "tensorboardX",
    "tensorflow", "tensorflow_datasets",
}  # fmt: skip


def test_a_run_imports_only_what_its_first_step_needs():
    program = f"import sys, tlflax.run; print(*({LATE!r} & set(sys.modules)))"
    argv = [sys.executable, "-c", program]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def model(head="gap", hidden=(), endpoint="auto", classes=("a", "b"), size=16):
    return Model(Architecture("glyph_cnn", endpoint, classes, size, head, hidden))


def shapes(variables):
    paths = jax.tree_util.tree_leaves_with_path(variables)
    return {jax.tree_util.keystr(p): (v.shape, v.dtype) for p, v in paths}


@pytest.mark.parametrize(
    ("head", "endpoint"),
    [("gap", "auto"), ("flatten", "block2_pool"), ("flatten", "block2_conv1")],
)
def test_the_head_alone_is_initialised_as_in_the_whole_network(head, endpoint):
    network = model(head, (8,), endpoint).with_classes(("a", "b", "c"))
    module, key = network.module(), jax.random.key(3)
    images = np.zeros((1, 16, 16, 3), np.uint8)
    # Only the head is asked for: the rest is traced, and left out when compiling.
    whole = jax.jit(lambda k, x: module.init(k, x)["params"]["head"])(key, images)
    part = network.init(3, head_only=True)
    assert set(part["params"]) == {"head"} and not part["batch_stats"]
    jax.tree.map(np.testing.assert_array_equal, part["params"]["head"], whole)
    assert shapes(network.abstract) == shapes(jax.eval_shape(module.init, key, images))


def test_a_model_is_traced_once(monkeypatch):
    from tlflax.backbones.chain import Chain

    calls = []
    traced = Chain.__call__

    def counting(self, *args, **kwargs):
        calls.append(kwargs.get("stop"))
        return traced(self, *args, **kwargs)

    monkeypatch.setattr(Chain, "__call__", counting)
    # A size of its own: traces are remembered.
    network = model(endpoint="block2_pool", size=19).with_classes(("x", "y", "z"))
    assert network.abstract["params"]["head"] and network.anatomy.paths
    network.init(0, head_only=True)
    assert calls == [None]
