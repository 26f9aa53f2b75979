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
# The first transfer scored 0.96 and more in every run seen; a broken one is near 0.1.
FLOOR = {"01_first_transfer": 0.9}


def test_there_are_notebooks():
    assert {path.stem for path in NOTEBOOKS} >= set(FLOOR)


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


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p.stem in FLOOR], ids=lambda p: p.stem)
def test_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    import nbformat
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    # A kernel of this very interpreter, whatever kernels are (not) installed for the user.
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

    notebook = nbformat.read(path, 4)
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
    (report,) = tmp_path.glob("tlflax-*/report.json")
    test = json.loads(report.read_text(encoding="utf-8"))["test"]
    assert test["n"] == 900 and test["accuracy"] > FLOOR[path.stem]
    printed = "".join(o.get("text", "") for o in outputs)
    assert f"{test['accuracy']:.4f}" in printed
    assert re.search(r"blok3_pool.*did you mean block3_pool", printed)
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 4  # training images, curves, confusion, predictions
