"""The real CIFAR ResNets: recognised, equal to stored outputs, as accurate as stated."""

import jax
import numpy as np
import pytest
from PIL import Image

from tlflax.backbones.table import get
from tlflax.convert.__main__ import main
from tlflax.convert.store import convert_file, load_weights
from tlflax.convert.tensors import load_variables, read_facts

pytestmark = pytest.mark.real
# The stored outputs come from torch's kernels.
TOLERANCE = 1e-4
# depth -> beginning of the file's SHA-256, and accuracy on the 1,000 JPEG test images
# (shared/real/README.md; 0.918 and 0.936 were reported on the lossless originals).
FILES = {20: ("12fca82f", 0.804), 56: ("4bfd9763", 0.825)}


@pytest.mark.parametrize("depth", FILES)
@pytest.mark.parametrize("kind", ["th", "safetensors"])
def test_recognised_and_equal_to_the_stored_outputs(depth, kind, real, tmp_path, capsys):
    digits, _ = FILES[depth]
    file = f"resnet{depth}-{digits}.th" if kind == "th" else f"resnet{depth}_cifar10.safetensors"
    source, dest = real / "weights" / "torch" / file, tmp_path / "w.safetensors"
    reference = real / "reference" / f"resnet{depth}-{digits}.npz"
    main(["convert", str(source), str(dest), "--reference", str(reference)])
    facts = read_facts(dest)
    spec = get(f"cifar_resnet{depth}")
    assert facts["backbone"] == spec.name and facts["notes"] == []
    certificate = facts["certificate"]
    assert certificate["method"] == "reference" and list(certificate["endpoints"]) == ["logits"]
    assert certificate["endpoints"]["logits"]["max_rel"] <= TOLERANCE
    assert certificate["parameters"] == spec.parameters and certificate["left_out"] == []
    out = capsys.readouterr().out
    assert f"{spec.name}: {spec.parameters:,} parameters from {file}" in out


@pytest.mark.parametrize("depth", FILES)
def test_the_published_file_is_known_by_its_hash(depth, real):
    spec = get(f"cifar_resnet{depth}")
    weights = load_weights(spec, spec.chain(), "official", str(real / "weights" / "torch"))
    assert weights.notes == () and weights.source == spec.source.url
    assert weights.sha256.startswith(FILES[depth][0])


@pytest.mark.parametrize("depth", FILES)
def test_accuracy_on_real_images(depth, real, tmp_path):
    spec = get(f"cifar_resnet{depth}")
    digits, expected = FILES[depth]
    path = real / "weights" / "torch" / f"resnet{depth}-{digits}.th"
    variables = convert_file(spec, spec.chain(), path).variables
    folders = sorted((real / "datasets" / "cifar10" / "test").iterdir())
    files = [(f, label) for label, folder in enumerate(folders) for f in sorted(folder.iterdir())]
    images = np.stack([np.asarray(Image.open(f).convert("RGB")) for f, _ in files])
    labels = np.array([label for _, label in files])
    assert len(files) == 1000 and images.shape[1:] == (32, 32, 3)
    run = jax.jit(lambda v, x: spec.chain().apply(v, x))
    logits = np.concatenate([run(variables, images[i : i + 250]) for i in range(0, 1000, 250)])
    accuracy = np.mean(logits.argmax(1) == labels)
    assert abs(accuracy - expected) < 5e-4, accuracy


def test_reference_is_not_passed_by_wrong_weights(real, tmp_path):
    digits, _ = FILES[20]
    variables, _ = load_variables(_converted(real, tmp_path))
    with np.load(real / "reference" / f"resnet20-{digits}.npz") as stored:
        x, logits = stored["x"], stored["logits"]
    spec = get("cifar_resnet20")
    bn = variables["batch_stats"]["layer3_2"]["layer3_2_bn2"]
    run = jax.jit(lambda v, x: spec.chain().apply(v, x))
    scale = np.abs(logits).max()
    assert np.abs(run(variables, x) - logits).max() / scale < TOLERANCE
    bn["mean"] = bn["mean"] * 1.01
    assert np.abs(run(variables, x) - logits).max() / scale > TOLERANCE


def _converted(real, folder):
    dest = folder / "w.safetensors"
    main(["convert", str(real / "weights" / "torch" / "resnet20-12fca82f.th"), str(dest)])
    return dest
