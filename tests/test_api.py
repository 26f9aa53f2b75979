import dataclasses
import json

import numpy as np
import pytest
import tiny
from tiny import coarse_pictures, quick_compilation  # noqa: F401

import tlflax as tl
from tlflax.errors import ConfigError, DataError, PolicyError


def classifier(**changes):
    fields = {"classes": 3, "weights": "none"} | changes
    return tl.classifier("glyph_cnn", **fields)


def photos(**changes):
    return tl.dataset(f"folder:{tiny.stripes()}", **({"image_size": 16} | changes))


def test_a_whole_run_and_the_same_workdir_again(tmp_path, capsys):
    stages = [
        tl.stage("head", epochs=1),
        tl.stage("tune", epochs=1, train={"block3": 0.1}, lr=1e-4),
    ]
    model = classifier(dropout=0.1)
    first = tl.fit(model, photos(), stages, workdir=tmp_path / "run", batch_size=16)
    assert first.results["data"]["class_names"] == list(tiny.CLASSES)
    assert [s["name"] for s in first.results["stages"]] == ["head", "tune"]
    # The dataset's size, because the classifier was given none.
    assert first.results["stages"][1]["policy"][2]["learning_rate"] == pytest.approx(1e-5)
    capsys.readouterr()
    second = tl.fit(model, photos(), stages, workdir=tmp_path / "run", batch_size=16)
    assert "is complete" in capsys.readouterr().out
    assert second.results == tl.Run.open(tmp_path / "run").results
    image = np.zeros((1, 40, 30, 3), np.uint8)
    np.testing.assert_array_equal(
        first.predict(image).probabilities, second.predict(image).probabilities
    )
    with pytest.raises(ConfigError, match="another config: seed \\(0 -> 1\\)"):
        tl.fit(model, photos(), stages, workdir=tmp_path / "run", batch_size=16, seed=1)
    # A run of a version that did not know these keys is still that run.
    path = tmp_path / "run" / "config.json"
    written = json.loads(path.read_text())
    assert (written.pop("look_at"), written.pop("grad_cam")) == ([], "auto")
    path.write_text(json.dumps(written))
    tl.fit(model, photos(), stages, workdir=tmp_path / "run", batch_size=16)
    with pytest.raises(ConfigError, match=r'another config: look_at \(\[\] -> \["block1"\]\)'):
        tl.fit(model, photos(), stages, workdir=tmp_path / "run", batch_size=16, look_at="block1")


def test_where_the_report_looks(tmp_path):
    run = tl.fit(
        classifier(), photos(), [tl.stage("head", epochs=1)], workdir=tmp_path / "run",
        batch_size=16, look_at=["block2_conv1", "block3"], grad_cam="block1",
    )  # fmt: skip
    assert run.results["grad_cam"] == {"endpoint": "block1_pool", "reason": None}
    assert run.results["activations"]["layers"] == ["block2_conv1", "block3_pool"]
    text = (tmp_path / "run" / "report.html").read_text()
    assert "<code>block2_conv1</code> 8 x 8 x 32" in text


def test_other_weights_are_another_run(tmp_path, capsys):
    run = tmp_path / "run"

    def fit(model):
        return tl.fit(model, photos(), [tl.stage("a", epochs=1)], workdir=run, batch_size=16)

    official = classifier(weights="official")
    assert official.weights is not None
    first = fit(official)
    sha256 = first.results["weights"]["sha256"]
    assert sha256 == official.weights.sha256
    other = classifier(weights="official")
    other.weights = dataclasses.replace(official.weights, sha256="0" * 64)
    config = json.loads((run / "config.json").read_text())
    # As earlier versions wrote it: what the run began with is in its report.
    del config["weights"]
    for written in ("with", "without"):
        if written == "without":
            (run / "config.json").write_text(json.dumps(config))
        with pytest.raises(ConfigError, match=rf'weights \("{sha256[:56]}... -> null'):
            fit(classifier())
        with pytest.raises(ConfigError, match=rf'weights \("{sha256[:56]}... -> "0000'):
            fit(other)
        capsys.readouterr()
        assert fit(official).results == json.loads((run / "report.json").read_text())
        assert "is complete" in capsys.readouterr().out
    # And one that was interrupted: its checkpoint knows.
    for name in ("report.json", "report.html"):
        (run / name).unlink()
    with pytest.raises(ConfigError, match="the pretrained weights have changed"):
        fit(classifier())
    assert fit(official).results["test"]


def test_image_size_is_the_classifiers_or_the_datasets():
    sized = classifier(image_size=24)
    assert sized.at(photos(), 16).architecture.image_size == 24
    assert classifier().at(photos(), 16).architecture.image_size == 16
    assert classifier().at(photos(image_size=0), 0).architecture.image_size == 32
    assert photos().image_size == 16


