"""On which inputs a bound is meant: a box or a Euclidean ball; and the intervals that a chain's layers then see.

Interval bound propagation (Gowal et al. 2018): through a linear layer centre and radius, |W| times the radius; through
monotone activations the ends. In float64, widened by `rounding.INTERVALS` at each layer for its rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...domains import Ball, Domain, box_of
from ..rounding import INTERVALS
from .activations import acts_entrywise, slope_interval
from .constants import Linear, MaxPool, Reshaping, absolute, exact_copy
from .layer import Layer


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
        slack = INTERVALS * torch.maximum(low.abs(), high.abs()).max()
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
