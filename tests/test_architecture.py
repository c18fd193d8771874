"""The architecture: a folder for each question a reader has, imports one way, and what must be quick without torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cheaplip
from support.imports import arrows, circles, imported, module, on_import, room, sources

PACKAGE = Path(cheaplip.__file__).parent
ROOMS = {
    "errors": "what went wrong, what was expected, what to do",
    "provenance": "with which version, hardware and settings a number was made",
    "interrupts": "how a user ends a command",
    "progress": "what a user sees while something runs",
    "records": "how settings are given and refused",
    "arguments": "what a caller may give",
    "processes": "which processes train one network",
    "norms": "the norm of a sample",
    "domains": "on which inputs a statement holds",
    "inference": "how a model is called",
    "files": "how files are written and read",
    "run_folder": "the files of a run",
    "data": "which samples there are",
    "models": "which networks there are",
    "report": "what is shown",
    "pairs": "what is measured",
    "robustness": "what is attacked",
    "bounds": "what is proved",
    "regularization": "what is added to the loss",
    "training": "how a network is trained",
    "lightning": "training in a LightningModule",
    "transformers": "training by a transformers.Trainer",
    "sklearn": "training as a scikit-learn estimator",
    "runs": "what a run is",
    "experiments": "what the paper claims",
    "doctor": "what an installation has",
    "cli": "what a user types",
    "__main__": "python -m cheaplip",
}
"""A room imports only from the rooms above it."""

WITHOUT_TORCH = {"errors", "files", "interrupts", "progress", "run_folder", "records", "report", "cli", "__main__"}
WITHOUT_TORCH |= {"models.config", "training.config", "regularization.options", "runs.config"}
"""These rooms and modules do not import torch, nor anything that does, when they are imported."""


def is_quick(name):
    return name in WITHOUT_TORCH or name.split(".")[0] in WITHOUT_TORCH


@pytest.mark.parametrize("path", sources(PACKAGE), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    name = room(path, PACKAGE)
    assert name in ROOMS, f"give {name} its place in ROOMS, and a sentence"
    inside, _ = imported(ast.walk(ast.parse(path.read_text())), path, PACKAGE)
    order = list(ROOMS)
    allowed = {"errors", "files", "run_folder"} if name == "report" else set(order[: order.index(name)])
    below = {target for target in inside if target.split(".")[0] not in allowed | {name}}
    assert not below, f"{module(path, PACKAGE)} imports {sorted(below)} from below"


def test_no_circle_of_files():
    assert not circles(arrows(PACKAGE))


@pytest.mark.parametrize("path", [path for path in sources(PACKAGE) if is_quick(module(path, PACKAGE))], ids=str)
def test_what_is_imported_in_the_first_second_does_not_import_torch(path):
    inside, outside = imported(on_import(ast.parse(path.read_text())), path, PACKAGE)
    assert not outside & {"torch", "accelerate", "safetensors", "sklearn"}
    assert all(map(is_quick, inside))


def test_the_parser_of_imports_sees_every_form():
    code = (
        "import torch.nn\nfrom . import style\nfrom ..run_folder import Run\nfrom .style import x\nimport cheaplip.data\nx = 1"
    )
    inside, outside = imported(ast.walk(ast.parse(code)), PACKAGE / "report" / "page.py", PACKAGE)
    assert inside == {"report.style", "run_folder", "data"}
    assert outside == {"torch"}
    quick = (
        "def f():\n    import torch\nif TYPE_CHECKING:\n    import numpy\ntry:\n    import rich\nexcept ImportError:\n    pass"
    )
    assert imported(on_import(ast.parse(quick)), PACKAGE / "progress.py", PACKAGE) == (set(), {"rich"})


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]


def run_python(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=180)


@pytest.mark.parametrize("arguments", [["-c", "import cheaplip; dir(cheaplip)"], ["-m", "cheaplip", "--help"]])
def test_importing_and_help_do_not_import_torch(arguments):
    done = run_python("-X", "importtime", *arguments)
    assert done.returncode == 0, done.stderr
    modules = [line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert "cheaplip" in modules
    slow = {"torch", "sklearn", "accelerate", "matplotlib", "rich", "filelock"}
    assert not slow & {name.split(".")[0] for name in modules}


def test_every_public_name_is_there_and_no_other():
    assert set(cheaplip.__all__) <= set(dir(cheaplip))
    for name in cheaplip.__all__:
        public = getattr(cheaplip, name)
        assert getattr(public, "__module__", public.__name__).startswith("cheaplip.")
    with pytest.raises(AttributeError, match="nothing"):
        cheaplip.nothing  # noqa: B018
