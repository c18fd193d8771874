"""The state of a run as one record: saved after every epoch, so that a resumed run is the same run."""

from __future__ import annotations

import copy
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import DamageWarning, InputError, one_line
from ..files import draft, sha256_of
from ..regularization.term import PenaltyTerm
from ..run_folder import CHECKPOINTS, METRICS, write_metrics

STATEFUL = ("model", "optimizer", "lr_schedule", "term")
"""The fields of `State` that have a state of their own."""
NAME = re.compile(r"\d{6,}-[0-9a-f]{64}\.pt")
"""Of a checkpoint: its epoch and the sha256 of its content."""


@dataclass
class State:
    """Everything that changes during a run."""

    model: nn.Module
    optimizer: Any
    lr_schedule: Any
    term: PenaltyTerm
    steps: int  # in an epoch
    history: list[dict[str, Any]] = field(default_factory=list)  # one record an epoch
    best: dict[str, Any] | None = None  # {score, epoch, model, multipliers} to keep, for best-pgd

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)

    @property
    def kept(self) -> dict[str, Any]:
        """The record of the epoch whose weights are kept: the best, or the last."""
        record: dict[str, Any] = self.history[-1 if self.best is None else self.best["epoch"] - 1]
        return record

    @property
    def multipliers(self) -> list[Tensor]:
        """Those of the certificate, of the weights to keep; none without a certificate."""
        found: list[Tensor] = self.term.penalty.multipliers() if self.best is None else self.best.get("multipliers", [])
        return found

    def finish_epoch(self, row: dict[str, Any]) -> None:
        """Keep the epoch's record, and the weights if it is the best so far under eq. (14)."""
        self.history.append(row)
        score = row["validation_pgd_accuracy"]
        if score is not None and (self.best is None or score > self.best["score"]):
            kept = {"model": copy.deepcopy(self.model.state_dict()), "multipliers": self.term.penalty.multipliers()}
            self.best = {"score": score, "epoch": self.epoch, **kept}

    def state_dict(self) -> dict[str, Any]:
        """One record of plain data and tensors."""
        return {name: getattr(self, name).state_dict() for name in STATEFUL} | {"history": self.history, "best": self.best}

    def load_state_dict(self, record: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        for name in STATEFUL:
            getattr(self, name).load_state_dict(record[name])
        self.history, self.best = record["history"], record["best"]


def save(out: Path, state: State, settings: Mapping[str, Any]) -> None:
    """Write the checkpoint and `metrics.jsonl`; the checkpoint before is kept, too, in case that this one is damaged."""
    record = {"config": dict(settings), "steps": state.steps, **state.state_dict()}
    folder = out / CHECKPOINTS
    folder.mkdir(exist_ok=True)
    before = [old for old in checkpoints(out) if _epoch(old) < state.epoch]
    for old in set(checkpoints(out)) - set(before[:1]):
        old.unlink()
    with draft(folder) as file:
        torch.save(record, cast(Any, file))
        file.publish(folder / f"{state.epoch:06}-{file.sha256}.pt")
    write_metrics(out / METRICS, state.history)


def checkpoints(out: Path) -> list[Path]:
    """The checkpoints in a run folder, the newest first."""
    files = [file for file in (out / CHECKPOINTS).glob("*.pt") if NAME.fullmatch(file.name)]
    return sorted(files, key=_epoch, reverse=True)


def _epoch(file: Path) -> int:
    return int(file.name.partition("-")[0])


def restore_or_refuse(out: Path, state: State, settings: Mapping[str, Any], *, resume: bool) -> None:
    """Make sure that `out` holds no run yet; on `resume`, that it does, and load its last good checkpoint into `state`.

    Raises:
        InputError: a run where none may be, or none, only damaged ones or another one where this one should be.

    Warns:
        DamageWarning: the last checkpoint is damaged, and the one before it is taken.
    """
    files, do = checkpoints(out), "Start the run again, without resume, in another folder."
    if not resume:
        if files:
            raise InputError("an output folder without a run in it", out, "Choose another one, or resume the run there.")
        return
    if not files:
        raise InputError(f"a checkpoint in {out / CHECKPOINTS}", "none", do)
    problems = []
    for file in files:
        try:
            record = _read(file)
            break
        except (OSError, RuntimeError, ValueError, LookupError, TypeError, EOFError, pickle.UnpicklingError) as error:
            problems.append(f"{file.name}: {one_line(error)}")
    else:
        raise InputError(f"a checkpoint in {out / CHECKPOINTS}", "; ".join(problems), do)
    for problem in problems:
        warnings.warn(f"a damaged checkpoint, {problem}; the one before it is taken", DamageWarning, stacklevel=4)
    mine, theirs = dict(settings), record["config"]
    changed = sorted(name for name in mine | theirs if name not in mine or name not in theirs or theirs[name] != mine[name])
    if changed:
        do = "Resume with the settings that the run was started with."
        raise InputError("the settings of the interrupted run", f"other values of {', '.join(changed)}", do)
    try:
        state.load_state_dict(record)
    except InputError:
        raise
    except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise InputError("the network of the interrupted run", one_line(error), "Resume with the same one.") from None
    if record["steps"] != state.steps:
        do = "Resume with the same data, and with the same gradient accumulation."
        raise InputError(f"{record['steps']} steps in an epoch, as in the interrupted run", state.steps, do)


def _read(file: Path) -> dict[str, Any]:
    """The record in a checkpoint; an error if it is not what was written, or holds more than data."""
    if sha256_of(file) != file.stem.partition("-")[2]:
        raise ValueError("other content than was written")
    record = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(record, dict) or not isinstance(record["config"], dict):
        raise ValueError("no record of a run")
    return record
