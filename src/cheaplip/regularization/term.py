"""`PenaltyTerm`: weight * penalty as one term of a loss. `fit`, Lightning, Figure 2 and a loop of your own all use it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from .. import processes
from ..errors import InputError
from .penalty import ClipNorm, Penalty
from .scheduler import WeightScheduler

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""From outputs and y of a batch, its mean loss, `()`."""
PERIOD = 4
"""Steps between two updates of the weight towards a target constant."""


class PenaltyTerm:
    """The term lambda * penalty of equation (2), whose weight lambda a scheduler moves. Algorithm 2 of the CLIP paper.

    While the weight is 0 nothing is computed and no pair ascends. Until the scheduler's first update, the weight is capped
    so that the penalty costs at most its `first_share` of the loss of a constant network (see `DiscrepancyPrinciple.cap`).

    Args:
        penalty: such as a `LipschitzRegularizer`, a `LocalRegularizer`, or a `PenaltySum` of it and a `CertificateRegularizer`.
        scheduler: a `DiscrepancyPrinciple`, or a `ConstantWeight`.
        loss: yours, of outputs and y, if it is not the cross-entropy or the mean squared error. With floating y its value is
            the running one that the weight follows.

    Example:
        In a loop of your own::

            term = cheaplip.PenaltyTerm(cheaplip.LipschitzRegularizer(model, pairs), cheaplip.DiscrepancyPrinciple(0.95))
            for epoch in range(epochs):
                for x, y in loader:
                    outputs = model(x)
                    loss = criterion(outputs, y) + term(outputs, y)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    term.step()
                term.update_weight()
    """

    def __init__(self, penalty: Penalty, scheduler: WeightScheduler, *, loss: Loss | None = None) -> None:
        self.penalty, self.scheduler, self.loss = penalty, scheduler, loss
        self.running = RunningValue(loss)
        self.weight = scheduler.weight
        """The weight of the last call."""
        self._penalty_sum: Tensor | float = 0.0
        self._calls = 0  # with a weight, since the last `metrics`
        self._steps = 0

    def __call__(self, outputs: Tensor | None = None, y: Tensor | None = None, sample_weight: Tensor | None = None) -> Tensor:
        """The term to add to the loss, `()`; 0 while the weight is 0.

        Args:
            outputs: f(x) on the batch, `(n, classes, ...)` logits or `(n, *output)` values.
            y: `(n, ...)` integer labels, or `(n, *output)` floating values. Outputs and y show the running accuracy or mean
                squared error, from which `update_weight` moves the weight. Without them, give it a value of your own.
            sample_weight: `(n,)` >= 0, what each sample counts in that running value, as in your loss.

        Raises:
            InputError: y does not fit the quantity that the scheduler steers by, or what the penalty refuses.
        """
        if outputs is not None and y is not None:
            self._check_quantity(y)
            self.running.update(outputs.detach(), y, sample_weight)
        self.weight = self.scheduler.weight
        if self.weight == 0:
            return torch.zeros((), device=None if outputs is None else outputs.device)
        if outputs is not None:
            self.penalty.batch_size = len(outputs)
        penalty = self.penalty()
        if outputs is not None and y is not None and self._needs_cap():
            self.weight = self.scheduler.cap(
                self.penalty.first_share * constant_predictor_loss(outputs, y, self.loss) / self.penalty.latest
            )
        self._penalty_sum, self._calls = self._penalty_sum + penalty.detach(), self._calls + 1
        return self.weight * penalty

    def clip_gradients(self, clip_norm: ClipNorm = nn.utils.clip_grad_norm_) -> None:
        """After the backward pass: limit the gradients where the penalty needs that, as one with a certificate does."""
        if self.weight > 0:
            self.penalty.clip_gradients(clip_norm)

    def step(self) -> None:
        """After the optimizer's step: prepare the next penalty; for pairs, Algorithm 1.

        Towards a target constant the weight moves here, every `PERIOD`-th step: the penalty knows the constant, and a loss
        that has no least value, such as a critic's, runs away in an epoch.
        """
        if self.weight > 0:
            self.penalty.step()
        if self.scheduler.quantity == "lipschitz":
            self._steps += 1
            if self._steps % PERIOD == 0:
                self.scheduler.step(self._constant())

    def update_weight(self, value: float | None = None) -> None:
        """Move the weight by the discrepancy principle: after each epoch, or some 30 times in a run of fewer epochs.

        Args:
            value: the accuracy or loss to steer by, such as that on validation samples; by default the running accuracy or
                mean squared error since the last update. Of several processes the mean counts, and all call this. For a target
                constant nothing is left to do: `step` moves the weight.

        Raises:
            InputError: a value that is not finite, or none where the term has not seen outputs.
        """
        if self.scheduler.quantity == "lipschitz":
            return
        if value is None:
            value = self.running.value()
            self.running.reset()
        self.scheduler.step(value)

    def _constant(self) -> float:
        constant = self.penalty.constant()
        if constant is None:
            do = "Steer by accuracy or loss, or use a LipschitzRegularizer."
            raise InputError("a penalty that knows Lip(f)", type(self.penalty).__name__, do)
        return constant

    def metrics(self) -> dict[str, float | int | None]:
        """What to log: weight, mean penalty since the last call of `metrics`, bounds of Lip(f) now, skipped steps."""
        mean = float(self._penalty_sum) / self._calls if self._calls else None
        self._penalty_sum, self._calls = 0.0, 0
        unknown: dict[str, float | int | None] = {"lower_bound": None, "upper_bound": None, "skipped_steps": 0}
        return {"weight": self.weight, "penalty": mean, **unknown, **self.penalty.metrics()}

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes during training, for a checkpoint."""
        return {
            "penalty": self.penalty.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "running": self.running.state_dict(),
            "weight": self.weight,
            "steps": self._steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.penalty.load_state_dict(state["penalty"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.running.load_state_dict(state["running"])
        self.weight, self._steps = state["weight"], state["steps"]

    def _needs_cap(self) -> bool:
        return self.scheduler.is_capped and self.penalty.vanishes_on_constants and self.penalty.latest > 0

    def _check_quantity(self, y: Tensor) -> None:
        if self.scheduler.quantity not in (None, "lipschitz", "loss" if y.is_floating_point() else "accuracy"):
            do = 'Give integer labels, or DiscrepancyPrinciple(target, quantity="loss") for floating values.'
            raise InputError(f"y that fits a target {self.scheduler.quantity}", y.dtype, do)


class RunningValue:
    """The accuracy (integer y) or the loss (floating y) of all samples since the last reset.

    Args:
        loss: instead of the mean squared error.
    """

    def __init__(self, loss: Loss | None = None) -> None:
        self.loss = loss
        self.reset()

    def reset(self) -> None:
        """Forget all samples."""
        self.total: Tensor | float = 0  # stays on the device: reading a number every step would make a GPU wait
        self.samples: Tensor | float = 0

    def update(self, outputs: Tensor, y: Tensor, weights: Tensor | None = None) -> None:
        """Take note of one batch, of which each sample counts as much as its weight."""
        added: Tensor
        n: Tensor | int
        if y.is_floating_point() and weights is None:
            added, n = (self.loss or mse_loss)(outputs, y.to(outputs)).detach() * len(y), len(y)
        else:
            squares = y.is_floating_point()
            values = (outputs - y.to(outputs)).square().flatten(1).mean(1) if squares else outputs.argmax(1) == y
            added, n = weighed(values, weights)
        self.total, self.samples = self.total + added, self.samples + n

    def value(self) -> float:
        """The mean over all samples, of all processes."""
        if not isinstance(self.total, Tensor):
            do = "Call term(outputs, y) in the loop, or give update_weight a value."
            raise InputError("outputs and y of some batches to steer by", "none", do)
        total, samples = processes.total([float(self.total), float(self.samples)])
        return total / samples

    def collect(self) -> None:
        """Bring the totals of all processes to the first one, as a checkpoint of that one should have them."""
        if processes.count() > 1 and isinstance(self.total, Tensor):
            self.total, self.samples = processes.summed([self.total, torch.as_tensor(self.samples, device=self.total.device)])
            self._leave_to_the_first()

    def _leave_to_the_first(self) -> None:
        if processes.rank() > 0:
            self.total, self.samples = self.total * 0, self.samples * 0

    def state_dict(self) -> dict[str, Any]:
        """Total and number of samples."""
        return {"total": self.total, "samples": self.samples}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.total, self.samples = state["total"], state["samples"]
        self._leave_to_the_first()


def weighed(values: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor | int]:
    """The sum of some values `(n, ...)`, of each sample times its weight `(n,)`, and that of as many ones."""
    if weights is None:
        return values.sum(), values.numel()
    of_each = weights.reshape(-1, *[1] * (values.dim() - 1)).expand_as(values)
    return (values * of_each).sum(), of_each.sum()


def constant_predictor_loss(outputs: Tensor, y: Tensor, loss: Loss | None = None) -> float:
    """What the best constant would lose on the batch of all processes: log(number of classes), or the variance of y.

    By another loss, what the mean of the outputs loses.
    """
    if loss is not None:
        return processes.mean(float(loss(outputs.detach().mean(0).expand_as(outputs), y)))
    if not y.is_floating_point():
        return math.log(outputs.shape[1])
    if processes.count() == 1:
        return float(y.var(0, correction=0).mean())
    mean, n = y.mean(0), torch.full((), len(y), dtype=y.dtype, device=y.device)
    first, n_of_all = processes.summed([mean * n, n])
    (second,) = processes.summed([(y - first / n_of_all).square().sum(0)])
    return float((second / n_of_all).mean())
