"""The real MobileNetV2 0.35 weights and outputs that were stored with them."""

import subprocess
import sys

import numpy as np
import pytest

from tlflax.backbones.table import get
from tlflax.convert.__main__ import main
from tlflax.convert.certificate import against_reference, layout_certificate
from tlflax.convert.store import convert_file, load_weights
from tlflax.convert.tensors import load_variables, read_facts

pytestmark = pytest.mark.real
NAME = "mobilenet_v2_0.35"
# The stored outputs come from TensorFlow's kernels.
TOLERANCE = 1e-4


@pytest.fixture
def files(real):
    source = real / "weights" / "keras_h5" / get(NAME).source.file_name
    return source, real / "reference" / "mobilenet_v2_0.35_224_no_top.npz"


def test_real_file_gives_the_stored_outputs(files):
    spec, (source, reference) = get(NAME), files
    weights = load_weights(spec, spec.chain(), "official", str(source.parent))
    assert weights.certificate["parameters"] == spec.parameters == 410_208
    assert weights.sha256.startswith("001fc7b817f7cd84747193f7ce5b10e5")
    base = layout_certificate(weights.variables, 260, [])
    found = against_reference(spec.chain(), weights.variables, base, reference, TOLERANCE)
    with np.load(reference) as stored:
        named = [k for k in stored.files if k not in ("x", "files")]
    assert sorted(found["endpoints"]) == sorted(named) and len(named) == 5


def test_real_squeezenet_is_recognised_and_gives_the_stored_outputs(real, tmp_path):
    source = real / "weights" / "keras_h5" / get("squeezenet_1.1").source.file_name
    dest = tmp_path / "w.safetensors"
    reference = real / "reference" / "squeezenet_notop.npz"
    main(["convert", str(source), str(dest), "--reference", str(reference)])
    facts = read_facts(dest)
    assert facts["backbone"] == "squeezenet_1.1"
    ends = facts["certificate"]["endpoints"]
    assert list(ends) == ["conv1", "fire3_concat", "fire5_concat", "fire9_concat"]
    assert max(e["max_rel"] for e in ends.values()) <= TOLERANCE
    weights = load_weights(
        get("squeezenet_1.1"), get("squeezenet_1.1").chain(), "official", str(source.parent)
    )
    # The published MD5: byte for byte the official file.
    assert weights.notes == () and weights.source == get("squeezenet_1.1").source.url


def test_command_recognises_and_reads_back(files, tmp_path):
    source, reference = files
    dest = tmp_path / "w.safetensors"
    command = [sys.executable, "-m", "tlflax.convert", str(source), str(dest)]
    done = subprocess.run(
        [*command, "--reference", str(reference)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"{NAME}: 410,208 parameters" in done.stdout and "5 endpoints" in done.stdout
    facts = read_facts(dest)
    assert facts["backbone"] == NAME and facts["certificate"]["method"] == "reference"
    variables, _ = load_variables(dest)
    plain = convert_file(get(NAME), get(NAME).chain(), source).variables
    kernel = variables["params"]["out_relu"]["Conv_1"]["kernel"]
    np.testing.assert_array_equal(kernel, plain["params"]["out_relu"]["Conv_1"]["kernel"])


def convert(*arguments):
    command = [sys.executable, "-m", "tlflax.convert", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("keras_h5/waste4_keras_model.h5", "does not fit the network"),
        ("keras_h5/potatoes.h5", "does not fit the network"),
        ("keras_v3/cifar10_cnn.keras", "does not fit the network"),
        ("torch/resnet20-12fca82f.th", "it has torch weights, vgg16 needs keras ones"),
    ],
)
def test_another_network_is_refused_in_one_line(file, said, real, tmp_path):
    dest = tmp_path / "w.safetensors"
    done = convert(real / "weights" / file, dest, "--backbone", "vgg16")
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
    assert not dest.exists()


@pytest.mark.parametrize(
    "file",
    [
        "keras_h5/waste4_keras_model.h5",
        "keras_h5/potatoes.h5",
        "keras_h5/plant_disease_model.h5",
        "keras_h5/tiny_darknet_imagenet.h5",
        "keras_v3/cifar10_cnn.keras",
        "keras_v3/plant_disease_model.keras",
    ],
)
def test_command_takes_a_model_of_ones_own(file, real, tmp_path):
    source, dest = real / "weights" / file, tmp_path / "w.safetensors"
    stem = file.split("/")[1].replace(".keras", "_keras")
    names = {p.stem: p for p in (real / "reference").glob("*.npz")}
    reference = names.get(stem.removesuffix(".h5")) or names[stem.replace(".h5", "_h5")]
    done = convert(source, dest, "--reference", reference)
    assert done.returncode == 0, done.stderr
    facts = read_facts(dest)
    assert facts["backbone"] == source.name and facts["certificate"]["method"] == "reference"
    assert facts["certificate"]["endpoints"].keys() <= {"probs", "logits"}
