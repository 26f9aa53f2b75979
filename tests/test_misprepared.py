"""Another preprocessing than the weights': taken as it is, and said loudly."""

import numpy as np
import pytest
import tiny
from tiny import quick_compilation as quick_compilation

import tlflax as tl
from tlflax.backbones.table import ZOO
from tlflax.convert.own_contract import CONTRACTS, other_contract
from tlflax.convert.store import converted_files
from tlflax.errors import ConfigError
from tlflax.model import Architecture, Model
from tlflax.predict import Predictor


def model(backbone, preprocessing, size=0):
    return Model(Architecture(backbone, "auto", ("a", "b"), size, preprocessing=preprocessing))


# The tutorials' / 255, by network: what its weights need instead.
@pytest.mark.parametrize(
    ("backbone", "needs"),
    [
        ("vgg16", "BGR, x * 1 - (103.939, 116.779, 123.68)"),
        ("resnet50", "BGR, x * 1 - (103.939, 116.779, 123.68)"),
        ("mobilenet_v2_1.0", "RGB, x * 0.00784314 - (1, 1, 1)"),
        ("inception_v3", "RGB, x * 0.00784314 - (1, 1, 1)"),
        # In Keras it divides by 255 itself, so that / 255 before it is done twice.
        ("efficientnet_b0", "RGB, x * 0.00392157 - (0.485, 0.456, 0.406), / (0.229, 0.224, 0.225)"),
    ],
)
def test_a_255th_is_wrong_for_keras_networks(backbone, needs):
    found = model(backbone, "unit", 75)
    assert found.architecture.misprepared == (
        f"preprocessing='unit' gives {backbone} pixels as RGB, x * 0.00392157; its weights were "
        f"trained on {needs}: its features are not what they were trained to be; leave "
        "preprocessing out"
    )
    right = ZOO[backbone].contract
    # What the chain computes with, not only what it says; the resize rule is the weights' own.
    assert found.chain.contract == found.spec.contract
    assert found.spec.contract.scale == 1 / 255 and found.spec.contract.order == "RGB"
    assert found.spec.contract.antialias == right.antialias


def test_the_right_one_is_not_warned_of():
    assert model("vgg16", "caffe", 32).architecture.misprepared == ""
    assert model("mobilenet_v2_0.35", "tf", 32).architecture.misprepared == ""
    assert model("vgg16", "auto", 32).architecture.misprepared == ""


def test_the_same_arithmetic_in_other_words_is_the_same():
    # (x / 255 - 0.5) / 0.5 and x / 127.5 - 1.
    right = ZOO["vit_s16"].contract
    found = other_contract(right, "tf")
    assert found != right and found.same_pixels(right)
    for name in ("raw", "unit", "torch", "caffe"):
        assert not other_contract(right, name).same_pixels(right)
    # The network of a hub module has what the module does to pixels in 0..1 in its own contract.
    hub = ZOO["hub_resnet50_v2"].contract
    assert other_contract(hub, "tf").same_pixels(hub)


def test_every_network_takes_every_contract():
    for spec in ZOO.values():
        assert spec.options["contract"] == spec.contract, spec.name
        for name in CONTRACTS if spec.contract.order != "L" else ("raw", "unit", "tf"):
            found = other_contract(spec.contract, name)
            assert (found.method, found.fit) == (spec.contract.method, spec.contract.fit)
            wanted, channels = CONTRACTS[name], len(spec.contract.mean)
            assert (found.scale, found.mean) == (wanted.scale, wanted.mean[:channels])
            assert found.std == wanted.std[:channels]
            assert found.order == ("L" if spec.contract.order == "L" else wanted.order)


def test_mistakes():
    with pytest.raises(ConfigError, match="unknown preprocessing 'units'; did you mean unit"):
        model("vgg16", "units")
    with pytest.raises(ConfigError, match="is for colour images and the network takes grey ones"):
        model("glyph_cnn", "caffe")


def test_the_run_warns_and_predict_prepares_pixels_alike(tmp_path):
    stages = [tl.stage("head", epochs=1)]
    photos = tl.dataset(f"folder:{tiny.stripes()}", image_size=16)
    (path,) = converted_files(ZOO["glyph_cnn"])
    says = {"official": ["leave preprocessing out"], "none": [], str(path): ["statistics that"]}
    for i, (weights, words) in enumerate(says.items()):
        network = tl.classifier("glyph_cnn", classes=3, weights=weights, preprocessing="tf")
        run = tl.fit(network, photos, stages, workdir=tmp_path / str(i), batch_size=16)
        # Once: that the official weights' statistics do not fit either need not be said as well.
        # What a file of the user's was trained with, they alone know.
        found = [w for w in run.results["warnings"] if "preprocessing" in w]
        assert len(found) == len(words) and all(w in f for w, f in zip(words, found, strict=True))
    predictor = Predictor.open(tmp_path / "0")
    assert predictor.model.spec.contract.mean == (1.0,)
    p = predictor.predict([tiny.stripes() / "test"])
    right = (p.probabilities.argmax(1) == p.labels).mean()
    assert right == pytest.approx(run_accuracy(tmp_path / "0"))
    assert np.isfinite(p.probabilities).all()


def run_accuracy(folder):
    return tl.Run.open(folder).results["test"]["accuracy"]
