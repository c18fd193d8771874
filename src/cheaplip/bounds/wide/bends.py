r"""A bend near a point: a linear map and one error for each entry, within a Euclidean length of arguments.

Let z be the entries of a window, c those at the centre, d = z - c, w the largest of c. The largest of z is that of c plus a
mean of the d with weights p_j, since it is one along the way from c to z. Entry j is the largest on at most the share
u_j = 1 - (c_w - c_j) / \|d_j - d_w\| of the way, which p_j cannot exceed. With other weights m_j, the mean e = sum_j m_j d_j
and the slopes s of secants of a rising activation, in [least, most],

    phi(max z) - phi(max c) = s sum_j p_j d_j = s e + s sum_j (p_j - m_j) (d_j - e).

The linear map is the middle slope times e. The error is at most a \|e\| + b (sum_j v_j^2 (d_j - e)^2)^{1/2}, for any v_j > 0
with b at least most (sum_j (p_j - m_j)^2 / v_j^2)^{1/2}.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..layers.secants import secant_interval
from ..rounding import INTERVALS, SLOPES, TINY
from .steps import Bent

STILL = 1e-6
"""Share of the largest estimate that none counts below."""


@dataclass(frozen=True)
class Rivals:
    """The windows' largest entries at the centre, and which others can be the largest."""

    place: Tensor  # (windows, 1), of the largest
    gap: Tensor  # (windows, places), by how much others are smaller at the centre, at least
    near: Tensor  # (windows, places), which can be the largest
    moving: Tensor  # windows with an error, perhaps


