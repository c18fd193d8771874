"""The examples in the docstrings are true."""

import doctest
import importlib
from pathlib import Path

import pytest
import torch

import cheaplip
from support.imports import module, sources

PACKAGE = Path(cheaplip.__file__).parent
EXAMPLES = [f"cheaplip.{module(path, PACKAGE)}" for path in sources(PACKAGE) if ">>>" in path.read_text()]


@pytest.mark.parametrize("name", EXAMPLES)
def test_docstring_examples(name):
    result = doctest.testmod(importlib.import_module(name), extraglobs={"torch": torch})
    assert result.attempted > 0
    assert result.failed == 0


def test_the_core_has_examples():
    core = {"norms", "pairs.quotient", "regularization.regularizer", "regularization.discrepancy", "bounds.layers.activations"}
    assert {f"cheaplip.{name}" for name in core} <= set(EXAMPLES)
