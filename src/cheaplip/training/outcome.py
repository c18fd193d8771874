"""What comes of a training: its result, or the quantity that diverged."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn

from ..pairs.sets import PairSet
from ..provenance import provenance
from ..run_folder import SCHEMA
from .checkpoint import State
from .config import TrainConfig
from .task import Task


@dataclass(frozen=True)
class TrainResult:
    """What `fit` returns."""

    model: nn.Module  # trained, in evaluation mode, on the device it was trained on
    history: list[dict[str, Any]]  # one record an epoch, as in metrics.jsonl
    result: dict[str, Any]  # what result.json has of the training
    pairs: PairSet | None  # X_Lip as the ascent left it, for the method clip
    multipliers: list[Tensor]  # of the certificate, for `lipschitz_bracket`; none without


def not_finite(row: dict[str, Any], model: nn.Module) -> str | None:
    """What diverged, if anything."""
    if not math.isfinite(row["train_loss"]):
        return "the training loss"
    if row["lower_bound"] is not None and not math.isfinite(row["lower_bound"]):
        return "the lower bound of Lip(f)"
    return next((name for name, value in model.state_dict().items() if not value.isfinite().all()), None)


def result_of(state: State, task: Task, config: TrainConfig, accelerator: Accelerator, lower: float | None) -> dict[str, Any]:
    """What result.json has of the training."""
    name = "train_accuracy" if task.classification else "train_loss"
    measured, n = task.measure(state.model)
    return {
        "schema": SCHEMA,
        "method": config.method,
        "target": None if config.method == "standard" else config.target,
        "tolerance": None if config.method == "standard" else config.tolerance,
        "seed": config.seed,
        "lipschitz_target": config.lipschitz,
        "steered_to": state.kept["target"],
        "target_met": state.kept["target_met"],
        "epochs": state.epoch,
        "kept_epoch": state.kept["epoch"],
        "weight": state.kept["weight"],
        "skipped_steps": state.history[-1]["skipped_steps"],
        "pair_lower_bound": lower,
        "seconds": sum(row["seconds"] for row in state.history),
        name: measured,
        "samples": {name: n},
        "provenance": {**provenance(accelerator.device), "mixed_precision": accelerator.mixed_precision},
    }
