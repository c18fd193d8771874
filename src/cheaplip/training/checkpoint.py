"""The state of a run as one record: saved after every epoch, so that a resumed run is the same run."""

from __future__ import annotations

import copy
import pickle
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import InputError, one_line
from ..regularization.term import PenaltyTerm
from ..run_folder import CHECKPOINT, METRICS, write_atomic, write_metrics
from .config import TrainConfig

STATEFUL = ("model", "optimizer", "lr_schedule", "term")
"""The fields of `State` that have a state of their own."""


@dataclass
class State:
    """Everything that changes during a run."""

    model: nn.Module
    optimizer: Any
    lr_schedule: Any
    term: PenaltyTerm
    history: list[dict[str, Any]] = field(default_factory=list)  # one record an epoch
    best: dict[str, Any] | None = None  # {score, epoch, model} of the weights to keep, for best-pgd

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)

    @property
    def kept(self) -> dict[str, Any]:
        """The record of the epoch whose weights are kept: the best, or the last."""
        record: dict[str, Any] = self.history[-1 if self.best is None else self.best["epoch"] - 1]
        return record

    def finish_epoch(self, row: dict[str, Any]) -> None:
        """Keep the epoch's record, and the weights if it is the best so far under eq. (14)."""
        self.history.append(row)
        score = row["validation_pgd_accuracy"]
        if score is not None and (self.best is None or score > self.best["score"]):
            self.best = {"score": score, "epoch": self.epoch, "model": copy.deepcopy(self.model.state_dict())}

    def state_dict(self) -> dict[str, Any]:
        """One record of plain data and tensors."""
        return {name: getattr(self, name).state_dict() for name in STATEFUL} | {"history": self.history, "best": self.best}

    def load_state_dict(self, record: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        for name in STATEFUL:
            getattr(self, name).load_state_dict(record[name])
        self.history, self.best = record["history"], record["best"]


def save(out: Path, state: State, config: TrainConfig) -> None:
    """Write checkpoint and `metrics.jsonl`."""
    record = {"config": config.model_dump(), **state.state_dict()}
    (out / CHECKPOINT).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out / CHECKPOINT, lambda path: torch.save(record, path))
    write_metrics(out / METRICS, state.history)


def restore_or_refuse(out: Path, state: State, config: TrainConfig, *, resume: bool) -> None:
    """Make sure that `out` holds no run yet; on `resume`, that it does, and load its checkpoint into `state`.

    Raises:
        InputError: a run where none may be, or none, a damaged one or another one where this one should be.
    """
    file, do = out / CHECKPOINT, "Start the run again, without resume, in another folder."
    if not resume:
        if file.exists():
            raise InputError("an output folder without a run in it", out, "Choose another one, or resume the run there.")
        return
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()  # torch.load does not check the checksums
        if damaged is not None:
            raise InputError(f"a checkpoint {file}", f"a damaged file, in {damaged}", do)
        record = torch.load(file, map_location="cpu", weights_only=True)
        theirs = record["config"]
    except (OSError, RuntimeError, LookupError, TypeError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise InputError(f"a checkpoint {file}", one_line(error), do) from None
    mine = config.model_dump()
    changed = sorted(name for name in mine | theirs if name not in mine or name not in theirs or theirs[name] != mine[name])
    if changed:
        do = "Resume with the settings that the run was started with."
        raise InputError("the settings of the interrupted run", f"other values of {', '.join(changed)}", do)
    try:
        state.load_state_dict(record)
    except InputError:
        raise
    except (RuntimeError, LookupError, ValueError) as error:
        raise InputError("the network of the interrupted run", one_line(error), "Resume with the same one.") from None
