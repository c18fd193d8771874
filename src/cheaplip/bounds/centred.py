r"""How far the differences of two outputs can change from single points on, for many points at once.

For one point c and all x within a radius, the certificate of `multipliers` holds with secants from c in place of slopes:
phi(z) - phi(z_c) = m dz + r dp, where m - r and m + r bound the slopes of secants from z_c (`layers.secants`) on

    |z_j - z_c,j| <= radius sqrt(G_jj),

by the Gram matrix G that arrives at this activation. So each layer narrows the next. The multipliers are those in closed form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .layers.activations import jumps, slope_interval
from .layers.secants import secant_interval
from .multipliers.bound import pair_bounds
from .multipliers.certificate import ActivationState, Chain, Rigorous, Slopes, output_gram
from .multipliers.start import closed_form
from .rounding import INTERVALS, NEXT, PRODUCTS, SLOPES, gamma
from .serial import Affine

POWERS = ((0.5, 0.5), (1.0, 0.5))
"""Of the share and of the diagonal (see `multipliers.start`), for large radii and for small ones."""
ENTRIES = 2**22
"""Samples at a time have about so many entries in each matrix."""
ROUNDS = 6
"""Radii that are tried for a sample."""


@dataclass(frozen=True)
class DenseNetwork:
    """W_1, phi_1, ..., W_l with what is added, float64."""

    affine: list[Affine]
    acts: list[nn.Module]

    @property
    def widest(self) -> int:
        """The largest number of rows."""
        return max(len(affine.weight) for affine in self.affine)

    def values(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Before each activation, and the outputs, each `(samples, rows)`, and how far rounding takes each, `(samples, 1)`."""
        found, wrong = list[Tensor](), list[Tensor]()
        before = x.new_zeros(len(x), 1)  # how far what enters a matrix is off
        for i, affine in enumerate(self.affine):
            if i:
                steepest = max(float(end.abs().max()) for end in slope_interval(self.acts[i - 1]))
                x = self.acts[i - 1](x)
                lost = SLOPES * (1 + x.abs()) + jumps(self.acts[i - 1])[0]
                before = steepest * wrong[-1] + torch.linalg.vector_norm(lost, dim=1, keepdim=True)
            rounding = gamma(affine.weight.shape[1] + 1 + affine.terms)
            lost = rounding * ((x.abs() + before) @ affine.sizes.T + affine.size)
            norm = torch.linalg.matrix_norm(affine.weight, 2) * (1 + PRODUCTS)
            wrong.append(norm * before + torch.linalg.vector_norm(lost, dim=1, keepdim=True))
            x = x @ affine.weight.T + affine.bias
            found.append(x)
        return found, wrong


def dense_network(steps: Sequence[Affine | nn.Module]) -> DenseNetwork | None:
    """Matrices and activations in turn; None where two activations follow one another or an activation ends it."""
    affine: list[Affine] = []
    acts: list[nn.Module] = []
    for step in steps:
        if not isinstance(step, Affine):
            acts.append(step)
        elif len(affine) > len(acts):
            affine[-1] = step.after(affine[-1])
        else:
            affine.append(step)
        if len(acts) > len(affine):
            return None
    return DenseNetwork(affine, acts) if len(affine) == len(acts) + 1 else None


