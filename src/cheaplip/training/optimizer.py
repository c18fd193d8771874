"""The optimizer of a run, by its name in torch.optim."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from ..errors import InputError, one_line, require_known
from .config import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer; momentum, which is on by default, is left away where the optimizer has none of that name.

    Raises:
        InputError: an unknown one, options that it does not take, or one that cannot take a step from dense gradients alone:
            LBFGS wants to call the loss itself, SparseAdam wants sparse gradients.
    """
    kinds = {name: kind for name, kind in vars(torch.optim).items() if isinstance(kind, type) and name != "Optimizer"}
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
        raise InputError(f"torch.optim.{config.optimizer} to take a step with these options", one_line(error), do) from None
    return optimizer
