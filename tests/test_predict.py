import csv
import json
import shutil

import numpy as np
import pytest
import tiny
from PIL import Image
from tiny import coarse_pictures, quick_compilation  # noqa: F401

from tlflax import predict
from tlflax import run as runs
from tlflax.errors import ConfigError, ConvertError, DataError
from tlflax.result import Run


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """A finished run, moved, its dataset gone; and the test images."""
    root = tmp_path_factory.mktemp("predict")
    shutil.copytree(tiny.stripes(), root / "data")
    config = {
        "data": f"folder:{root / 'data'}", "backbone": "glyph_cnn", "weights": "none",
        "image_size": 16, "batch_size": 16, "seed": 3,
        "stages": ({"name": "a", "epochs": 4, "train": "block3", "lr": 3e-3, "bn": "train"},),
    }  # fmt: skip
    runs.run(config, root / "made")
    (root / "made").rename(root / "elsewhere")
    (root / "data" / "test").rename(root / "photos")
    shutil.rmtree(root / "data")
    return root / "elsewhere", root / "photos"


def test_accuracy_equals_the_reports(moved, tmp_path, capsys):
    run_dir, photos = moved
    predict.main(["predict", str(run_dir), str(photos), "--out", str(tmp_path / "p.csv")])
    out = capsys.readouterr().out
    report = json.loads((run_dir / "report.json").read_text())
    assert f"accuracy {report['test']['accuracy']:.4f}" in out
    assert "n=15)" in out
    with open(tmp_path / "p.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "label", "predicted", "probability", "correct"]
    with open(run_dir / "predictions.csv", newline="") as file:
        known = {r["file"].removeprefix("test/"): r for r in csv.DictReader(file)}
    assert len(rows) == len(known) == 15
    for row in rows:
        other = known[row["file"].split("photos/")[1]]
        assert (row["label"], row["predicted"]) == (other["label"], other["predicted"])
        assert float(row["probability"]) == pytest.approx(float(other["probability"]), abs=1e-4)
        assert 1 / 3 <= float(row["probability"]) <= 1


def test_files_folders_and_arrays_agree(moved):
    run = Run.open(moved[0])
    files = sorted((moved[1] / "vertical").iterdir())
    by_path = run.predict(files)
    assert by_path.files == [str(f) for f in files]
    assert by_path.labels.tolist() == [2] * 5  # the parent folder is a class
    by_folder = run.predict(moved[1] / "vertical")
    np.testing.assert_array_equal(by_folder.probabilities, by_path.probabilities)
    pixels = np.stack([np.asarray(Image.open(f)) for f in files])
    by_array = run.predict(pixels)
    np.testing.assert_array_equal(by_array.probabilities, by_path.probabilities)
    assert by_array.labels.tolist() == [-1] * 5
    one = run.predict(pixels[0])
    assert one.files == ["0"]
    # Another batch shape: other vector code in the convolutions.
    np.testing.assert_allclose(one.probabilities[0], by_array.probabilities[0], atol=1e-5)
    np.testing.assert_allclose(by_path.probabilities.sum(1), 1, atol=1e-5)


def test_a_csv_that_cannot_be_written_is_one_line(moved, tmp_path, monkeypatch):
    def refused(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tlflax.evaluate.metrics.replacing", refused)
    with pytest.raises(ConfigError, match=r"p\.csv cannot be written: Permission denied"):
        predict.main(["p", str(moved[0]), str(moved[1]), "--out", str(tmp_path / "p.csv")])


def test_pillow_images_are_what_their_files_are(moved, tmp_path):
    run, files = Run.open(moved[0]), sorted((moved[1] / "vertical").iterdir())
    with Image.open(files[0]) as image:
        turned, exif = image.resize((30, 20)), Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    turned.convert("L").save(tmp_path / "grey.png")
    turned.quantize(16).save(tmp_path / "palette.png", transparency=3)
    files += sorted(tmp_path.iterdir())
    images = [Image.open(file) for file in files]
    by_image, by_file = run.predict(images), run.predict(files)
    np.testing.assert_array_equal(by_image.probabilities, by_file.probabilities)
    assert by_image.files == [str(i) for i in range(8)] and set(by_image.labels) == {-1}
    one = run.predict(images[0])
    np.testing.assert_allclose(one.probabilities, by_file.probabilities[:1], atol=1e-5)
    run.show_grad_cam(images[0])
    for image in images:
        image.close()
    with pytest.raises(DataError, match="image 0: "):
        run.predict(Image.open(files[0]).convert("F"))


def test_folder_that_is_no_class_has_no_labels(moved, tmp_path, capsys):
    shutil.copytree(moved[1] / "vertical", tmp_path / "holiday")
    found = Run.open(moved[0]).predict([tmp_path / "holiday"])
    assert found.labels.tolist() == [-1] * 5
    predict.main(["p", str(moved[0]), str(tmp_path / "holiday"), "--out", str(tmp_path / "o.csv")])
    assert "accuracy" not in capsys.readouterr().out


def test_hidden_files_and_folders_are_left_out(moved, tmp_path):
    folder = tmp_path / ".photos"  # what was named is taken, whatever it is called
    shutil.copytree(moved[1] / "vertical", folder / "vertical")
    for name in ("vertical/._000.png", "__MACOSX/vertical/._000.png", ".thumbs/000.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\0\5\26\7 no picture")
    (folder / "folder.png").mkdir()
    found = Run.open(moved[0]).predict(folder)
    assert found.files == [str(folder / "vertical" / f"{i:03}.png") for i in range(5)]
    with pytest.raises(DataError, match="no images"):
        Run.open(moved[0]).predict(folder / "__MACOSX" / "vertical")
    # What leads nowhere is no image, and is said.
    (folder / "vertical" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match=r"gone\.png: No such file"):
        Run.open(moved[0]).predict(folder)
    with pytest.raises(DataError, match=r"\._000\.png"):
        Run.open(moved[0]).predict(folder / "vertical" / "._000.png")


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((2, 20, 20, 3), np.float32), "must be uint8 in 0..255, got float32 in 0..0"),
        (np.full((2, 20, 20, 3), 0.5), "got float64 in 0.5..0.5"),
        (np.zeros((2, 20, 20, 1), np.uint8), "RGB"),
        (np.zeros((20, 20), np.uint8), "RGB"),
        (np.zeros((0, 20, 20, 3), np.uint8), "RGB"),
        (np.uint8(3), "RGB"),
        ([np.zeros((20, 20, 3), np.uint8)], "a list with a ndarray"),
        (["x.png", Image.new("RGB", (20, 20))], "a list with a Image"),
        (7, "Pillow images, or paths of files and folders, got a int"),
        ("nowhere", "nowhere does not exist"),
        ([], "paths of files and folders, got none"),
    ],
)
def test_refused(moved, images, words):
    with pytest.raises(DataError, match=words):
        Run.open(moved[0]).predict(images)


