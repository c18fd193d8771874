"""`CertificateRegularizer`: a penalty on the proved upper end of the bracket.

The bound of `bounds.multipliers` is differentiable in the weights and in the multipliers, does not depend on the batch,
and holds for any feasible multipliers. So the multipliers follow the weights by a few steps of an optimiser of their own
instead of a new search. Where a network has branches, or multipliers would cost too much, the product of norms takes their
place, by power iterations that follow the weights likewise. What is reported after training is the verified bound of
`upper_bound`, whose search goes on from these multipliers.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..bounds.graph import trace
from ..bounds.layers.layer import Shape
from ..bounds.multipliers.certificate import Chain, proved_bound
from ..bounds.multipliers.chain import make_chain, work
from ..bounds.multipliers.gradient import bound_with_gradient
from ..bounds.multipliers.search import search_multipliers
from ..bounds.multipliers.start import moved_inwards
from ..bounds.upper import product_of_norms
from ..bounds.variances import following_variances
from ..bounds.warm import WarmProduct, unseen
from ..errors import InputError, UnsupportedModuleError, require_in
from ..inference import Model, device_of
from .gradient_clip import GradientClip
from .options import PairOptions
from .penalty import ClipNorm, Penalty, PenaltySum
from .regularizer import LipschitzRegularizer
from .statistics import following_statistics

EXPECTED = "layers whose weights a certificate in training can follow"
DO = "Train without certify, and bound the network afterwards."
SEARCH = 50
"""Iterations of the first search, at each of its stages."""
JUMP = 1.1
"""A bound that has grown by this factor since the last one may be near the edge of the feasible multipliers."""
WORK = 2**34
"""Multiplications a call, about, beyond which the product of norms takes the place of multipliers: some seconds."""
HUGE = 10.0
"""A bound of more than so many times what pairs have met grows as its logarithm from there on."""
LEARNING_RATE = 0.01
"""Of Adam, on the logarithms of the multipliers."""


class CertificateRegularizer(Penalty):
    """The penalty upper^power, with upper >= Lip(f) the bound of multipliers that learn alongside the network.

    Every `interval`-th call returns `interval` times the penalty, the calls between return 0. Its gradient is not held like
    that of pairs: held, it proves less. Add it to a pair penalty with `PenaltySum`, with `hold=False` and the same interval
    there, so that `clip_gradients` limits both. Where the weights have moved so that the multipliers are
    infeasible, or nearly so, they are scaled down to where the bound is smallest. Small enough multipliers are always
    feasible, so no training fails by it.

    Dense layers have a multiplier for each neuron, convolutions one for each channel. A dense layer of n rows costs about
    n^3 operations a call, in float64. A network with branches, or of more than `WORK` operations, gets sums and products of
    its layers' norms, `kind` says so: much cheaper, and a much larger number.

    Args:
        model: a network of layers with a rule on all inputs.
        shape: shape of one input, without the batch dimension.
        interval: steps from one penalty to the next.
        steps: penalties in an epoch, for `GradientClip`.
        power: 1 or 2.
        allowed: an upper bound up to this costs nothing: the penalty is of what exceeds it.
        beside: the pair penalty, of the same power, that it is added to. What exceeds `HUGE` times the constant that it has
            met counts as its logarithm: a product of norms that starts in the thousands would need a weight of nearly 0. Its
            points show how the running variances of BatchNorm follow the weights, without which training would be in vain.

    Raises:
        InputError: a model that is not an `nn.Module`.
        UnsupportedModuleError: a layer without a rule, or one whose weight is not followed, by its name; a network without a
            constant on all inputs.

    Source: Fazlyab et al. 2019 for the bound; see `bounds.multipliers`.
    """

    vanishes_on_constants = True

    def __init__(
        self,
        model: Model,
        shape: Shape,
        *,
        interval: int = PairOptions().interval,
        steps: int = 50,
        power: int = PairOptions().power,
        allowed: float = PairOptions().allowed,
        beside: LipschitzRegularizer | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InputError("an nn.Module for certify", type(model).__name__, "Train without certify.")
        require_in("interval", interval, "[1, inf)")
        self.interval, self._power, self._allowed, self._beside = interval, power, allowed, beside
        self.skipped = 0
        """Penalties that were not finite and therefore left out."""
        self._model = model
        network = trace(model, shape)
        self._shape, self._layers = shape, network.last_chain.layers
        self._clip = GradientClip(steps)
        self._logs: list[Tensor] = []
        self._optimizer: torch.optim.Optimizer | None = None
        self._latest = math.inf  # the last bound
        self._calls = 0
        self._due = False  # the last call had a graph
        with torch.enable_grad():
            chain = make_chain(self._layers, local=False) if network.last_chain.is_whole_network and self._layers else None
            seen = None if chain is None else torch.stack([weight.abs().square().sum() for weight in chain.weights]).sum()
            fits = chain is not None and seen is not None and work(chain) <= WORK and unseen(self._model, seen) is None
            self._product = None if fits else WarmProduct(network)
            if self._product is not None:
                self._refuse_unseen(self._product.bound())

    @property
    def kind(self) -> str:
        """What the bound is made of."""
        return "multipliers" if self._product is None else "product of layer norms"

    def __call__(self) -> Tensor:
        """`interval` * upper^power, `()`, with a graph to the parameters when it is due, else 0."""
        like = next((p for p in self._model.parameters() if p.is_floating_point()), torch.zeros(()))
        self._due = False
        if self._calls % self.interval:
            return like.new_zeros(())
        bound = self.bound()
        if self._beside is not None:
            bound = logarithmic(bound, HUGE * (self._allowed + self._beside.latest ** (1 / self._power)))
        bound = (bound - self._allowed).relu() if self._allowed else bound
        penalty = self.interval * (bound if self._power == 1 else bound.square()).to(like)
        self.latest = float(penalty.detach()) / self.interval
        if not math.isfinite(self.latest):
            self.skipped, self.latest = self.skipped + 1, 0.0
            return penalty.new_zeros(())
        self._due = True
        return penalty

    def bound(self) -> Tensor:
        """The upper bound of Lip(f), `()`, float64, with a graph; not rounded upwards."""
        if self._product is not None:
            with self._following():
                bound = self._product.bound()
            self._latest = float(bound.detach())
            return bound
        with self._following():
            chain = self._chain()
        if len(self._logs) < len(chain.slopes):
            with torch.no_grad():
                self._optimizer = self._start(search_multipliers(self._chain(), iterations=SEARCH))
        bound = self._bound(chain)
        if not bound <= JUMP * self._latest:
            with torch.no_grad():
                moved, _ = moved_inwards(self._logs, lambda logs: float(bound_with_gradient(chain, logs)[0]))
            for log, new in zip(self._logs, moved, strict=True):
                log.data = new
            bound = self._bound(chain)
        self._latest = float(bound.detach())
        return bound

    def step(self) -> None:
        """Move the multipliers by the gradient that the backward pass has left at them."""
        self._calls += 1
        gradients = [log.grad for log in self._logs if log.grad is not None]
        if self._optimizer is None or not gradients:
            return
        if all(gradient.isfinite().all() for gradient in gradients):
            self._optimizer.step()
        self._optimizer.zero_grad()

    def clip_gradients(self, clip_norm: ClipNorm = nn.utils.clip_grad_norm_) -> None:
        """After a penalty with a graph: limit the parameters' gradients to a multiple of their usual norm."""
        if self._due:
            self._clip(self._model.parameters(), clip_norm)

    def constant(self) -> float | None:
        """The bound at the last penalty, not verified; None before the first."""
        return self._latest if math.isfinite(self._latest) else None

    @torch.no_grad()
    def upper_bound(self) -> float | None:
        """What the multipliers prove of the weights now, verified as in `upper_bound`; None before the first call."""
        if self._product is not None:
            return product_of_norms(self._model, self._shape) if math.isfinite(float(self._product.bound().detach())) else None
        if not self._logs:
            return None
        self.bound()  # makes them feasible
        found = proved_bound(self._chain(), self._logs)
        return None if found is None else found[0]

    def metrics(self) -> dict[str, float | int | None]:
        """The proved upper bound now, and the penalties that were left out."""
        return {"upper_bound": self.upper_bound(), "skipped_steps": self.skipped}

    def multipliers(self) -> list[Tensor]:
        """Logarithms of the multipliers now, for `lipschitz_bracket`; none before the first call, and of products of norms."""
        return [log.detach().clone() for log in self._logs]

    def state_dict(self) -> dict[str, Any]:
        """The multipliers, their optimiser, and the usual norm of the gradients."""
        return {
            "logs": self.multipliers(),
            "optimizer": None if self._optimizer is None else self._optimizer.state_dict(),
            "latest": self._latest,
            "calls": self._calls,
            "skipped": self.skipped,
            "clip": self._clip.state_dict(),
            "vectors": [] if self._product is None else self._product.vectors(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        if state["optimizer"] is not None:
            device = device_of(self._model)
            self._optimizer = self._start([log.to(device) for log in state["logs"]])
            self._optimizer.load_state_dict(state["optimizer"])
        if self._product is not None:
            self._product.resume(state["vectors"])
        self._latest, self._calls, self.skipped = state["latest"], state["calls"], state["skipped"]
        self._clip.load_state_dict(state["clip"])

    @contextlib.contextmanager
    def _following(self) -> Iterator[None]:
        if self._beside is None:
            yield
            return
        state = self._beside.state
        with following_statistics(self._model), following_variances(self._model, state.points[state.active, 0]):
            yield

    def _chain(self) -> Chain:
        chain = make_chain(self._layers, local=False)
        assert chain is not None  # it was not when the regularizer was made
        return chain

    def _bound(self, chain: Chain) -> Tensor:
        bound, used = bound_with_gradient(chain, self._logs)
        if bound.isfinite():
            for log, new in zip(self._logs, used, strict=True):
                log.data = new
        return bound

    def _start(self, logs: Sequence[Tensor]) -> torch.optim.Optimizer:
        self._logs = [log.detach().clone().requires_grad_() for log in logs]
        return torch.optim.Adam(self._logs, lr=LEARNING_RATE, fused=True)  # a few small tensors: launching is all it costs

    def _refuse_unseen(self, bound: Tensor) -> None:
        if not bound.isfinite():
            raise UnsupportedModuleError(EXPECTED, "a network without a constant on all inputs", DO)
        if (module := unseen(self._model, bound)) is not None:
            raise UnsupportedModuleError(EXPECTED, type(module).__name__, DO)


def logarithmic(bound: Tensor, huge: float) -> Tensor:
    """The bound, and beyond `huge` > 0 its logarithm, of the same slope there.

    Example:
        >>> [round(float(logarithmic(torch.tensor(b), 1.0)), 3) for b in (0.5, 1.0, torch.e)]
        [0.5, 1.0, 2.0]
    """
    return torch.where(bound > huge, huge * (1 + (bound / huge).clamp(min=1).log()), bound) if huge > 0 else bound


def with_certificate(regularizer: LipschitzRegularizer, share: float, *, steps: int = 50) -> Penalty:
    """The pair penalty plus `share` times the certificate of the same network, on the same steps; share 0: the former alone.

    Args:
        regularizer: the pair penalty, with `hold=False`.
        share: w in Lip(f, X_Lip)^power + w * upper^power. On MNIST w = 1 certifies the most samples.
        steps: penalties in an epoch, for `GradientClip`.

    Raises:
        InputError: a share that is negative or not finite, or what `CertificateRegularizer` refuses.
    """
    require_in("certify", share, "[0, inf)", "Give a positive share such as 0.1, or 0 for none.")
    if share == 0:
        return regularizer
    shape = tuple(regularizer.state.points.shape[2:])
    interval, power, allowed = regularizer.interval, regularizer.options.power, regularizer.options.allowed
    certificate = CertificateRegularizer(
        regularizer.model, shape, interval=interval, steps=steps, power=power, allowed=allowed, beside=regularizer
    )
    return PenaltySum([(1.0, regularizer), (share, certificate)])
