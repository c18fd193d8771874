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

from .layers.secants import secant_interval
from .multipliers.bound import pair_bounds
from .multipliers.certificate import ActivationState, Chain, Rigorous, Slopes, output_gram
from .multipliers.start import closed_form
from .rounding import INTERVALS, NEXT
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

    affine: list[tuple[Tensor, Tensor]]  # weights and biases
    acts: list[nn.Module]

    @property
    def widest(self) -> int:
        """The largest number of rows."""
        return max(len(weight) for weight, _ in self.affine)

    def values(self, x: Tensor) -> list[Tensor]:
        """Before each activation, and the outputs, each `(samples, rows)`."""
        found = []
        for i, (weight, bias) in enumerate(self.affine):
            x = (self.acts[i - 1](x) if i else x) @ weight.T + bias
            found.append(x)
        return found


def dense_network(steps: Sequence[Affine | nn.Module]) -> DenseNetwork | None:
    """Matrices and activations in turn; None where two activations follow one another or an activation ends it."""
    affine: list[tuple[Tensor, Tensor]] = []
    acts: list[nn.Module] = []
    for step in steps:
        if not isinstance(step, Affine):
            acts.append(step)
        elif len(affine) > len(acts):
            weight, bias = affine[-1]
            affine[-1] = step.weight @ weight, step.weight @ bias + step.bias
        else:
            affine.append((step.weight, step.bias))
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
    values, best = network.values(x), margins.argmax(1)
    chain = _compressed(network)

    def reached(radius: Tensor) -> Tensor:
        found = [_constants(chain, network.acts, values, radius, best, powers) for powers in POWERS]
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
    weights = [weight for weight, _ in network.affine]
    none = weights[0].new_zeros(())
    return Chain(weights, [(none, none)] * len(network.acts), [len(weight) for weight in weights[:-1]])


def _constants(
    chain: Chain, acts: Sequence[nn.Module], values: Sequence[Tensor], radius: Tensor, best: Tensor, powers: tuple[float, float]
) -> Tensor:
    """Of f_best - f_j from each sample on, within the radius, `(samples, outputs)`; inf where nothing is proved."""
    arithmetic = _Centred(acts, values, radius, powers)
    none = [radius.new_zeros(1)] * len(acts)
    gram = output_gram(chain, none, arithmetic)
    if gram is None:
        return torch.full_like(values[-1], math.inf)
    gram = gram.expand(len(best), -1, -1)
    pairs = pair_bounds(gram).gather(1, best[:, None, None].expand(-1, 1, gram.shape[-1]))[:, 0] * NEXT
    return torch.where(arithmetic.failed[:, None], math.inf, pairs).nan_to_num(math.inf, math.inf)


class _Centred(Rigorous):
    """Takes its slopes and multipliers from the Gram matrices that arrive, a sample for itself."""

    def __init__(
        self, acts: Sequence[nn.Module], values: Sequence[Tensor], radius: Tensor, powers: tuple[float, float]
    ) -> None:
        self.failed = torch.zeros(len(radius), dtype=torch.bool, device=radius.device)
        self._left, self._radius, self._powers = list(zip(acts, values, strict=False)), radius, powers

    def activation(self, gram: Tensor, slopes: Slopes, log_t: Tensor) -> ActivationState | None:
        """Given ones do not count."""
        act, centre = self._left.pop(0)
        self.failed |= ~gram.isfinite().flatten(-2).all(-1)
        gram = gram.nan_to_num(0.0, 0.0, 0.0)
        reach = self._radius[:, None] * gram.diagonal(dim1=-2, dim2=-1).sqrt() * NEXT
        reach = reach + INTERVALS * (centre.abs() + reach).amax(1, keepdim=True)
        slopes = secant_interval(act, centre, centre - reach, centre + reach)
        return super().activation(gram, slopes, closed_form(gram, slopes, centre.shape[1], *self._powers))

    def settled(self, factor: Tensor, failed: Tensor) -> Tensor:
        """The identity for samples without a factor, which are noted."""
        self.failed |= failed != 0
        return torch.where(failed[..., None, None] != 0, torch.eye(factor.shape[-1]).to(factor), factor)
