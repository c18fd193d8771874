"""Where a value of the network lies while the input lies in its domain: in a box, and within a distance of a centre.

Through linear layers a box grows by |W| times its radius (Gowal et al. 2018), the distance by the norm of W, which in many
dimensions is far less. Both are kept, and each limits the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...domains import Ball, Domain, box_of
from ..rounding import INTERVALS

Shape = tuple[int, ...]
"""Of one sample, without the batch dimension."""


@dataclass(frozen=True)
class Region:
    """All values between low and high, entry by entry, and within `reach` of the centre, all `(1, *shape)`, float64."""

    low: Tensor
    high: Tensor
    centre: Tensor
    reach: float = math.inf

    @property
    def bounded(self) -> bool:
        """Whether every entry has both ends."""
        return bool(self.low.isfinite().all() and self.high.isfinite().all())

    def middle(self) -> tuple[Tensor, Tensor]:
        """Middle and half width of the box."""
        return (self.low + self.high) / 2, (self.high - self.low) / 2

    def size(self) -> Tensor:
        """The largest absolute value of each entry."""
        return torch.maximum(self.low.abs(), self.high.abs())


def everywhere(shape: Shape) -> Region:
    """All reals."""
    zeros = torch.zeros(1, *shape, dtype=torch.float64)
    return Region(zeros - math.inf, zeros + math.inf, zeros)


def of_domain(domain: Domain | None, shape: Shape) -> Region:
    """The inputs of the domain."""
    if domain is None:
        return everywhere(shape)
    low, high = box_of(domain, shape)
    low, high = low.cpu(), high.cpu()
    if isinstance(domain, Ball):
        return Region(low, high, domain.centre.detach().cpu().double()[None], domain.radius)
    return Region(low, high, (low + high) / 2, float(torch.linalg.vector_norm((high - low) / 2)) * (1 + INTERVALS))


def limited(low: Tensor, high: Tensor, centre: Tensor, reach: float) -> Region:
    """The region of these, widened by the rounding errors of a layer; ends that are not numbers are infinite."""
    low, high = low.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf), high.nan_to_num(nan=math.inf, posinf=math.inf)
    if math.isfinite(reach):
        reach = reach * (1 + INTERVALS) + INTERVALS * float(torch.linalg.vector_norm(centre))
        low, high = torch.maximum(low, centre - reach), torch.minimum(high, centre + reach)
    if not low.numel():
        return Region(low, high, centre, reach)
    ends = torch.maximum(low.abs(), high.abs())
    slack = INTERVALS * ends.where(ends.isfinite(), 0.0).max()
    low, high = low - slack, high + slack
    if bool(low.isfinite().all() and high.isfinite().all()):
        from_centre = torch.linalg.vector_norm(torch.maximum(high - centre, centre - low))
        reach = min(reach, float(from_centre) * (1 + INTERVALS))
    return Region(low, high, centre, reach)
