import numpy as np
import pytest
from PIL import Image
from report_samples import history

from tlflax.report.matrix import confusion
from tlflax.report.plots import chosen, curves


def _size(path):
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        # A blank picture has one colour.
        assert len(image.convert("RGB").getcolors(1 << 24)) > 10
        return image.size


@pytest.mark.parametrize("stages", [1, 2, 5])
def test_curves_with_stages(tmp_path, stages):
    rows = history([(f"a rather long name of stage {i}", 2) for i in range(stages)])
    curves(rows, history([("scratch", 9)]), tmp_path / "c.png", best_step=rows[-1]["step"])
    assert _size(tmp_path / "c.png")[0] == 1400


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"stage": "head", "stage_index": 0, "step": 1, "epoch": 1.0}],
        [{"stage": "head", "stage_index": 0, "step": 0, "epoch": 0.0, "val_accuracy": 1.0}],
        [{"step": 3, "epoch": 0.2, "val_loss": None, "train_loss": float("nan")}],
        [
            {"stage": "$a$", "stage_index": 0, "step": 1, "epoch": 1, "val_loss": 90.0},
            {"stage": "b", "stage_index": 1, "step": 2, "epoch": 2, "val_loss": np.float32(0.1)},
            {"stage": "b", "stage_index": 1, "step": 3, "epoch": 3, "val_loss": 0.1},
        ],
    ],
)
def test_curves_with_little(tmp_path, rows):
    curves(rows, None, tmp_path / "c.png")
    _size(tmp_path / "c.png")


def test_chosen_is_the_best_step_and_not_the_last_maximum():
    rows = [{"step": 1, "val_accuracy": 0.5}, {"step": 2, "val_accuracy": 0.9}, {"step": 3}]
    assert chosen(rows, 1)["step"] == 1
    assert chosen(rows, None)["step"] == 2
    assert chosen(rows, 7) is None
    assert chosen([], None) is None


def test_marking_another_step_changes_the_picture(tmp_path):
    rows = history([("head", 6)])
    for step in (rows[0]["step"], rows[3]["step"]):
        curves(rows, None, tmp_path / f"{step}.png", best_step=step)
    first, second = sorted(tmp_path.iterdir())
    assert first.read_bytes() != second.read_bytes()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("k", [2, 7, 24, 102])
def test_confusion_sizes(tmp_path, k):
    matrix = np.random.default_rng(0).integers(0, 5, (k, k))
    matrix[-1] = 0
    confusion(matrix, [f"class {i} $x$ \N{CJK UNIFIED IDEOGRAPH-732B}" for i in range(k)],
              tmp_path / "m.png")  # fmt: skip
    width, height = _size(tmp_path / "m.png")
    assert width == height <= 1400


def test_confusion_without_images(tmp_path):
    confusion([[0, 0], [0, 0]], ["a", "b"], tmp_path / "m.png")
    assert (tmp_path / "m.png").stat().st_size


def test_confusion_refuses_another_number_of_names(tmp_path):
    with pytest.raises(ValueError, match="2 class names"):
        confusion(np.zeros((3, 3)), ["a", "b"], tmp_path / "m.png")
