"""`LazyPenalty`: a penalty that is evaluated at every k-th step, and what its calls return in between."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .. import processes
from ..errors import InputError
from ..inference import Model, device_of, modules_of, parameters_of
from .held import HeldGradient, held_from, held_state
from .penalty import Penalty
from .usual import UsualNorm

LONGEST, RATE = 10.0, 0.2
"""A gradient that counts for several steps is shortened to so many times its usual length, an average at this rate. Without
that a training can run away: too long a step makes the network steeper, and the next gradient longer."""


class LazyPenalty(Penalty):
    """Every `interval`-th `step`, after the optimizer's step, turns to other samples and evaluates the penalty there.

    All calls until the next evaluation return its value with its gradient (see `held`). Without `hold`, the calls of the
    step that follows an evaluation return `interval` times it, and the others 0. With an interval above 1 a gradient of more
    than ten times the usual length is shortened to that; the value is left.

    A second call without a `step` between is a micro-batch of the same step where the parameters are the same, and where
    they are not, the closure of an optimizer such as LBFGS, whose steps are long: from then on the penalty is evaluated at
    every call, and every step turns to other samples.

    Args:
        model: f; evaluated in evaluation mode. Its modes, running statistics and the parameters' `.grad` stay as they were.
        interval: steps from one evaluation to the next.
        hold: hold the gradient between two evaluations.

    Raises:
        InputError: a model with batch normalisation that has no running statistics.
    """

    def __init__(self, model: Model, *, interval: int, hold: bool) -> None:
        _check_statistics(model)
        self.model, self.interval, self.hold = model, interval, hold
        self.calls = 0
        """Of `step`."""
        self.skipped = 0
        """Penalties that were not finite and therefore left out."""
        self._held: HeldGradient | None = None
        self._usual = UsualNorm(LONGEST, RATE)
        self._evaluated = False  # since the last turn; without a held gradient the penalty was not finite
        self._compared = False  # with what the other processes have
        self._called = False  # since the last step
        self._beside = False  # the graph of the user's own loss is there
        self._has_closure = False

    def _rows(self, most: int) -> int:
        """Pairs of inputs in a pass: it is at most as large as the user's own, and an eighth of it beside the graph of that."""
        return most if self.batch_size is None else max(1, self.batch_size // (16 if self._beside else 2))

    @abstractmethod
    def _turn(self) -> None:
        """Turn to what is evaluated next."""

    @abstractmethod
    def _evaluate(self) -> HeldGradient:
        """The penalty and its gradient, now."""

    def __call__(self) -> Tensor:
        """The penalty as it was last evaluated, `()`, with the gradient of that evaluation."""
        held = self._held
        self._has_closure = self._has_closure or (held is not None and held.moved() and self._called)
        if not self._evaluated or self._has_closure or (held is not None and held.is_elsewhere()):
            self._beside = True
            self._renew()
            self._beside = False
        self._called = True
        if self._held is None:
            return torch.zeros((), device=device_of(self.model))
        if self.hold or self._has_closure:
            return self._held.attached()
        return self._held.value.new_zeros(()) if self.calls % self.interval else self.interval * self._held.attached()

    def step(self) -> None:
        """If it is time, turn to what comes next and evaluate the penalty.

        This is after the optimizer's step, when the graph of the user's own loss is gone: its memory serves both.
        """
        self._called = False
        self.calls += 1
        if self.calls % self.interval == 0 or self._has_closure:
            self._turn()
            self._renew()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _renew(self) -> None:
        if not self._compared:
            self._compare()
            self._compared = True
        held = self._evaluate()
        norm = held.norm()
        self._evaluated = True
        self.latest, length = float(held.value), float(norm)
        self._held = held if math.isfinite(self.latest) and math.isfinite(length) else None
        if self._held is None:
            self.skipped, self.latest = self.skipped + 1, 0.0
        elif self.interval > 1 and not self._has_closure:  # whose line search compares values
            if length > (limit := float(self._usual.limit)):
                held.scale(limit / length)
            self._usual.learn(norm)

    def _compare(self) -> None:
        """`InputError` unless all processes have one network, and each of them all of it."""
        parameters = parameters_of(self.model)
        if any(hasattr(parameter, "device_mesh") for parameter in parameters):
            do = "Replicate it, with DistributedDataParallel; a penalty takes no sharded parameters."
            raise InputError("a network that every process has whole", "sharded parameters (FSDP, tensor parallel)", do)
        do = "Wrap it in DistributedDataParallel before the first step, or train without a process group."
        processes.require_same(parameters, "the same parameters", do)

    def metrics(self) -> dict[str, float | int | None]:
        """The penalties that were left out."""
        return {"skipped_steps": self.skipped}

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes during training, for a checkpoint."""
        held = {"held": held_state(self._held, self.model), "evaluated": self._evaluated, "has_closure": self._has_closure}
        return {"calls": self.calls, "skipped": self.skipped, **held, **self._usual.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.calls, self.skipped, self._has_closure = state["calls"], state["skipped"], state["has_closure"]
        self._held = held_from(state["held"], self.model)
        self._usual.load_state_dict(state)
        self.latest = 0.0 if self._held is None else float(self._held.value)
        self._evaluated = state["evaluated"] and (self._held is not None or state["held"] is None)


def _check_statistics(model: Model) -> None:
    """Refuse batch normalisation that has no running statistics: it mixes the samples, and there is no one function."""
    for module in (part for network in modules_of(model) for part in network.modules()):
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is None:
            do = "Use track_running_stats=True, or a normalisation of each sample such as GroupNorm."
            raise InputError("batch normalisation with running statistics", str(module), do)