@dataclass(frozen=True)
class Bend:
    """Of each window the linear map, and what its error is at most: the root of a sum of squares of functionals."""

    windows: Tensor  # (windows, places), entries
    linear: Tensor  # (windows, places), coefficients
    mean: Tensor  # (windows, places), those of e
    own: Tensor  # (windows,), the size of e in the error
    sizes: Tensor  # (windows, places), those of the d_j - e

    @property
    def size(self) -> float:
        """The largest sum of the absolute coefficients of a window."""
        return float(self.linear.abs().sum(1).max())

    @property
    def support(self) -> Tensor:
        """Windows with an error."""
        return ((self.own > 0) | (self.sizes > 0).any(1)).nonzero()[:, 0]

    def forward(self, columns: Tensor) -> Tensor:
        """The linear map of differences, `(n, entries)` to `(n, windows)`."""
        result = columns.new_zeros(len(columns), len(self.windows))
        for used, entries, coefficients in self._places(columns):
            result.index_add_(1, used, columns[:, entries] * coefficients)
        return result

    def backward(self, rows: Tensor, entries: int) -> Tensor:
        """Functionals of the result, `(n, windows)`, as functionals of the entries, `(n, entries)`."""
        result = rows.new_zeros(len(rows), entries)
        for used, places, coefficients in self._places(rows):
            result.index_add_(1, places, rows[:, used] * coefficients)
        return result

    def _places(self, like: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for entries, linear in zip(self.windows.T, self.linear.T, strict=True):
            used = (linear != 0).nonzero()[:, 0]
            yield used, entries[used], linear[used].to(like)


def rivals_of(step: Bent, centre: Tensor, reach: Tensor) -> Rivals:
    """What can be the largest entry of each window.

    Args:
        step: the bend.
        centre: `(entries,)`, float64.
        reach: `(entries,)`, how far each can be from there.
    """
    there = step.windows >= 0
    values = torch.where(there, centre[step.windows], -torch.inf)
    place = values.argmax(1, keepdim=True)
    gap = (values.gather(1, place) - values - 2 * INTERVALS * centre.abs().max()).clamp(min=0)
    others = there & (torch.arange(there.shape[1]) != place)
    reaches = reach[step.windows]
    near = others & (gap < reaches + reaches.gather(1, place))
    least, most = _slopes(step, place, near, centre, reach)
    return Rivals(place, gap, near, (near.any(1) | (least < most)).nonzero()[:, 0])


def _slopes(step: Bent, place: Tensor, near: Tensor, centre: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
    """Of secants from the largest at the centre to what the largest can be."""
    c, r = (of[step.windows] for of in (centre, reach))
    low, high = (end.gather(1, place)[:, 0] for end in (c - r, c + r))
    c = c.gather(1, place)[:, 0]
    if step.act is None:
        return torch.ones_like(c), torch.ones_like(c)
    high = torch.maximum(high, torch.where(near, centre[step.windows] + r, -torch.inf).amax(1))
    return secant_interval(step.act, c, low, high)


def bend(step: Bent, rivals: Rivals, centre: Tensor, reach: Tensor, away: Tensor) -> Bend:
    """The linear map and the errors.

    Args:
        step: the bend.
        rivals: of the same arguments.
        centre: `(entries,)`, float64.
        reach: `(entries,)`, how far each can be from there.
        away: `(windows, places)`, how far the difference of a rival and the largest can be from that at the centre.
    """
    share = torch.where(rivals.near, (1 - rivals.gap / away.clamp(min=TINY)).clamp(min=0), 0.0)
    least, most = _slopes(step, rivals.place, share > 0, centre, reach)
    slope, half = (least + most) / 2, (most - least) / 2 * (1 + SLOPES)
    middle, radius = _weights(share)
    mean = middle[:, None] * share
    mean = mean.scatter(1, rivals.place, 1 - mean.sum(1, keepdim=True))
    v = share.scatter(1, rivals.place, share.sum(1, keepdim=True).clamp(max=1))
    # (x + y)^2 <= x^2 (a + b) / a + y^2 (a + b) / b, with a and b about the largest x and y
    others = torch.where(v > 0, away.scatter(1, rivals.place, 0.0), 0.0)
    apart = (v * (others - (mean * others).sum(1, keepdim=True))).square().sum(1).sqrt()
    spread = most.clamp(min=0) * radius * (1 + SLOPES)
    a, b = half * torch.where(mean > 0, mean * reach[step.windows], 0.0).square().sum(1).sqrt(), spread * apart
    a, b = a.clamp(min=STILL * float((a + b).max()) + TINY), b.clamp(min=STILL * float((a + b).max()) + TINY)
    own, sizes = half * ((a + b) / a).sqrt(), (spread * ((a + b) / b).sqrt())[:, None] * v
    own = torch.where(spread > 0, own, half)
    return Bend(step.windows, slope[:, None] * mean, mean, own, torch.where((half > 0)[:, None], sizes, spread[:, None] * v))


def _weights(share: Tensor) -> tuple[Tensor, Tensor]:
    """For p_j <= u_j with sum <= 1, the largest having the rest: means m u_j, and a bound of the root of the sum of squares.

    With p_j = u_j y_j the sum is of (y_j - m)^2, and of (sum u_j (y_j - m) / v)^2 for the largest, v = min(1, sum u_j). It is
    convex, and at corners all y_j but one are 0 or 1: n of them are not 0, no more than smallest u_j with a sum below 1, and
    one more.
    """
    rising = torch.where(share > 0, share, torch.inf).sort(1).values
    smallest = rising.cumsum(1)  # sums of the n smallest
    largest = share.sort(1, descending=True).values.cumsum(1)
    number, total = (share > 0).sum(1), largest[:, -1]
    before = torch.cat([torch.zeros_like(total)[:, None], smallest[:, :-1]], 1)
    most = ((before < 1 - SLOPES) & rising.isfinite()).sum(1)
    m = torch.minimum(most / (number + 1), torch.full_like(total, 0.5))
    v = total.clamp(min=TINY, max=1)
    worst = number * m.square() + (m * total / v).square()
    for n in range(1, share.shape[1]):
        corner = n * (1 - m).square() + (number - n) * m.square()
        off = torch.maximum(*((sums[:, n - 1].clamp(max=1) - m * total).abs() for sums in (smallest, largest)))
        worst = torch.where(n <= most, torch.maximum(worst, corner + (off / v).square()), worst)
    return m, torch.where(number > 0, worst, 0.0).sqrt()
