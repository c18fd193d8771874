"""Who follows a training from epoch to epoch: the caller's own function, and trackers such as TensorBoard."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import torch
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from torch import nn

from .. import processes
from ..errors import InputError, TrackerWarning, one_line, require_known

Row = Mapping[str, Any]
AfterEpoch = Callable[[Row, nn.Module], bool | None]
"""Sees an epoch's record and the model; True ends the training there."""
Logger: TypeAlias = str | GeneralTracker
TRACKERS = ("tensorboard", "wandb", "mlflow")
PROJECT = "cheaplip"
"""What a tracker files the runs under; TensorBoard's folder in that of the run."""


def require_loggers(loggers: Sequence[Logger], out: Path | None) -> None:
    """`InputError` for an unknown tracker, one whose package is missing, and one that writes files without a folder."""
    for name in loggers:
        if isinstance(name, GeneralTracker):
            continue
        require_known("a tracker", name, TRACKERS)
        if find_spec(name) is None:
            raise InputError(f"the package {name}, to log to it", "none", f"pip install {name}.")
        if LOGGER_TYPE_TO_CLASS[name].requires_logging_directory and out is None:
            raise InputError(f"out, the folder in which {name} writes", "none", "Give it.")


def ends_after(after_epoch: AfterEpoch | None, row: Row, model: nn.Module) -> bool:
    """Whether the caller wants the training to end after this epoch; every process asks."""
    asked = after_epoch is not None and processes.rank() == 0 and bool(after_epoch(row, model))
    return processes.total([asked]) != [0]


@contextmanager
def logging_to(loggers: Sequence[Logger], settings: Mapping[str, Any], out: Path | None) -> Iterator[Callable[[Row], None]]:
    """Yields a function that gives an epoch's record to the trackers.

    Raises:
        InputError: a tracker that does not start.

    Warns:
        TrackerWarning: one that fails later, such as when its server is gone; it is told no more.
    """
    trackers = _started(loggers, settings, out) if loggers else []

    def each(act: Callable[[GeneralTracker], object]) -> None:
        for tracker in list(trackers):
            try:
                act(tracker)
            except Exception as error:  # of whatever kind: no network ends a training
                trackers.remove(tracker)
                said = f"{tracker.name} failed, and gets no more records: {type(error).__name__}: {one_line(error)}"
                warnings.warn(said, TrackerWarning, stacklevel=4)

    def log(row: Row) -> None:
        values = {name: value for name, value in row.items() if isinstance(value, (int, float))}
        each(lambda tracker: tracker.log(values, step=row["epoch"]))

    try:
        yield log
    finally:
        each(lambda tracker: tracker.finish())


def _started(loggers: Sequence[Logger], settings: Mapping[str, Any], out: Path | None) -> list[GeneralTracker]:
    """Trackers that know the settings; they act on the main process alone."""
    cpu = not torch.accelerator.is_available()
    accelerator = Accelerator(cpu=cpu, log_with=list(loggers), project_dir=None if out is None else str(out))
    try:
        accelerator.init_trackers(PROJECT, {name: _plain(value) for name, value in settings.items()})
    except Exception as error:  # of whatever kind: it is the tracker's
        do = "See what it asks for, or train without it."
        raise InputError("trackers that start", f"{type(error).__name__}: {one_line(error)}", do) from error
    found: list[GeneralTracker] = accelerator.trackers
    return found


def _plain(value: Any) -> bool | int | float | str:
    return value if isinstance(value, (bool, int, float, str)) else str(value)
