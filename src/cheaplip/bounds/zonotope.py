r"""Narrower regions for a chain of matrices and activations: each value as an affine function of the input and of errors.

    z(x) = A x + b + E e,   all |e_j| <= 1

An activation on [l, u] is its chord, of slope m, and what lies between the two: phi(z) in m z + [least, most] of phi - m id,
an error of its own for each entry (Singh et al. 2018). The least and the most are those at a few points of [l, u] and what
the slopes between them allow. Correlations between entries are kept, which intervals alone lose at every layer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from scipy.optimize import linprog  # type: ignore[import-untyped]
from torch import Tensor, nn

from ..domains import Ball, Domain, box_of
from .layers.activations import acts_entrywise, derivative, jumps, slope_interval
from .layers.constants import Reshaping, exact_copy
from .layers.entrywise import flattened
from .layers.layer import Layer
from .layers.region import Region, Shape
from .multipliers.chain import linear_weight
from .rounding import INTERVALS, SLOPES, TINY

PIECES = 16
"""Of each interval, on which an activation is compared with its chord."""
SMALL = 1e-9
"""The linear programme leaves errors below this out; its result is checked with them."""
ERRORS = 2048
"""No more errors are carried along: from there on regions stay as they are."""


@dataclass(frozen=True)
class Limit:
    """Affine functions of x and e that are >= 0 where the inputs of an activation lie in their region."""

    slopes: Tensor  # (limits, inputs)
    errors: Tensor  # (limits, errors)
    offset: Tensor  # (limits,)


def narrowed(layers: Sequence[Layer], domain: Domain) -> tuple[Layer, ...]:
    """The layers with regions that are no larger; see `propagate`."""
    return propagate(layers, domain)[0]


@torch.no_grad()
def propagate(layers: Sequence[Layer], domain: Domain) -> tuple[tuple[Layer, ...], list[Limit]]:
    """The layers with regions that are no larger, up to the first that is no matrix and does not act entry by entry.

    Also the limits by those regions that were smaller than what follows from the domain, as those of branches are.

    Args:
        layers: from the input on.
        domain: box or ball that the input lies in.
    """
    shape = layers[0].shape
    low, high = (end.flatten().cpu() for end in box_of(domain, shape))
    ball = domain if isinstance(domain, Ball) else None
    centre, half = (low + high) / 2, (high - low) / 2
    slopes, offset = torch.eye(len(centre)).double(), torch.zeros_like(centre)  # A (entries, inputs), b
    errors = torch.zeros(len(centre), 0).double()  # E (entries, errors)
    done: list[Layer] = []
    limits: list[Limit] = []
    for i, layer in enumerate(layers):
        module = layer.module
        if acts_entrywise(module) and errors.shape[1] + len(offset) <= ERRORS:
            middle = slopes @ centre + offset
            reach = slopes.abs() @ half
            if ball is not None:
                reach = torch.minimum(reach, ball.radius * torch.linalg.vector_norm(slopes, dim=1))
            reach = reach + errors.abs().sum(1)
            reach = reach + INTERVALS * (middle.abs() + reach).max()
            before = layer.region.low.flatten(), layer.region.high.flatten()
            above, under = before[0] > middle - reach, before[1] < middle + reach
            limits.append(Limit(slopes[above], errors[above], offset[above] - before[0][above]))
            limits.append(Limit(-slopes[under], -errors[under], before[1][under] - offset[under]))
            region = _within(layer.region, middle - reach, middle + reach)
            layer = replace(layer, region=region)
            act = flattened(exact_copy(module).cpu())
            m, least, most = chord(act, region.low.flatten(), region.high.flatten())
            slopes, offset = m[:, None] * slopes, m * offset + (least + most) / 2
            errors = torch.cat([m[:, None] * errors, torch.diag((most - least) / 2)], 1)
        elif not isinstance(module, Reshaping):
            weight = linear_weight(module, layer.shape, layer.out)
            if weight is None or weight.shape != (math.prod(layer.out), math.prod(layer.shape)):
                return (*done, *layers[i:]), limits
            weight = weight.detach().cpu()
            bias = exact_copy(module).cpu()(torch.zeros(1, *layer.shape, dtype=torch.float64)).flatten()
            slopes, offset, errors = weight @ slopes, weight @ offset + bias, weight @ errors
        done.append(layer)
    return tuple(done), limits


def is_empty(limits: Sequence[Limit], domain: Domain, shape: Shape) -> bool:
    """Whether no input of the domain meets all limits: a mean of them, with weights from a linear programme, is negative."""
    if not sum(len(limit.offset) for limit in limits):
        return False
    errors = max(limit.errors.shape[1] for limit in limits)
    a, e, b = (
        torch.cat(parts) for parts in zip(*((li.slopes, _wide(li.errors, errors), li.offset) for li in limits), strict=True)
    )
    low, high = (end.flatten().cpu() for end in box_of(domain, shape))
    large = e.abs().amax(0) > SMALL
    # the largest t with a x + e e' + b >= t for all limits
    left = torch.cat([-a, -e[:, large], torch.ones(len(b), 1).double()], 1)
    bounds = [*zip(low.tolist(), high.tolist(), strict=True), *[(-1.0, 1.0)] * int(large.sum()), (None, None)]
    found = linprog([*[0.0] * (left.shape[1] - 1), -1.0], left.numpy(), b.numpy(), bounds=bounds)
    if not found.success or found.x[-1] >= 0:
        return False
    weights = torch.from_numpy(-found.ineqlin.marginals).clamp(min=0)
    centre, half = (low + high) / 2, (high - low) / 2
    terms = weights @ (a.abs() @ torch.maximum(low.abs(), high.abs()) + b.abs())
    largest = weights @ b + (weights @ a) @ centre + (weights @ a).abs() @ half + (weights @ e).abs().sum()
    return bool(largest < -INTERVALS * terms)


def _wide(errors: Tensor, columns: int) -> Tensor:
    """With columns of zeros for errors that came later."""
    return torch.cat([errors, errors.new_zeros(len(errors), columns - errors.shape[1])], 1)


def chord(act: nn.Module, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Slopes m of the chords on [low, high], and bounds of phi(z) - m z there, entry by entry.

    Args:
        act: an activation that acts entry by entry, in float64.
        low: `(entries,)`.
        high: `(entries,)`.
    """
    ends = act(low[None])[0], act(high[None])[0]
    m = torch.where(high > low, (ends[1] - ends[0]) / (high - low).clamp(min=TINY), 0.0)
    share = torch.linspace(0, 1, PIECES + 1, dtype=torch.float64)[:, None]
    kinks = [torch.full_like(low, point).clamp(low, high)[None] for point in derivative(act)[1]]
    points = torch.cat([low + share * (high - low), *kinks]).clamp(low, high).sort(0).values  # (points, entries)
    away = act(points) - m * points
    wrong = SLOPES * (1 + away.abs()) + jumps(act)[0]
    away = away + wrong, away - wrong
    spans = [slope_interval(act, p[None], q[None]) for p, q in itertools.pairwise(points)]
    least, most = (torch.cat([span[i] for span in spans]) for i in (0, 1))
    # between two points the difference rises by one slope at most, and falls by the other
    up, down = (most - m).clamp(min=0), (m - least).clamp(min=0)
    beyond = up * down / (up + down).clamp(min=TINY) * points.diff(dim=0) * (1 + SLOPES)
    above = torch.maximum(away[0][:-1], away[0][1:]) + beyond
    below = torch.minimum(away[1][:-1], away[1][1:]) - beyond
    return m, below.amin(0), above.amax(0)


def _within(region: Region, low: Tensor, high: Tensor) -> Region:
    """Both, in the shape of the region."""
    low, high = low.reshape(region.low.shape), high.reshape(region.high.shape)
    # of two intervals that hold a number, widened on their own for rounding, none is beyond the other
    return replace(region, low=torch.maximum(region.low, low), high=torch.minimum(region.high, high))
