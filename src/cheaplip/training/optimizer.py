"""The optimizer of a run by its name in torch.optim, and the schedule of its learning rate; or the caller's own."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from ..errors import InputError, one_line, require_known
from .config import TrainConfig
from .own import Own, own_optimizer, own_schedule
from .schedule import make_lr_schedule
from .stiefel_muon import StiefelMuon


def make_optimization(
    model: nn.Module, config: TrainConfig, own: Own, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """The optimizer and its schedule, which goes on at every step, for a run with `steps` steps an epoch."""
    brought = own.optimizer
    optimizer = make_optimizer(model, config) if isinstance(brought, str | None) else own_optimizer(model, brought)
    if isinstance(own.schedule, str | None):
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, make_lr_schedule(config, steps))
    return optimizer, own_schedule(own.schedule, optimizer, steps * config.epochs)


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer; momentum, which is on by default, is left away where the optimizer has none of that name.

    Raises:
        InputError: an unknown one, options that it does not take, or one that cannot take a step from dense gradients alone:
            LBFGS wants to call the loss itself, SparseAdam wants sparse gradients.
    """
    kinds = {name: kind for name, kind in vars(torch.optim).items() if isinstance(kind, type) and name != "Optimizer"}
    kinds |= {"StiefelMuon": StiefelMuon}
    require_known("optimizer", config.optimizer, kinds)
    kind: Any = kinds[config.optimizer]
    options = dict(config.optimizer_options)
    if options == TrainConfig.model_fields["optimizer_options"].default:
        options = {name: value for name, value in options.items() if name in inspect.signature(kind).parameters}
    trial = nn.Parameter(torch.zeros(1, 1))
    trial.grad = torch.ones(1, 1)
    try:
        kind([trial], lr=config.lr, **options).step()
        optimizer: torch.optim.Optimizer = kind(model.parameters(), lr=config.lr, **options)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        do = "Set lr and optimizer_options to what it takes, or choose another optimizer."
        raise InputError(f"{config.optimizer} to take a step with these options", one_line(error), do) from None
    return optimizer
