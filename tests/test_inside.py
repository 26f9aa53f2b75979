"""Looking inside a finished run, an opened model and an untrained classifier."""

import io
import json

import browser
import numpy as np
import pytest
import tiny
from PIL import Image
from tiny import quick_compilation  # noqa: F401

import tlflax as tl
from tlflax import run as runs
from tlflax.data.decode import decode_resized
from tlflax.data.pipeline import Images, train_batches
from tlflax.data.plan import TrainPlan
from tlflax.errors import ConfigError, DataError
from tlflax.evaluate.metrics import Predictions
from tlflax.exhibits import look_inside
from tlflax.look_at import where_to_look
from tlflax.model import Architecture, Model
from tlflax.picture import Picture
from tlflax.predict import Predictor
from tlflax.result import Run
from tlflax.train.streams import resize_rule

AUGMENT = "flip_crop(scale=0.5)"
PHOTOS = sorted((tiny.stripes() / "test").rglob("*.png"))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run with a baseline and augmentation, as it comes back and as it is opened."""
    folder = tmp_path_factory.mktemp("inside") / "run"
    config = {
        "data": f"folder:{tiny.stripes()}", "backbone": "glyph_cnn", "weights": "none",
        "image_size": 16, "batch_size": 16, "baseline": True, "baseline_epochs": 1,
        "stages": (
            {"name": "a", "epochs": 1, "lr": 3e-3},
            {"name": "b", "epochs": 2, "train": "block3", "lr": 3e-3, "augment": AUGMENT},
        ),
    }  # fmt: skip
    result = runs.run(config, folder)
    return result, folder


def shape_of(picture):
    with Image.open(io.BytesIO(picture._repr_png_())) as image:
        image.load()
        # A blank picture has one colour.
        assert len(image.convert("RGB").getcolors(1 << 24)) > 50
        return image.size


def test_an_opened_run_looks_inside_from_its_directory_alone(done):
    live, folder = done
    opened, predictor = Run.open(folder), Predictor.open(folder)
    layers = opened.layers()
    assert list(layers)[-1] == "block3_pool" and layers["block1_conv1"] == (16, 16, 16)
    one, other = (x.grad_cam(PHOTOS, "block2") for x in (live, opened))
    np.testing.assert_array_equal(one.heat, other.heat)
    assert one.heat.shape == (15, 4, 4) and one.heat.max() > 0
    found = opened.predict(PHOTOS)
    assert one.classes.tolist() == found.predicted.tolist()
    np.testing.assert_allclose(one.probabilities, found.probabilities, atol=1e-5)
    for name, values in opened.activations(PHOTOS[:2], ["block1", "auto"]).items():
        again = predictor.activations(PHOTOS[:2], name)
        np.testing.assert_array_equal(values, again[name])


def test_images_are_given_as_files_folders_and_arrays(done):
    run = done[0]
    photos = PHOTOS[-5:]
    assert photos[0].parent.name == "vertical"
    by_file = run.activations(photos)["block3_pool"]
    by_folder = run.activations(photos[0].parent)["block3_pool"]
    np.testing.assert_array_equal(by_file, by_folder)
    pixels = np.stack([np.asarray(Image.open(p)) for p in photos])
    np.testing.assert_array_equal(run.activations(pixels)["block3_pool"], by_file)
    asked = run.activations(photos, ["block1", "auto", "block3"])
    assert list(asked) == ["block1", "block3_pool", "block3"]
    np.testing.assert_array_equal(asked["block3_pool"], asked["block3"])
    with pytest.raises(DataError, match="uint8"):
        run.grad_cam(pixels / 255)


def test_pictures(done):
    run = Run.open(done[1])
    for picture in (run.reliability(), run.mistakes(), run.samples()):
        assert 300 < shape_of(picture)[0] <= 1400
    assert shape_of(run.show_grad_cam(PHOTOS[:3], "block2", "vertical"))[0] == 1400
    assert shape_of(run.show_activations(PHOTOS[0], ["block1_conv1", "block3"], channels=3))
    with pytest.raises(DataError, match="draws one image, got 2"):
        run.show_activations(PHOTOS[:2])
    with pytest.raises(ConfigError, match="channels must be"):
        run.show_activations(PHOTOS[0], channels=0)
    # Names are wrong before any image is read.
    for ask in (run.show_activations, run.activations, run.grad_cam, run.show_grad_cam):
        with pytest.raises(ConfigError, match="did you mean block3"):
            ask("nowhere.png", "blok3")


def test_pictures_that_are_not_there(done, tmp_path):
    run = done[0]
    (tmp_path / "report.json").write_text(json.dumps(run.results | {"calibration": None}))
    old = Run.open(tmp_path)
    with pytest.raises(ConfigError, match="an older version wrote it"):
        old.mistakes()
    with pytest.raises(ConfigError, match="no calibration"):
        old.reliability()
    (tmp_path / "pictures.json").write_text('{"mistakes": [], "samples": []}')
    with pytest.raises(ConfigError, match="nothing was wrong"):
        old.mistakes()


def test_an_untrained_classifier_has_activations_and_says_why_it_has_no_grad_cam(done):
    model = tl.classifier("glyph_cnn", classes=3, image_size=16)
    found = model.activations(PHOTOS[:2], ["block1", "block3_relu2"])
    assert {k: v.shape for k, v in found.items()} == {
        "block1": (2, 8, 8, 16), "block3_relu2": (2, 4, 4, 128),
    }  # fmt: skip
    # The pretrained values, not those of the run.
    assert abs(found["block1"] - done[0].activations(PHOTOS[:2], "block1")["block1"]).max() > 0.1
    for ask in (model.grad_cam, model.show_grad_cam):
        with pytest.raises(ConfigError, match="needs a trained head"):
            ask(PHOTOS[:2])


def test_what_the_report_shows(done):
    run, folder = done
    report, shown = run.results, json.loads((folder / "pictures.json").read_text())
    assert report["grad_cam"] == {"endpoint": "block3_pool", "reason": None}
    layers = ["block1_pool", "block2_pool", "block3_pool"]
    file = shown["activations"]["file"]
    assert report["activations"] == {"layers": layers, "reason": None, "file": file}
    assert [e["name"] for e in shown["activations"]["layers"]] == layers
    assert shape_of(Picture((folder / "activations.png").read_bytes()))[0] == 1400
    assert report["calibration"]["split"] == "test" and report["calibration"]["n"] == 15
    assert report["calibration"]["temperature"]["n"] == 21
    wrong = round(15 * (1 - report["test"]["accuracy"]))
    assert len(shown["mistakes"]) == min(12, wrong)
    looks = shown["looks"]
    assert [e["right"] for e in looks] == [False] * min(6, wrong) + [True] * min(6, 15 - wrong)
    by_file = {f: i for i, f in enumerate(run.predictions.files)}
    for entry in shown["mistakes"] + looks:
        i = by_file[entry["file"]]
        assert entry["probability"] == pytest.approx(run.predictions.confidence[i])
        assert entry["true"] == tiny.CLASSES[run.predictions.labels[i]]
        assert entry["true"] in entry["file"]
    assert [s["name"] for s in shown["samples"]] == list(tiny.CLASSES)
    assert all(len(s["pictures"]) == 6 for s in shown["samples"])
    # One preview for both users of one augmentation.
    assert [(p["augment"], p["stages"]) for p in shown["previews"]] == [(AUGMENT, ["b", "scratch"])]


def test_previews_are_what_training_sees():
    from tlflax.exhibits import previews

    data, model = tiny.data(), tiny.model()
    stages = tiny.stages({"augment": "none"}, {"augment": AUGMENT}, {"augment": AUGMENT})
    (found,) = previews(data.train, model, [(s, (0, i)) for i, s in enumerate(stages)])
    assert found.augment == AUGMENT and found.stages == ["s1", "s2"]
    from tlflax.data.augment import held_size, make_augment

    change = make_augment(AUGMENT, 16)
    images = Images(data.train, held_size(change, 16), resize_rule(model))
    plan = TrainPlan(len(data.train), 16, (0, 1))
    steps = 5 * plan.steps_per_epoch
    seen = {}
    for step, batch in enumerate(
        train_batches(images, data.train.labels, plan, change, 0, steps, threads=0)
    ):
        for i, pixels in zip(batch["index"].tolist(), batch["image"], strict=True):
            seen[i, step // plan.steps_per_epoch] = pixels
    originals = {
        decode_resized(data.train.read(i), "", 16, resize_rule(model)).tobytes(): i
        for i in range(len(data.train))
    }
    assert found.rows and all(len(row) > 1 for _, row in found.rows)
    for _, row in found.rows:
        i = originals[row[0].tobytes()]
        for epoch, version in enumerate(row[1:]):
            np.testing.assert_array_equal(version, seen[i, epoch])


def test_many_classes_share_the_samples():
    from tlflax.exhibits import samples

    train = tiny.data().train
    many = train.subset(np.arange(39))
    many.labels = np.arange(39, dtype=np.int32)
    found = samples(many, [f"c{i}" for i in range(39)])
    assert len(found) == 36 and {len(s.pictures) for s in found} == {1}
    assert found[0].name == "c0" and found[-1].name == "c38"


def test_no_map_no_grad_cam_and_the_report_says_why():
    model = Model(Architecture("vit_s16", "auto", tiny.CLASSES, 32))
    found = where_to_look(model)["grad_cam"]
    assert found["endpoint"] is None and "'cls_token' of vit_s16 has no map" in found["reason"]
    # No block has a map, but a layer has.
    assert where_to_look(model)["activations"]["layers"] == ["patch_embed_proj"]
    assert where_to_look(model, ("blocks_3", "auto"))["activations"] == {
        "layers": ["blocks_3", "cls_token"], "reason": None
    }  # fmt: skip


def test_the_layers_of_a_report_are_spread_over_the_network():
    def layers(backbone, endpoint="auto", size=64):
        model = Model(Architecture(backbone, endpoint, tiny.CLASSES, size))
        return where_to_look(model)["activations"]["layers"]

    assert layers("glyph_cnn", "block1_relu1") == ["block1_relu1"]
    first, middle, last = layers("vgg16")
    assert (first, last) == ("block1_conv1", "block5_pool") and middle.startswith("block3")
    first, middle, last = layers("mobilenet_v2_0.35", "block_6_expand")
    assert last == "block_6_expand"


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"look_at": ("blok3",)}, "look_at: unknown endpoint 'blok3'.*did you mean block3"),
        ({"look_at": (3,)}, "look_at: the name of a layer or block is a text, got 3"),
        ({"look_at": "block3"}, "look_at must be a tuple, got 'block3'"),
        ({"grad_cam": "blok3"}, "grad_cam: unknown endpoint 'blok3'.*did you mean block3"),
        ({"look_at": ("block3",), "endpoint": "block2_pool"}, "look_at: .*above the cut"),
    ],
)
def test_wrong_names_are_refused_before_images_are_read(keys, words, tmp_path):
    config = {
        "data": "folder:nowhere", "backbone": "glyph_cnn", "image_size": 16,
        "stages": ({"name": "a", "epochs": 1},),
    }  # fmt: skip
    with pytest.raises(ConfigError, match=words) as error:
        runs.run(config | keys, tmp_path / "run")
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("right", [True, False])
def test_outputs_of_layers_are_those_of_the_surest_answer(done, right):
    run, p = done[0], done[0].predictions
    if not right:
        p = Predictions(p.files, (p.predicted + 1) % 3, p.probabilities)
    test = tl.dataset(f"folder:{tiny.stripes()}").test
    model, variables = run._looked_at()
    names = ["block3_conv1", "block1"]
    looks, found = look_inside(model, variables, p, test, where_to_look(model, names))
    wanted = max(range(15), key=lambda i: (p.correct[i], p.confidence[i]))
    assert found.index == wanted and p.correct[wanted] == (right and p.correct.any())
    assert list(found.outputs) == ["block3_conv1", "block1_pool"]
    alone = run.activations(found.pixels[None], list(found.outputs))
    for name, values in found.outputs.items():
        np.testing.assert_allclose(values, alone[name][0], atol=1e-5)
    # Grad-CAM in the same pass is what it is alone, and nothing without it.
    cam = run.grad_cam(np.stack([look.pixels for look in looks]))
    np.testing.assert_allclose([look.heat for look in looks], cam.heat, rtol=1e-4, atol=1e-6)
    places = where_to_look(model, names) | {"grad_cam": {"endpoint": None, "reason": "no map"}}
    none, other = look_inside(model, variables, p, test, places)
    assert none == [] and other.index == wanted
    for name, values in found.outputs.items():
        np.testing.assert_allclose(other.outputs[name], values, atol=1e-5)


def test_the_finished_page_in_a_browser(done, tmp_path):
    run, folder = done
    seen = browser.look(folder / "report.html", tmp_path)
    assert browser.complaints(seen) == []
    # The file, in which what is not defined is null.
    written = json.loads((folder / "report.json").read_text())
    assert written["test"]["accuracy"] == run.results["test"]["accuracy"]
    assert browser.wrong_values(seen, written) == []
    assert len(seen.views[0]["values"]) > 130