def test_unreadable_images(moved, tmp_path):
    shutil.copytree(moved[1] / "vertical", tmp_path / "vertical")
    (tmp_path / "vertical" / "bad.png").write_text("no picture")
    predictor = predict.Predictor.open(moved[0])
    with pytest.raises(DataError, match=r"bad\.png"):
        predictor.predict(tmp_path)
    found = predictor.predict(tmp_path, on_bad_image="skip")
    assert len(found.files) == 5
    assert "bad.png" in predictor.skipped[0]


def test_open_refuses_what_is_no_run(moved, tmp_path):
    with pytest.raises(ConfigError, match="no finished run"):
        Run.open(tmp_path)
    with pytest.raises(ConfigError, match="finished run"):
        predict.Predictor.open(tmp_path)
    whole = (moved[0] / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(ConvertError, match=r"model\.safetensors"):
        predict.Predictor.open(tmp_path)


def test_an_opened_run_reports_and_draws(moved, capsys):
    run = Run.open(moved[0])
    assert run.report() == json.loads((moved[0] / "report.json").read_text())
    assert "test accuracy" in capsys.readouterr().out
    for picture in (run.plot(), run.confusion()):
        assert picture._repr_png_().startswith(b"\x89PNG")
    assert [r["step"] for r in run.history] == [3, 6, 9, 12]
