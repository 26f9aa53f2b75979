"""Imports run one way, heavy packages stay where they belong, `--help` answers at once."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tlflax"


def imports(path):
    """Modules imported anywhere in a file; names of `from a import b` as ``a.b`` too."""
    tree = ast.parse(path.read_text(), str(path))
    typing_only = {
        id(n)
        for i in ast.walk(tree)
        if isinstance(i, ast.If) and ast.unparse(i.test) == "TYPE_CHECKING"
        for b in i.body
        for n in ast.walk(b)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            found |= {f"{node.module}.{a.name}" for a in node.names}
    return found


FILES = {p.relative_to(PACKAGE).as_posix(): imports(p) for p in PACKAGE.rglob("*.py")}


def offenders(where, package, allowed=()):
    """Files below `where` that import `package` and are not `allowed` to."""
    return [
        file
        for file, modules in FILES.items()
        if file.startswith(where)
        and not file.startswith(tuple(allowed))
        and any(m == package or m.startswith(f"{package}.") for m in modules)
    ]


def test_there_are_files_to_look_at():
    assert len(FILES) > 50 and "tlflax.errors" in FILES["zoo.py"]
    assert offenders("", "tlflax.errors") and offenders("train/", "jax")


# A folder, and the parts of the package it must not know (design: main -> run -> the rest).
@pytest.mark.parametrize(
    ("where", "never"),
    [
        ("backbones/", "convert policy train model heads data run main api features report"),
        ("ops/", "backbones convert policy train model data run main api"),
        ("convert/", "policy train model heads data run main api features evaluate report"),
        ("data/", "backbones convert policy train model heads run main api features"),
        ("policy/", "convert train model data run main api features evaluate report"),
        ("train/", "run main api report result predict"),
        ("features/", "run main api report result predict"),
        ("evaluate/", "run main api report result predict policy convert"),
        ("report/", "run main api train policy convert model backbones"),
        ("comparison/", "run main api study train policy backbones"),
        ("model.py", "train data run main api report evaluate"),
        ("heads.py", "convert policy train data run main api"),
        ("errors.py", "backbones convert policy train data run main api tree"),
        ("tree.py", "backbones convert policy train data run main api"),
    ],
)  # fmt: skip
def test_imports_run_one_way(where, never):
    assert any(f.startswith(where) for f in FILES)
    for part in never.split():
        assert (PACKAGE / part).is_dir() or (PACKAGE / f"{part}.py").is_file(), part
        assert offenders(where, f"tlflax.{part}") == [], f"{where} imports tlflax.{part}"


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("flax", ("backbones/", "heads.py", "model.py")),
        ("orbax", ("train/checkpoint.py",)),
        ("h5py", ("convert/",)),
        ("keras", ("convert/oracle_keras.py", "convert/oracle_graph.py", "export/")),
        ("tensorflow", ("convert/saved_model_process.py",)),
        ("torch", ("convert/oracle_torch.py",)),
        ("timm", ("convert/oracle_torch.py",)),
        ("torchvision", ("convert/oracle_torch.py",)),
    ],
)
def test_packages_stay_where_they_belong(package, allowed):
    assert offenders("", package, allowed) == []
    assert offenders("", package), f"nothing imports {package}: is its name right?"


def python(code):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


HEAVY = {"jax", "flax", "orbax", "optax", "grain", "keras", "matplotlib", "tensorflow", "sklearn"}


@pytest.mark.parametrize(
    "code",
    [
        "import tlflax",
        "import tlflax.zoo; tlflax.zoo.main(['zoo'])",
        "from tlflax.main import main; main(['main', '--help'])",
    ],
)
def test_light_imports(code):
    out = python(f"{code}\nimport sys; print('|', *(m for m in sys.modules if '.' not in m))")
    assert not HEAVY & set(out.rsplit("|", 1)[1].split())


COMMANDS = [
    f"tlflax.{p.stem if p.parent == PACKAGE else p.parent.name}"
    for p in [*PACKAGE.glob("*.py"), *PACKAGE.glob("*/__main__.py")]
    if '__name__ == "__main__"' in p.read_text()
]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(command):
    done = subprocess.run(
        [sys.executable, "-m", command, "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0 and command.split(".")[1] in done.stdout
    assert done.stderr == ""


def test_commands_are_all_found():
    assert {"tlflax.main", "tlflax.predict", "tlflax.convert", "tlflax.zoo"} <= set(COMMANDS)