def test_mistakes(tmp_path):
    with pytest.raises(ConfigError, match="the classifier has 2 classes, the data 3"):
        tl.fit(classifier(classes=2), photos(), [tl.stage("a", epochs=1)], workdir=tmp_path / "r")
    with pytest.raises(ConfigError, match="classes must be a number of at least 2"):
        classifier(classes=1)
    with pytest.raises(ConfigError, match="did you mean epochs"):
        tl.stage("a", epochs=1, epoch=3)
    with pytest.raises(ConfigError, match="unknown endpoint"):
        classifier(endpoint="mixed7")
    with pytest.raises(DataError, match="does not exist"):
        tl.dataset("folder:nowhere")
    with pytest.raises(ConfigError, match="every stage has 0 epochs"):
        tl.fit(classifier(), photos(), [tl.stage("a", epochs=0)], workdir=tmp_path / "r")
    with pytest.raises(ConfigError, match="two stages"):
        tl.fit(classifier(), photos(), [tl.stage("a", epochs=1)] * 2, workdir=tmp_path / "r")
    assert not (tmp_path / "r").exists()
    with pytest.raises(PolicyError, match="did you mean block3"):
        tl.fit(classifier(), photos(), [tl.stage("a", epochs=1, train="blok3")])
    for wrong in ({"look_at": "blok3"}, {"grad_cam": "blok3"}):
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))}: .*did you mean block3"):
            tl.fit(
                classifier(), photos(), [tl.stage("a", epochs=1)], workdir=tmp_path / "r", **wrong
            )
    assert not (tmp_path / "r").exists()
    with pytest.raises(ConfigError, match="cache must be"):
        tl.fit(classifier(), photos(), [tl.stage("a", epochs=1)], cache="of")
    with pytest.raises(ConfigError, match="both of validation images, got 'train_accuracy'"):
        tl.fit(classifier(), photos(), [tl.stage("a", epochs=1)], select="train_accuracy")
    with pytest.raises(ConfigError, match="did you mean loss"):
        tl.fit(classifier(), photos(), [tl.stage("a", epochs=1)], select="los")
    with pytest.raises(ConfigError, match="batch_size"):
        tl.fit(classifier(), photos(), [tl.stage("a", epochs=1)], batch_size=0)


def test_names_and_summary(capsys):
    model = classifier(endpoint="block2_pool")
    assert model.endpoints() == ["block1_pool", "block2_pool"]
    model.summary(train="block2", lr=0.01)
    out = capsys.readouterr().out
    assert "block2_pool" in out and "0.01" in out and "Trainable params" in out


def test_a_run_on_unbalanced_classes(tmp_path, capsys):
    root = tiny.write_stripes(tmp_path / "few", {"train": 13, "val": 7, "test": 5})
    for split, first in (("train", 2), ("test", 3)):
        for path in sorted((root / split / "vertical").iterdir())[first:]:
            path.unlink()
    data, model = tl.dataset(f"folder:{root}", image_size=16), classifier()
    even = {"sampling": "balanced", "mixup": 0.2, "lr": 1e-4}
    stages = [tl.stage("plain", epochs=1), tl.stage("even", epochs=1, **even)]
    result = tl.fit(model, data, stages, workdir=tmp_path / "run", batch_size=16)
    first, second = result.results["stages"]
    assert (second["sampling"], second["mixup"]) == ("balanced", 0.2)
    assert "sampling" not in first and first["steps"] == second["steps"] == 2
    out = capsys.readouterr().out
    assert "stage even: 1 epochs, adam, lr 0.0001, mixup 0.2, sampling balanced" in out
    (unbalanced,) = (w for w in result.results["warnings"] if "unbalanced" in w)
    assert "'diagonal' has 13 images" in unbalanced and "'vertical' (2)" in unbalanced
    assert "stage 'plain'" in unbalanced and "even" not in unbalanced
    assert any("mixing of features" in w and "'even'" in w for w in result.results["warnings"])
    test = result.results["test"]
    recalls = [scores["recall"] for scores in test["per_class"].values()]
    assert test["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert "Balanced accuracy" in (tmp_path / "run" / "report.html").read_text()
    wrong = tl.stage("a", epochs=1, class_weights={"vertcal": 2.0})
    with pytest.raises(ConfigError, match="did you mean vertical"):
        tl.fit(model, data, [wrong], workdir=tmp_path / "wrong")
    cut = tl.stage("a", epochs=1, cutmix=1.0)
    with pytest.raises(PolicyError, match="cutmix needs pixels"):
        tl.fit(model, data, [cut], workdir=tmp_path / "wrong")
