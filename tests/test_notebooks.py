"""The notebooks run from top to bottom, and each agrees with its paired script."""

import gc
import json
import os
import re
import sys
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# How many pictures each shows.
PICTURES = {
    "01_first_transfer": 5,  # training images, their versions, curves, confusion, predictions
    "02_where_to_cut": 4,  # training images, activations, two comparisons
    "03_your_own_keras_cnn": 1,  # curves
    "04_reading_a_report": 5,  # curves, confusion, reliability, mistakes, Grad-CAM
}


def test_there_are_notebooks():
    assert {path.stem for path in NOTEBOOKS} == set(PICTURES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_pair_agrees_and_outputs_are_stripped(path):
    import jupytext
    import nbformat

    notebook = nbformat.read(path, 4)
    script = jupytext.read(path.with_suffix(".py"))
    cells = [(c.cell_type, c.source) for c in notebook.cells]
    assert cells == [(c.cell_type, c.source) for c in script.cells]
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert code and not any(c.outputs or c.execution_count for c in code)


def reports(folder: Path) -> dict[str, dict]:
    """What the notebook's runs wrote, by the name of the run directory."""
    found = sorted(folder.glob("tlflax-*/**/report.json"))
    return {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in found}


def execute(stem: str, tmp_path: Path, monkeypatch) -> str:
    """Runs a notebook in a kernel of this very interpreter; returns what it printed."""
    import nbformat
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    # Whatever kernels are (not) installed for the user.
    folder = tmp_path / "kernels" / "python3"
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    fields = {"argv": command, "display_name": "tlflax test", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(fields), encoding="utf-8")
    specs = KernelSpecManager(kernel_dirs=[str(folder.parent)], ensure_native_kernel=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))

    notebook = nbformat.read(ROOT / "notebooks" / f"{stem}.ipynb", 4)
    client = NotebookClient(
        notebook,
        timeout=120,
        resources={"metadata": {"path": str(tmp_path)}},
        km=AsyncKernelManager(kernel_name="python3", kernel_spec_manager=specs),
    )
    client.execute()  # raises CellExecutionError with the cell's traceback
    del client
    with warnings.catch_warnings():
        # The client leaves a socket to the garbage collector, whose complaint would otherwise
        # fail whatever test is running when it comes.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == PICTURES[stem]
    shown = [o.get("text", "") + o.get("data", {}).get("text/plain", "") for o in outputs]
    return "".join(shown)


def test_first_transfer(tmp_path, monkeypatch):
    printed = execute("01_first_transfer", tmp_path, monkeypatch)
    (report,) = reports(tmp_path).values()
    # 0.96 and more in every run seen; a broken one is near 0.1.
    assert report["test"]["n"] == 900 and report["test"]["accuracy"] > 0.9
    assert f"{report['test']['accuracy']:.4f}" in printed
    assert re.search(r"blok3_pool.*did you mean block3_pool", printed)


def test_where_to_cut(tmp_path, monkeypatch):
    printed = execute("02_where_to_cut", tmp_path, monkeypatch)
    found = reports(tmp_path)
    assert set(found) == {
        "block1_pool", "block2_pool", "block3_relu1", "block3_pool", "head", "last", "upper", "all",
    }  # fmt: skip
    accuracy = {name: report["test"]["accuracy"] for name, report in found.items()}
    # Edges alone do not tell digits; what is trained with care is better than what is not.
    assert accuracy["block1_pool"] < accuracy["block3_pool"] - 0.1
    assert accuracy["all"] > accuracy["head"]
    validation = {n: found[n]["validation"]["accuracy"] for n in ("head", "last", "upper", "all")}
    chosen = re.findall(r"^test accuracy ([0-9.]+) \(", printed, re.MULTILINE)[-1]
    assert chosen == f"{accuracy[max(validation, key=validation.__getitem__)]:.4f}"


def test_your_own_keras_cnn(tmp_path, monkeypatch):
    printed = execute("03_your_own_keras_cnn", tmp_path, monkeypatch)
    report = reports(tmp_path)["shoes"]
    assert report["before"]["test"]["accuracy"] < 0.5 < report["test"]["accuracy"]
    said = {
        "before training": report["before"],
        "fine-tuned": report,
        "from random values": report["baseline"],
    }
    for name, scores in said.items():
        accuracy = f"{scores['test']['accuracy']:.3f}"
        assert re.search(rf"^{name} +{accuracy} ", printed, re.MULTILINE)
    assert "set preprocessing='unit'" in printed


def test_reading_a_report(tmp_path, monkeypatch):
    printed = execute("04_reading_a_report", tmp_path, monkeypatch)
    found = reports(tmp_path)
    assert set(found) == {"frozen", "tuned", "leaky"}
    assert f"validation {found['frozen']['validation']['accuracy']:.3f} (n=100)" in printed
    assert "anything from 74% to 99%" in printed
    assert "McNemar" in printed and "chosen on these images: no estimate" in printed
