"""Every benchmark can be imported: a name that has moved is noticed before a run of hours."""

import importlib.util
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
FOREIGN = ("deel", "eclipse_nn", "pyautoattack")
"""Packages of the peers that benchmarks compare with; who runs one installs them."""


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
def test_it_can_be_imported(path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)  # some use others
    for package in FOREIGN:
        if importlib.util.find_spec(package) is None:
            monkeypatch.setitem(sys.modules, package, MagicMock())
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    assert module.__doc__
