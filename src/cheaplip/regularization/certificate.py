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

from ..bounds.graph import propagate
from ..bounds.layers.constants import layer_norm
from ..bounds.layers.layer import Layer, Shape
from ..bounds.multipliers.certificate import Chain, proved_bound
from ..bounds.multipliers.chain import make_chain
from ..bounds.multipliers.gradient import bound_with_gradient
from ..bounds.multipliers.search import search_multipliers
from ..errors import UnsupportedModuleError

EXPECTED = "a chain of layers with multipliers, for a certificate in training"
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

    Dense layers have a multiplier for each neuron, convolutions one a channel (see `chain`); a dense layer of n rows costs
    some n^3 operations a call, in float64.

    Args:
        model: a network without branches, of layers with a rule.
        shape: shape of one input, without the batch dimension.
        lr: of Adam.

    Raises:
        UnsupportedModuleError: another layer, by its name.

    Source: Fazlyab et al. 2019 for the bound; see `multipliers`.
    """

    def __init__(self, model: nn.Module, shape: Shape, *, lr: float = 0.01) -> None:
        self._layers = propagate(model, shape, _no_branches).layers
        for module, before, _ in self._layers:
            layer_norm(module, before)  # or refuse its settings
        self._lr = lr
        self._logs: list[Tensor] = []
        self._optimizer: torch.optim.Optimizer | None = None
        self._latest = math.inf
        with torch.enable_grad():
            self._refuse_unseen(self._chain())

    def __call__(self) -> Tensor:
        """The bound, `()`, float64."""
        chain = self._chain()
        if len(self._logs) < len(chain.slopes):
            with torch.no_grad():
                self._optimizer = self._start(search_multipliers(self._chain(), iterations=SEARCH))
        bound = self._bound(chain)
        if not bound <= JUMP * self._latest:
            self._scale_down(chain)
            bound = self._bound(chain)
        self._latest = float(bound.detach())
        return bound

    def step(self) -> None:
        """Move the multipliers by the gradient that the backward pass has left at them."""
        gradients = [log.grad for log in self._logs if log.grad is not None]
        if self._optimizer is None or not gradients:
            return
        if all(gradient.isfinite().all() for gradient in gradients):
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
            device = self._chain().weights[0].device
            self._optimizer = self._start([log.to(device) for log in state["logs"]])
            self._optimizer.load_state_dict(state["optimizer"])
            self._latest = state["latest"]

    def _chain(self) -> Chain:
        chain = make_chain(self._layers)
        if chain is None:
            raise UnsupportedModuleError(EXPECTED, "one whose matrices are too large", DO)
        return chain

    def _bound(self, chain: Chain) -> Tensor:
        bound, used = bound_with_gradient(chain, self._logs)
        if bound.isfinite():
            for log, new in zip(self._logs, used, strict=True):
                log.data = new
        return bound

    @torch.no_grad()
    def _scale_down(self, chain: Chain) -> None:
        """By exp(-shift) in the first layer, exp(-2 shift) in the second...: what a layer gives back, the next ones need."""
        best, least = 0.0, math.inf
        for shift in (0.0, *(0.01 * 2**k for k in range(17))):
            scaled = [log - i * shift for i, log in enumerate(self._logs, start=1)]
            bound = float(bound_with_gradient(chain, scaled)[0])
            if bound >= least < math.inf:
                break
            if bound < least:
                best, least = shift, bound
        for i, log in enumerate(self._logs, start=1):
            log -= i * best

    def _start(self, logs: Sequence[Tensor]) -> torch.optim.Optimizer:
        self._logs = [log.detach().clone().requires_grad_() for log in logs]
        return torch.optim.Adam(self._logs, lr=self._lr, fused=True)  # a few small tensors: launching is all it costs

    def _refuse_unseen(self, chain: Chain) -> None:
        """Refuse a layer that is in the chain as a number alone: the penalty would not press on its weights."""
        seen = torch.stack([weight.abs().square().sum() for weight in chain.weights]).sum()
        for module, _, _ in self._layers:
            weights = [p for name, p in module.named_parameters() if "weight" in name and p.requires_grad]
            gradients = torch.autograd.grad(seen, weights, retain_graph=True, allow_unused=True) if weights else ()
            if any(gradient is None for gradient in gradients):
                raise UnsupportedModuleError(EXPECTED, type(module).__name__, DO)


def _no_branches(layers: Sequence[Layer]) -> float:
    raise UnsupportedModuleError(EXPECTED, "a network with branches", DO)
