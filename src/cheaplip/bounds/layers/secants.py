r"""Slopes of secants from one point: what (phi(z) - phi(c)) / (z - c) can be for z in an interval round c.

That is the mean of phi's slopes from c to z. Far fewer numbers are such means than slopes in the interval: a ReLU with c > 0
falls to 0 at the most from there, so that the secants' slopes are at least c / (c - low), not 0.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from ..rounding import SLOPES, TINY
from .activations import STRAIGHT, derivative, slope_interval
from .entrywise import Partly

PIECES = 8
"""Of each side, in which a smooth activation takes its least and its largest slope."""


def secant_interval(
    module: nn.Module, centre: Tensor, low: Tensor, high: Tensor, wrong: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """[a, b] with a <= (phi(z) - phi(c)) / (z - c) <= b for all z in [low, high], entry by entry, float64.

    On pieces between c and the end, of slopes in [a_k, b_k], the mean of the slopes up to the end of a piece is at least the
    mean of the a_k; within a piece it lies between those at its ends.

    Args:
        module: the activation phi.
        centre: c, any shape.
        low: lower ends, at most c.
        high: upper ends, at least c.
        wrong: how far the true c may be from this one, at most as far as either end; None: not at all.

    Example:
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> secant_interval(nn.ReLU(), one, -one, 3 * one)[0]
        tensor([0.5000], dtype=torch.float64)
    """
    inner = [centre, centre] if wrong is None else [centre - wrong, centre + wrong]
    sides = [_one_side(module, start, end) for start, end in zip(inner, (low, high), strict=True)]
    if wrong is not None:  # beyond these two the mean is one of slopes between them and of a secant's slope
        sides.append(slope_interval(module, *inner))
    least, largest = torch.stack([side[0] for side in sides]).amin(0), torch.stack([side[1] for side in sides]).amax(0)
    # a slope of the interval is a secant's, or near one; where one slope alone is left, it is exact
    slopes = slope_interval(module, low, high)
    finite = low.isfinite() & high.isfinite()
    least = torch.where(finite, torch.maximum(least - SLOPES, slopes[0]), slopes[0])
    return least, torch.where(finite, torch.minimum(largest + SLOPES, slopes[1]), slopes[1])


def _one_side(module: nn.Module, centre: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    inner = module.inner if isinstance(module, Partly) else module
    count = 1 if isinstance(inner, STRAIGHT) else PIECES
    share = torch.linspace(0, 1, count + 1).to(centre)
    lower, upper = torch.minimum(centre, end), torch.maximum(centre, end)
    points = [torch.where(part == 1, end, centre + part * (end - centre)) for part in share]
    # a kink lies in a piece of its own, next to which there are the slopes of one side alone
    kinks = [kink for kink, values in derivative(inner)[1].items() if len(set(values)) > 1]
    points += [torch.full_like(centre, math.nextafter(kink, beyond)) for kink in kinks for beyond in (-math.inf, math.inf)]
    stacked = torch.stack([torch.minimum(torch.maximum(point, lower), upper) for point in points])
    outwards = torch.where(end < centre, -1.0, 1.0).to(centre)
    stacked = outwards * (outwards * stacked).sort(0).values
    away = (stacked - centre).abs()
    mean: list[Tensor] = []
    ends: list[list[Tensor]] = [[], []]
    for (p, near), (q, far) in itertools.pairwise(zip(stacked, away, strict=True)):
        share = (far - near) / far.clamp(min=TINY)
        slopes = slope_interval(module, torch.minimum(p, q), torch.maximum(p, q))
        mean = [before + share * (slope - before) for before, slope in zip(mean or slopes, slopes, strict=True)]
        for found, one in zip(ends, mean, strict=True):
            found.append(one)
    return torch.stack(ends[0]).amin(0), torch.stack(ends[1]).amax(0)
