"""The architecture: imports point one way, and what must be quick or small does not import torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cheaplip

PACKAGE = Path(cheaplip.__file__).parent
ORDER = [
    "errors",
    "norms",
    "quotient",
    "pairs",
    "ascent",
    "pool",
    "attacks",
    "robustness",
    "bounds",
    "regularizer",
    "discrepancy",
    "penalties",
    "losses",
    "models",
    "idx",
    "downloads",
    "data",
    "config",
    "tasks",
    "methods",
    "provenance",
    "progress",
    "runs",
    "clipping",
    "checkpoint",
    "training",
    "lightning",
    "sklearn",
    "assessment",
    "networks",
    "jobs",
    "report",
    "experiments",
    "demo",
    "settings",
    "cli",
    "__main__",
]
"""A module imports from those above it alone; a package counts as one module."""

WITHOUT_TORCH = {"errors", "discrepancy", "config", "progress", "runs", "report", "settings", "cli", "__main__"}
"""These do not import torch, nor anything that does, when they are imported."""


def home(path):
    """The name in `ORDER` of the module or package that a file belongs to."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(nodes, path):
    """The homes of what a file imports from the package, and the names of the packages from outside."""
    inside, outside = set(), set()
    here = ("cheaplip", *path.relative_to(PACKAGE).parent.parts)
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) + 1 - node.level] if node.level else ()
            full = ".".join([*base, *([node.module] if node.module else [])])
            # `from . import texts` names modules, `from .texts import x` names of a module
            names = [full] if node.module else [f"{full}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "cheaplip":
                inside.add(parts[1] if len(parts) > 1 else "__init__")
            else:
                outside.add(parts[0])
    return inside, outside


def sources():
    return sorted(path for path in PACKAGE.rglob("*.py") if home(path) != "__init__")


def on_import(tree):
    """The nodes that run when a module is imported: not those in functions or behind TYPE_CHECKING."""
    stack = list(tree.body)
    while stack:
        node = stack.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            stack += node.orelse
            continue
        yield node
        stack += list(ast.iter_child_nodes(node))


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    name = home(path)
    assert name in ORDER, f"give {name} its place in ORDER"
    inside, _ = imported(ast.walk(ast.parse(path.read_text())), path)
    allowed = {"errors", "runs"} if name == "report" else set(ORDER[: ORDER.index(name)])
    assert inside - {name} <= allowed, f"{path.name} imports {sorted(inside - {name} - allowed)} from below"


@pytest.mark.parametrize("path", [path for path in sources() if home(path) in WITHOUT_TORCH], ids=lambda path: path.name)
def test_modules_of_the_first_second_do_not_import_torch(path):
    inside, outside = imported(on_import(ast.parse(path.read_text())), path)
    assert not outside & {"torch", "accelerate", "safetensors", "sklearn"}
    assert inside - {home(path)} <= WITHOUT_TORCH


def test_the_parser_of_imports_sees_every_form():
    code = "import torch.nn\nfrom . import texts\nfrom ..runs import Run\nfrom .rows import Row\nimport cheaplip.data\nx = 1"
    inside, outside = imported(ast.walk(ast.parse(code)), PACKAGE / "report" / "page.py")
    assert inside == {"report", "runs", "data"}
    assert outside == {"torch"}
    quick = (
        "def f():\n    import torch\nif TYPE_CHECKING:\n    import numpy\ntry:\n    import rich\nexcept ImportError:\n    pass"
    )
    assert imported(on_import(ast.parse(quick)), PACKAGE / "cli.py") == (set(), {"rich"})


def run_python(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("arguments", [["-c", "import cheaplip; dir(cheaplip)"], ["-m", "cheaplip", "--help"]])
def test_importing_and_help_do_not_import_torch(arguments):
    done = run_python("-X", "importtime", *arguments)
    assert done.returncode == 0, done.stderr
    modules = [line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert "cheaplip" in modules
    assert not [module for module in modules if module.split(".")[0] in {"torch", "sklearn", "accelerate", "matplotlib"}]


def test_every_public_name_is_there_and_no_other():
    assert set(cheaplip.__all__) <= set(dir(cheaplip))
    for name in cheaplip.__all__:
        assert getattr(cheaplip, name).__module__.startswith("cheaplip.")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        cheaplip.nothing  # noqa: B018
