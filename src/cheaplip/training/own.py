"""What a caller brings to `fit`: a loss, an optimizer, a schedule of the learning rate."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ..errors import InputError, one_line
from ..inference import forward_checked
from ..regularization.term import Loss

MakeOptimizer: TypeAlias = Callable[[Iterable[nn.Parameter]], Optimizer]
"""From the parameters."""
MakeSchedule: TypeAlias = Callable[[Optimizer, int], LRScheduler]
"""From the optimizer and the number of its steps in the whole run."""


@dataclass(frozen=True)
class Own:
    """What takes the place of settings; None, or a name, leaves it to them."""

    loss: Loss | None = None
    optimizer: str | Optimizer | MakeOptimizer | None = None
    schedule: str | MakeSchedule | None = None

    def options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options, with what is named here; `InputError` for those that belong to an optimizer of the caller's."""
        idle = sorted({"lr", "optimizer_options"} & options.keys())
        if idle and not isinstance(self.optimizer, str | None):
            raise InputError("an optimizer of your own, or its settings", f"{idle[0]} beside it", "Set it in the optimizer.")
        named = {"optimizer": self.optimizer, "schedule": self.schedule}
        return {**options, **{name: value for name, value in named.items() if isinstance(value, str)}}

    @property
    def names(self) -> dict[str, str]:
        """Of functions and objects, which a run folder cannot hold: a resumed run should have others of the same name."""
        brought = {"loss": self.loss, "optimizer": self.optimizer, "schedule": self.schedule}
        return {name: _name(what) for name, what in brought.items() if not isinstance(what, str | None)}


def _name(what: Any) -> str:
    what = what.func if isinstance(what, partial) else what
    return str(getattr(what, "__qualname__", type(what).__qualname__))


def _called(expected: str, function: Callable[..., Any], *given: Any) -> Any:
    try:
        return function(*given)
    except Exception as error:  # whatever the caller's function raises
        raise InputError(expected, f"{type(error).__name__}: {one_line(error)}", "Correct it.") from error


def require_loss(loss: Loss, model: nn.Module, x: Tensor, y: Tensor) -> None:
    """`InputError` unless the loss of some samples is one finite number that the parameters can lower."""
    with torch.enable_grad():
        value = _called("a loss of outputs and y", loss, forward_checked(model, x), y)
    if not isinstance(value, Tensor) or value.shape != () or not value.isfinite() or not value.requires_grad:
        got = f"{tuple(value.shape)}, {value.detach()}" if isinstance(value, Tensor) else type(value).__name__
        raise InputError("a loss that gives one finite number with a gradient", got, "Return the mean over the batch.")


def own_optimizer(model: nn.Module, brought: Optimizer | MakeOptimizer) -> Optimizer:
    """The optimizer that was built for the model, or that the function builds.

    Raises:
        InputError: something else, one of other parameters, or one that cannot take a step from dense gradients alone.
    """
    optimizer = brought
    if not isinstance(optimizer, Optimizer):
        optimizer = _called("a function of the parameters", optimizer, list(model.parameters()))
    if not isinstance(optimizer, Optimizer):
        do = "Give a function such as lambda parameters: torch.optim.SGD(parameters, lr=0.1)."
        raise InputError("a function that returns a torch.optim.Optimizer", type(optimizer).__name__, do)
    taken = inspect.signature(optimizer.step).parameters.values()
    asked = [one for one in taken if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    if asked or isinstance(optimizer, torch.optim.SparseAdam):
        do = "Choose one that neither calls the loss itself, as LBFGS does, nor needs sparse gradients."
        raise InputError("an optimizer that takes a step from dense gradients", type(optimizer).__name__, do)
    known = {id(parameter) for parameter in model.parameters()}
    if not all(id(parameter) in known for group in optimizer.param_groups for parameter in group["params"]):
        do = "Build it from model.parameters(), or give a function of the parameters."
        raise InputError("an optimizer of the parameters of this model", "one of others", do)
    return optimizer


def own_schedule(make: MakeSchedule, optimizer: Optimizer, steps: int) -> LRScheduler:
    """The schedule that the function makes; `InputError` for what is none, or needs more than the number of steps done."""
    schedule = _called("a function of the optimizer and the number of its steps", make, optimizer, steps)
    if not isinstance(schedule, LRScheduler) or isinstance(schedule, ReduceLROnPlateau) or schedule.optimizer is not optimizer:
        do = "Give a function such as lambda optimizer, steps: OneCycleLR(optimizer, 0.1, total_steps=steps)."
        raise InputError("a function that returns an LRScheduler of that optimizer, which needs no value", _name(schedule), do)
    return schedule
