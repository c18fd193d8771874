"""On which inputs a bound is meant: a box or a Euclidean ball; and the intervals that a chain's layers then see.

Interval bound propagation (Gowal et al. 2018): through a linear layer centre and radius, |W| times the radius; through
monotone activations the ends. In float64, widened by `WIDER` at each layer for its rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import InputError
from ..multipliers.chain import Layer
from .activations import acts_entrywise, slope_interval
from .constants import Linear, MaxPool, Reshaping, absolute, exact_copy

WIDER = 1e-9
"""Share of the largest end by which intervals are widened after each layer."""


@dataclass(frozen=True)
class Ball:
    """All inputs within the Euclidean distance `radius` of `centre`, one input without a batch dimension."""

    centre: Tensor
    radius: float


Domain = tuple[float, float] | tuple[Tensor, Tensor] | Ball
"""A box (low, high), the same for all entries or one number an entry, or a ball."""


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
        return x.clamp(*(torch.as_tensor(end, dtype=torch.float64).to(x) for end in domain))
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


def layer_inputs(layers: Sequence[Layer], domain: Domain) -> list[tuple[Tensor, Tensor] | None]:
    """For each layer of a chain the interval of its input, `(*shape)` each; None from the first on that has no rule here."""
    low, high = box_of(domain, layers[0][1])
    ball = domain if isinstance(domain, Ball) else None
    seen: list[tuple[Tensor, Tensor] | None] = []
    for layer, _, out in layers:
        seen.append((low[0], high[0]))
        if isinstance(layer, Reshaping):
            low, high = low.reshape(1, *out), high.reshape(1, *out)
            continue
        if not isinstance(layer, Linear | MaxPool) and not acts_entrywise(layer):
            break
        low, high = _through(layer, low, high, ball)
        ball = None
        slack = WIDER * torch.maximum(low.abs(), high.abs()).max()
        low, high = low - slack, high + slack
    return seen + [None] * (len(layers) - len(seen))


def _through(layer: nn.Module, low: Tensor, high: Tensor, ball: Ball | None) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        f = exact_copy(layer)
        if isinstance(layer, Linear):
            centre, radius = f((low + high) / 2), absolute(layer)((high - low) / 2)
            if ball is not None and isinstance(layer, nn.Linear):
                squares = absolute(layer)
                squares.weight.square_()  # type: ignore[operator]
                radius = torch.minimum(radius, ball.radius * squares(torch.ones_like(low)).sqrt())
            return centre - radius, centre + radius
        ends = f(low), f(high)
        if not acts_entrywise(layer):
            return ends  # max-pooling is monotone
        steepest = torch.maximum(*(end.abs() for end in slope_interval(layer, low, high))) * (high - low)
        rising = slope_interval(layer, low, high)[0] >= 0
        least, largest = torch.minimum(*ends), torch.maximum(*ends)
        return torch.where(rising, least, largest - steepest), torch.where(rising, largest, least + steepest)
