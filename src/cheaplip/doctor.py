"""What this installation has: versions, device, threads, extras, data."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from .data.arrays import catalogue

EXTRAS = (
    "lightning",
    "transformers",
    "onnx",
    "onnxscript",
    "tensorboard",
    "wandb",
    "mlflow",
    "foolbox",
    "distributed",
    "cvxpy",
)
"""Packages that only some of the library needs."""


def examine(data_dir: Path | None = None) -> dict[str, Any]:
    """One record; what is not here is None."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return {
        "cheaplip": _installed("cheaplip"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": str(accelerator or "cpu"),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "extras": {name: _installed(name) for name in EXTRAS},
        "data": {entry.name: None if entry.where is None else str(entry.where) for entry in catalogue(data_dir)},
    }


def lines(found: dict[str, Any]) -> Iterator[str]:
    """The record to read."""
    for name, value in found.items():
        for inner, known in value.items() if isinstance(value, dict) else [("", value)]:
            yield f"{f'{name} {inner}'.strip():24} {'not here' if known is None else known}"


def _installed(name: str) -> str | None:
    try:
        return version(name) if find_spec(name) else None
    except PackageNotFoundError:
        return None
