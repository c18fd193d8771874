"""The examples in the docstrings of the core are true."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import cheaplip

CORE = ["errors", "norms", "quotient", "pairs", "ascent", "regularizer", "discrepancy", "penalties", "attacks", "robustness"]
CORE += ["models", "runs", *(f"bounds.{module.name}" for module in pkgutil.iter_modules([f"{cheaplip.__path__[0]}/bounds"]))]


@pytest.mark.parametrize("name", CORE)
def test_docstring_examples(name):
    module = importlib.import_module(f"cheaplip.{name}")
    result = doctest.testmod(module, extraglobs={"torch": torch})
    assert result.failed == 0


def test_the_core_has_examples():
    finder = doctest.DocTestFinder()
    modules = [importlib.import_module(f"cheaplip.{name}") for name in ("norms", "quotient", "regularizer", "discrepancy")]
    assert all(any(test.examples for test in finder.find(module)) for module in modules)
