"""The largest radii round points within which the certificate proves that no other output becomes the largest."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ..rounding import NEXT
from .certificate import Certificate
from .metric import TooWideError
from .steps import Bent, Steps

FIRST = 0.2
"""The first radius of the first point, as a share of what the gradients there allow; then that of the point before."""
TRIES = 3
"""Radii tried in float32."""
NEAR = 0.03
"""A radius that is so near to the one it proves is good enough."""
BACK = 0.98
"""Share of the radius found in float32 that is tried in float64."""
POWER = 4.0
"""How fast the proved radius falls with the radius tried, at first."""


@torch.no_grad()
def certified_distances(exact: Steps, x: Tensor, constants: Tensor, margins: Tensor) -> Tensor:
    """For each point a distance within which its largest output stays the largest, `(points,)`, float64.

    The radius is searched in float32, where nothing is proved. The proof is one evaluation in float64.

    Args:
        exact: the network, in float64.
        x: the points, `(points, *shape)`.
        constants: `(points, outputs)`, for each point and output one of f_best - f_j anywhere.
        margins: `(points, outputs)`, by how much the largest output is larger; inf for itself.
    """
    quick, linear = exact.to(torch.float32), not any(isinstance(step, Bent) for step in exact.steps)
    found, first = [], FIRST
    for point, constant, margin in zip(x, constants, margins, strict=True):
        everywhere = float((margin / constant).nan_to_num(0.0, posinf=math.inf).amin())
        reached = partial(_reached, values=exact.at(point), constants=constant, margin=margin)
        high = reached(exact if linear else quick, 0.0)
        if linear or not everywhere < high < math.inf:
            found.append(max(everywhere, high) if linear else everywhere)
            continue
        radius = searched(partial(reached, quick), everywhere, high, first)
        found.append(max(everywhere, min(radius, reached(exact, radius))))
        first = radius / high
    return torch.tensor(found, dtype=torch.float64)


def _reached(steps: Steps, radius: float, *, values: list[Tensor], constants: Tensor, margin: Tensor) -> float:
    """The distance that the ball of a radius proves, as far as it is within; 0 where there are too many errors for a proof."""
    rows = -torch.eye(len(margin)).double()
    rows[:, int(margin.argmax())] += 1
    try:
        own = torch.minimum(Certificate(steps, values, radius).lengths(rows) * NEXT, constants)
    except TooWideError:
        return 0.0
    return float((margin / own).nan_to_num(0.0, posinf=math.inf).amin())


def searched(reached: Callable[[float], float], low: float, high: float, first: float) -> float:
    """A little less than about the largest r with reached(r) >= r, from the share `first` of high on.

    Args:
        reached: so that reached(r) / r falls, about as a power of r.
        low: a radius with reached(r) >= r.
        high: one with reached(r) <= r.
        first: of high.
    """
    radius, last, power = min(max(first * high, low), high), None, POWER
    for _ in range(TRIES):
        ratio = max(reached(radius) / radius, 1e-3)
        low, high = (radius, high) if ratio >= 1 else (low, radius)
        if abs(ratio - 1) < NEAR:
            break
        if last is not None and last[0] != radius:
            power = min(max(math.log(last[1] / ratio) / math.log(radius / last[0]), 1.0), 2 * POWER)
        last = radius, ratio
        radius = min(max(radius * ratio ** (1 / power), low), high)
    return BACK * radius