@torch.no_grad()
def certified_distances(network: DenseNetwork, x: Tensor, constants: Tensor, margins: Tensor) -> Tensor:
    """For each sample a distance within which its largest output stays the largest, `(samples,)`.

    The constant K_j(r) of f_best - f_j on the ball of radius r gives a distance, whatever r: min(r, min_j margin_j / K_j(r)).
    It is largest where the two are equal, and r is searched there, between the distance of `constants` and that of the
    slopes at x.

    Args:
        network: f.
        x: `(samples, inputs)`, float64.
        constants: `(samples, outputs)`, for each sample and output one of f_best - f_j anywhere.
        margins: `(samples, outputs)`, by how much the largest output is larger; inf for itself.
    """
    at_once = max(1, ENTRIES // network.widest**2)
    parts = zip(x.split(at_once), constants.split(at_once), margins.split(at_once), strict=True)
    return torch.cat([_distances(network, *part) for part in parts])


def _distances(network: DenseNetwork, x: Tensor, constants: Tensor, margins: Tensor) -> Tensor:
    (values, wrong), best = network.values(x), margins.argmax(1)
    chain = _compressed(network)
    own = values[-1].gather(1, best[:, None]) - values[-1] - 2 * wrong[-1]
    margins = torch.minimum(margins, own.clamp(min=0).scatter(1, best[:, None], math.inf))

    def reached(radius: Tensor) -> Tensor:
        states = [_Centred(network, values, wrong, radius, powers) for powers in POWERS]
        found = [_constants(chain, state, best) for state in states]
        return (margins / torch.minimum(torch.stack(found).amin(0), constants)).nan_to_num(0.0, math.inf).amin(1)

    return largest_radius(reached, (margins / constants).nan_to_num(0.0, math.inf).amin(1))


def largest_radius(reached: Callable[[Tensor], Tensor], low: Tensor) -> Tensor:
    """About the largest r with reached(r) >= r for each sample, `(samples,)`; what it returns is proved.

    Args:
        reached: for a radius of each sample the distance that the ball of this radius proves, as far as it is within.
        low: a distance that is proved.
    """
    high = torch.maximum(reached(torch.zeros_like(low)), low)
    high = torch.where(high.isfinite(), high, low)
    for i in range(ROUNDS):
        radius = (low * high).sqrt() if i else high
        found = reached(radius)
        low, high = (
            torch.maximum(low, torch.minimum(found, radius)),
            torch.where(found >= radius, torch.minimum(high, found), radius),
        )
    return low


def _compressed(network: DenseNetwork) -> Chain:
    """Its matrices alone; slopes and multipliers come with each sample."""
    weights = [affine.weight for affine in network.affine]
    none = weights[0].new_zeros(())
    return Chain(weights, [(none, none)] * len(network.acts), [len(weight) for weight in weights[:-1]])


def _constants(chain: Chain, arithmetic: _Centred, best: Tensor) -> Tensor:
    """Of f_best - f_j from each sample on, within the radius, `(samples, outputs)`; inf where nothing is proved."""
    none = [best.new_zeros(1).double()] * len(chain.slopes)
    gram = output_gram(chain, none, arithmetic)
    if gram is None:
        return torch.full((len(best), len(chain.weights[-1])), math.inf).to(chain.weights[-1])
    gram = gram.expand(len(best), -1, -1)
    pairs = pair_bounds(gram).gather(1, best[:, None, None].expand(-1, 1, gram.shape[-1]))[:, 0] * NEXT
    return torch.where(arithmetic.failed[:, None], math.inf, pairs).nan_to_num(math.inf, math.inf)


class _Centred(Rigorous):
    """Takes its slopes and multipliers from the Gram matrices that arrive, a sample for itself.

    Where a weight is not exact, what its error changes is added: with |dA| <= g S a quadratic form A M A^T by at most 3 g s s^T
    for s = S sqrt(diag M), for any positive semidefinite M.
    """

    def __init__(
        self,
        network: DenseNetwork,
        values: Sequence[Tensor],
        wrong: Sequence[Tensor],
        radius: Tensor,
        powers: tuple[float, float],
    ) -> None:
        self.failed = torch.zeros(len(radius), dtype=torch.bool, device=radius.device)
        self._affine, self._acts, self._values, self._wrong = network.affine, network.acts, values, wrong
        self._index, self._radius, self._powers = 0, radius, powers

    def congruence(self, weight: Tensor, deviation: Tensor | None, index: int) -> Tensor:
        """And what the weight's error changes."""
        self._index = index
        gram = super().congruence(weight, deviation, index)
        return gram if not self._affine[index].terms else self._enlarged(gram, deviation)

    def coupled(self, weight: Tensor, state: ActivationState) -> Tensor:
        """And what the weight's error changes."""
        result = super().coupled(weight, state)
        if not self._affine[self._index].terms:
            return result
        # (G^-1 - T)^-1 is at most G / (1 - |T^1/2 G T^1/2|)
        identity = torch.eye(state.root.shape[-1]).to(weight)
        inverse = torch.linalg.matrix_norm(torch.linalg.solve_triangular(state.factor, identity, upper=False))
        deviation = state.gram.diagonal(dim1=-2, dim2=-1).sqrt() * inverse[..., None] * NEXT
        return self._enlarged(result, state.middle.abs() * deviation)

    def _enlarged(self, gram: Tensor, deviation: Tensor | None) -> Tensor:
        affine = self._affine[self._index]
        sums = affine.sizes.sum(-1) if deviation is None else deviation @ affine.sizes.T
        return gram + torch.diag_embed(4 * gamma(affine.terms) * sums.shape[-1] * sums.square())

    def activation(self, gram: Tensor, slopes: Slopes, log_t: Tensor) -> ActivationState | None:
        """Given ones do not count."""
        act, centre, wrong = self._acts[self._index], self._values[self._index], self._wrong[self._index]
        self.failed |= ~gram.isfinite().flatten(-2).all(-1)
        gram = gram.nan_to_num(0.0, 0.0, 0.0)
        reach = self._radius[:, None] * gram.diagonal(dim1=-2, dim2=-1).sqrt() * NEXT + wrong
        reach = reach + INTERVALS * (centre.abs() + reach).amax(1, keepdim=True)
        slopes = secant_interval(act, centre, centre - reach, centre + reach, wrong)
        return super().activation(gram, slopes, closed_form(gram, slopes, centre.shape[1], *self._powers))

    def settled(self, factor: Tensor, failed: Tensor) -> Tensor:
        """The identity for samples without a factor, which are noted."""
        self.failed |= failed != 0
        return torch.where(failed[..., None, None] != 0, torch.eye(factor.shape[-1]).to(factor), factor)
