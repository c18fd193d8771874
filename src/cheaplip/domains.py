"""On which inputs a statement holds: a box or a Euclidean ball."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import InputError


@dataclass(frozen=True)
class Ball:
    """All inputs within the Euclidean distance `radius` of `centre`, one input without a batch dimension."""

    centre: Tensor
    radius: float


Box = tuple[float, float] | tuple[Tensor, Tensor]
"""(low, high): the same for all entries, or one number an entry."""
Domain = Box | Ball


def box_of(domain: Domain, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The smallest box round the domain, float64 `(1, *input)` each; `InputError` if it is none or of another shape."""
    if isinstance(domain, Ball):
        centre, radius = domain.centre, domain.radius
        if not 0 < radius < math.inf:
            raise InputError("a ball of finite radius > 0", radius, "Give a positive radius.")
        low, high = centre.double() - radius, centre.double() + radius
    else:
        low, high = (torch.as_tensor(end, dtype=torch.float64) for end in domain)  # 0.7 is no float32
    try:
        low, high = (end.expand(shape)[None] for end in torch.broadcast_tensors(low.detach(), high.detach()))
    except RuntimeError:
        got = f"shapes {tuple(low.shape)} and {tuple(high.shape)}"
        raise InputError(f"a domain of inputs of shape {shape}", got, "Leave the batch dimension away.") from None
    if not (low <= high).all() or not (low.isfinite().all() and high.isfinite().all()):
        raise InputError("a domain with finite low <= high", f"{domain}", "Swap or correct the ends.")
    return low, high


def projected(x: Tensor, domain: Domain) -> Tensor:
    """The nearest points of the domain, `(..., *input)`."""
    if not isinstance(domain, Ball):
        low, high = domain
        if not isinstance(low, Tensor) and not isinstance(high, Tensor):
            return x.clamp(low, high)
        return x.clamp(torch.as_tensor(low, dtype=torch.float64).to(x), torch.as_tensor(high, dtype=torch.float64).to(x))
    offset = x - domain.centre.to(x)
    axes = tuple(range(-domain.centre.dim(), 0))
    length = torch.linalg.vector_norm(offset, dim=axes or None, keepdim=True) if axes else offset.abs()
    return domain.centre.to(x) + offset * (domain.radius / length.clamp(min=1e-30)).clamp(max=1.0)


def describe(domain: Domain | None) -> str:
    """The domain in words."""
    if domain is None:
        return "all inputs"
    if isinstance(domain, Ball):
        return f"inputs within {domain.radius:g} of a point"
    low, high = (torch.as_tensor(end) for end in domain)
    if low.dim() == high.dim() == 0:
        return f"inputs in [{float(low):g}, {float(high):g}]"
    return "inputs in a box"
