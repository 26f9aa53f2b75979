"""`python -m tlflax.convert`: what it writes, prints and compares."""

import jax
import numpy as np
import pytest
from keras_layout import draw_image, keras_arrays, write_h5

from tlflax.backbones.table import get
from tlflax.convert.__main__ import main, recognise
from tlflax.convert.tensors import load_variables, read_facts
from tlflax.errors import ConfigError, ConvertError

NAME = "mobilenet_v2_0.35"
LAYER = "block_1_expand"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    # A name that says nothing: the arrays alone tell the network.
    return write_h5(tmp_path_factory.mktemp("source") / "w.h5", keras_arrays(NAME), "mobl")


@pytest.fixture(scope="module")
def converted(source, tmp_path_factory):
    dest = tmp_path_factory.mktemp("dest") / "new" / "w.safetensors"
    main(["convert", str(source), str(dest)])
    return dest


@pytest.fixture(scope="module")
def reference(converted):
    """Outputs of the first blocks: enough for the comparison, quick to compile."""
    variables, _ = load_variables(converted)
    images = draw_image(32)
    run = jax.jit(lambda v, x: get(NAME).chain().apply(v, x, stop=LAYER))
    return {"x": images, LAYER: np.asarray(run(variables, images))}


def test_recognised_and_read_back(source, converted, tmp_path, capsys):
    facts = read_facts(converted)
    assert facts["backbone"] == NAME and facts["source"] == "w.h5" and facts["notes"] == []
    certificate = facts["certificate"]
    assert (certificate["method"], certificate["parameters"]) == ("layout", 410_208)
    assert "outputs not compared" in certificate["statement"]
    again = tmp_path / "again.safetensors"
    main(["convert", str(converted), str(again)])
    assert again.read_bytes() == converted.read_bytes()
    out = capsys.readouterr().out
    assert "mobilenet_v2_0.35: 410,208 parameters from w.h5" in out
    assert f"sha256 {facts['sha256']}" in out and "written: " in out


def test_reference_is_compared_and_kept(converted, reference, tmp_path, capsys):
    pooled = reference | {LAYER: reference[LAYER].mean(axis=(1, 2))}
    for stored in (reference, pooled):
        np.savez(tmp_path / "r.npz", **stored)
        dest = tmp_path / "w.safetensors"
        main(["convert", str(converted), str(dest), "--reference", str(tmp_path / "r.npz")])
        certificate = read_facts(dest)["certificate"]
        assert certificate["method"] == "reference" and certificate["first_diverging"] is None
        assert list(certificate["endpoints"]) == [LAYER]
        assert certificate["endpoints"][LAYER]["max_rel"] < 1e-5
        assert f"{LAYER}  " in capsys.readouterr().out


def wrong_number(stored):
    worse = stored[LAYER].copy()
    worse[0, 0, 0, 0] += 0.01 * np.abs(worse).max()
    return stored | {LAYER: worse}, f"differs from its reference first at {LAYER}"


def not_finite(stored):
    return stored | {LAYER: stored[LAYER] * np.nan}, f"first at {LAYER}: relative error nan"


def wrong_shape(stored):
    return stored | {LAYER: stored[LAYER][:, :3]}, f"reference of {LAYER} is"


def no_images(stored):
    return {LAYER: stored[LAYER]}, "needs an array 'x'"


def float_images(stored):
    return stored | {"x": stored["x"] / 255}, "RGB uint8"


def no_layer(stored):
    return {
        "x": stored["x"],
        "conv1": stored[LAYER],
    }, "names no layer of this network: it has conv1"


@pytest.mark.parametrize(
    "change", [wrong_number, not_finite, wrong_shape, no_images, float_images, no_layer]
)
def test_reference_that_does_not_agree_writes_nothing(change, converted, reference, tmp_path):
    stored, said = change(reference)
    np.savez(tmp_path / "r.npz", **stored)
    dest = tmp_path / "w.safetensors"
    with pytest.raises(ConvertError, match=said):
        main(["convert", str(converted), str(dest), "--reference", str(tmp_path / "r.npz")])
    assert not dest.exists()


@pytest.mark.parametrize("kind", ["absent", "text", "npy", "cut"])
def test_unreadable_reference(kind, converted, reference, tmp_path):
    path = tmp_path / "r.npz"
    if kind == "text":
        path.write_text("hello")
    elif kind == "npy":
        np.save(tmp_path / "r.npy", reference["x"])
        path = tmp_path / "r.npy"
    elif kind == "cut":
        np.savez(path, **reference)
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ConvertError, match="cannot read reference"):
        dest = str(tmp_path / "w.safetensors")
        main(["convert", str(converted), dest, "--reference", str(path)])


def test_fits_nothing_names_the_nearest(tmp_path):
    path = write_h5(tmp_path / "w.h5", keras_arrays(NAME) | {"Conv1": {}})
    with pytest.raises(ConvertError) as raised:
        recognise(path)
    assert "fits no network of the zoo; nearest mobilenet_v2_0.35" in str(raised.value)
    assert "params/Conv1_relu/Conv1/kernel" in str(raised.value)


def test_unknown_backbone_is_suggested(source, tmp_path):
    with pytest.raises(ConfigError, match=r"did you mean mobilenet_v2_0\.35"):
        main(["c", str(source), str(tmp_path / "w.safetensors"), "--backbone", "mobilenet_v2_0.3"])


def test_verify_needs_a_keras_file(converted, tmp_path):
    with pytest.raises(ConvertError, match="--verify needs the source's own file"):
        main(["convert", str(converted), str(tmp_path / "w.safetensors"), "--verify"])
