"""The multiplier certificate in training: a penalty on the upper end of the bracket.

The bound of `multipliers` is differentiable in the weights and in the multipliers, does not depend on the batch, and any
feasible multipliers give a bound. So the multipliers can follow the weights by a few steps of their own optimiser instead
of being searched anew. What is reported after training is the verified bound of `upper_bound`, never this one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedModuleError
from .chain import Layer
from .convolutions import Shape
from .graph import propagate
from .layers import Reshaping
from .multipliers import Chain, Slopes, multiplier_bound, proved_bound
from .search import search_multipliers
from .slopes import derivative, slope_interval

EXPECTED = "dense layers and activations in turn, for a certificate in training"
DO = "Train without certify, and bound the network afterwards."
SEARCH = 50
"""Iterations of the first search, at each of its stages."""
JUMP = 1.1
"""A bound that has grown by this factor since the last one may be near the edge of the feasible multipliers."""


class LearntCertificate:
    """An upper bound of Lip(f) with a graph to the parameters, whose multipliers learn alongside by Adam on log T.

    Call it for the bound, and `step` after the backward pass. Where the weights have moved so that the multipliers are
    infeasible, or nearly so (there the bound and, worse, its gradient grow without limit), the multipliers are scaled down
    to where the bound is best. With small enough ones every factorisation succeeds, so no training fails by it.

    Args:
        model: a chain of dense layers with activations between them; flattening and dropout do not count.
        shape: shape of one input, without the batch dimension.
        lr: of Adam.

    Raises:
        UnsupportedModuleError: another layer, by its name.

    Source: Fazlyab et al. 2019 for the bound; see `multipliers`.
    """

    def __init__(self, model: nn.Module, shape: Shape, *, lr: float = 0.01) -> None:
        self._dense, self._slopes = _structure(model, shape)
        self._lr = lr
        self._logs: list[Tensor] = []
        self._optimizer: torch.optim.Optimizer | None = None
        self._latest = math.inf

    def __call__(self) -> Tensor:
        """The bound, `()`, float64."""
        weights = self._weights()
        if len(self._logs) < len(self._slopes):
            self._optimizer = self._start(search_multipliers(self._chain(), iterations=SEARCH))
        bound = multiplier_bound(weights, self._logs, self._slopes)
        if not bound <= JUMP * self._latest:
            self._scale_down(weights)
            bound = multiplier_bound(weights, self._logs, self._slopes)
        self._latest = float(bound.detach())
        return bound

    def step(self) -> None:
        """Move the multipliers by the gradient that the backward pass has left at them."""
        if self._optimizer is None:
            return
        if all(log.grad is not None and log.grad.isfinite().all() for log in self._logs):
            self._optimizer.step()
        self._optimizer.zero_grad()

    @torch.no_grad()
    def proved(self) -> float | None:
        """What the multipliers prove of the weights as they are, checked as `upper_bound` does; None before the first call."""
        if not self._logs:
            return None
        self()  # brings them inside
        found = proved_bound(self._chain(), self._logs)
        return None if found is None else found[0]

    def state_dict(self) -> dict[str, Any]:
        """The multipliers and their optimiser."""
        optimizer = None if self._optimizer is None else self._optimizer.state_dict()
        return {"logs": [log.detach().clone() for log in self._logs], "optimizer": optimizer, "latest": self._latest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        if state["optimizer"] is not None:
            device = self._dense[0].weight.device
            self._optimizer = self._start([log.to(device) for log in state["logs"]])
            self._optimizer.load_state_dict(state["optimizer"])
            self._latest = state["latest"]

    @torch.no_grad()
    def _scale_down(self, weights: Sequence[Tensor]) -> None:
        """By exp(-shift) in the first layer, exp(-2 shift) in the second...: what a layer gives back, the next ones need."""
        best, least = 0.0, math.inf
        for shift in (0.0, *(0.01 * 2**k for k in range(17))):
            scaled = [log - i * shift for i, log in enumerate(self._logs, start=1)]
            bound = float(multiplier_bound(weights, scaled, self._slopes))
            if bound >= least < math.inf:
                break
            if bound < least:
                best, least = shift, bound
        for i, log in enumerate(self._logs, start=1):
            log -= i * best

    def _weights(self) -> list[Tensor]:
        return [layer.weight.double() for layer in self._dense]

    def _chain(self) -> Chain:
        weights = [weight.detach() for weight in self._weights()]
        return Chain(weights, self._slopes, [len(weight) for weight in weights[:-1]])

    def _start(self, logs: Sequence[Tensor]) -> torch.optim.Optimizer:
        self._logs = [log.detach().clone().requires_grad_() for log in logs]
        return torch.optim.Adam(self._logs, lr=self._lr)


def _structure(model: nn.Module, shape: Shape) -> tuple[list[nn.Linear], list[Slopes]]:
    """The dense layers and the slopes between them."""
    dense: list[nn.Linear] = []
    slopes: list[Slopes] = []
    for module, before, _ in propagate(model, shape, _no_branches).layers:
        if isinstance(module, Reshaping):
            continue
        if isinstance(module, nn.Linear) and len(before) == 1 and len(dense) == len(slopes):
            dense.append(module)
        elif derivative.dispatch(type(module)) is not derivative.dispatch(object) and len(dense) == len(slopes) + 1:
            low, high = slope_interval(module)
            slopes.append((low.to(dense[-1].weight.device), high.to(dense[-1].weight.device)))
        else:
            raise UnsupportedModuleError(EXPECTED, type(module).__name__, DO)
    if len(dense) != len(slopes) + 1:
        raise UnsupportedModuleError(EXPECTED, "an activation at the end", DO)
    return dense, slopes


def _no_branches(layers: Sequence[Layer]) -> float:
    raise UnsupportedModuleError(EXPECTED, "a network with branches", DO)
