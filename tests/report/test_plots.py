import numpy as np
import pytest
from PIL import Image
from report_samples import history

from tlflax.report import canvas, plots
from tlflax.report import matrix as matrices
from tlflax.report.matrix import confusion
from tlflax.report.plots import chosen, curves


@pytest.fixture(autouse=True)
def coarse(request, monkeypatch):
    """A quarter of the dots: all but two pictures are looked at for their shape alone."""
    if request.node.name not in ("test_curves_with_stages[2]", "test_confusion_sizes[7]"):
        monkeypatch.setattr(canvas, "DPI", 50)


@pytest.fixture
def figures(monkeypatch):
    """What was drawn, as matplotlib has it."""
    found = []
    for module in (plots, matrices):
        real = module.save
        monkeypatch.setattr(
            module,
            "save",
            lambda figure, path, real=real: (found.append(figure), real(figure, path)),
        )
    return found


def _lines(ax):
    return {
        line.get_label(): line.get_xydata().tolist() for line in ax.get_legend_handles_labels()[0]
    }


def _size(path):
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        # A blank picture has one colour.
        assert len(image.convert("RGB").getcolors(1 << 24)) > 10
        return image.size


@pytest.mark.parametrize("stages", [1, 2, 5])
def test_curves_with_stages(tmp_path, figures, stages):
    names = [f"a rather long name of stage {i}" for i in range(stages)]
    rows, scratch = history([(name, 2) for name in names]), history([("scratch", 9)])
    curves(rows, scratch, tmp_path / "c.png", best_step=rows[-1]["step"])
    assert _size(tmp_path / "c.png")[0] == 7 * canvas.DPI
    top, bottom = figures[0].axes
    for ax, metric in ((top, "loss"), (bottom, "accuracy")):
        assert _lines(ax) == {
            "training": [[r["epoch"], r[f"train_{metric}"]] for r in rows],
            "validation": [[r["epoch"], r[f"val_{metric}"]] for r in rows],
            "validation, from scratch": [[r["epoch"], r[f"val_{metric}"]] for r in scratch],
            "chosen by validation": [[rows[-1]["epoch"], rows[-1][f"val_{metric}"]]],
        }
    assert sorted(t.get_text() for t in top.texts if t.get_text()) == names


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("rows", "losses", "accuracies"),
    [
        ([], {}, {}),
        ([{"stage": "head", "stage_index": 0, "step": 1, "epoch": 1.0}], {}, {}),
        (
            [{"stage": "head", "stage_index": 0, "step": 0, "epoch": 0.0, "val_accuracy": 1.0}],
            {},
            {"validation": [[0.0, 1.0]], "chosen by validation": [[0.0, 1.0]]},
        ),
        ([{"step": 3, "epoch": 0.2, "val_loss": None, "train_loss": float("nan")}], {}, {}),
        (
            [
                {"stage": "$a$", "stage_index": 0, "step": 1, "epoch": 1, "val_loss": 90.0},
                {"stage": "b", "stage_index": 1, "step": 2, "epoch": 2, "val_loss": np.float32(1)},
                {"stage": "b", "stage_index": 1, "step": 3, "epoch": 3, "val_loss": 0.1},
            ],
            {"validation": [[1, 90.0], [2, 1.0], [3, 0.1]]},
            {},
        ),
    ],
)
def test_curves_with_little(tmp_path, figures, rows, losses, accuracies):
    curves(rows, None, tmp_path / "c.png")
    _size(tmp_path / "c.png")
    for ax, lines in zip(figures[0].axes, (losses, accuracies), strict=True):
        assert _lines(ax) == lines
        assert ("not measured" in [t.get_text() for t in ax.texts]) == (not lines)


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
def test_confusion_sizes(tmp_path, figures, k):
    matrix = np.random.default_rng(0).integers(0, 5, (k, k))
    matrix[-1] = 0
    confusion(matrix, [f"class {i} $x$ \N{CJK UNIFIED IDEOGRAPH-732B}" for i in range(k)],
              tmp_path / "m.png")  # fmt: skip
    width, height = _size(tmp_path / "m.png")
    assert width == height <= 7 * canvas.DPI
    (ax,) = figures[0].axes
    shares = ax.images[0].get_array()
    np.testing.assert_allclose(shares[:-1], matrix[:-1] / matrix[:-1].sum(1, keepdims=True))
    assert shares.mask[-1].all() and not shares.mask[:-1].any()
    written = {tuple(t.xy) for t in ax.texts}
    some = {(j, i) for (i, j), n in np.ndenumerate(matrix) if n or k <= 12}
    assert written == (some if k <= 24 else set())
    assert f"({np.trace(matrix):,} of {matrix.sum():,})" in figures[0].get_suptitle()


def test_confusion_without_images(tmp_path, figures):
    confusion([[0, 0], [0, 0]], ["a", "b"], tmp_path / "m.png")
    assert _size(tmp_path / "m.png") and figures[0].get_suptitle() == "No labelled images"
    assert figures[0].axes[0].images[0].get_array().mask.all()


def test_confusion_refuses_another_number_of_names(tmp_path):
    with pytest.raises(ValueError, match="2 class names"):
        confusion(np.zeros((3, 3)), ["a", "b"], tmp_path / "m.png")
