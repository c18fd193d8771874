"""L-BFGS (Nocedal 1980) with a line search that can step back from points where the objective is not finite.

Neither scipy's nor torch's can: their line searches stop at the first value that is not a number.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

from torch import Tensor

Objective = Callable[[Tensor], tuple[float, Tensor]]
"""From a point to the value, inf where there is none, and the gradient."""

MEMORY = 30
"""Steps that the inverse Hessian is made from."""


def minimise(
    objective: Objective, x: Tensor, *, iterations: int, deadline: float = math.inf, tolerance: float = 1e-7
) -> Tensor:
    """L-BFGS with backtracking; points where the objective is not finite are stepped back from. Never worse than x."""
    value, gradient = objective(x)
    history: deque[tuple[Tensor, Tensor]] = deque(maxlen=MEMORY)
    idle = 0
    for _ in range(iterations):
        direction = -_inverse_hessian(history, gradient)
        slope = float(direction @ gradient)
        if not slope < 0 or time.monotonic() > deadline:
            break
        size = min(1.0, 2.0 / float(direction.abs().max()))  # no multiplier moves by more than a factor of e^2
        for _ in range(30):
            proposal = x + size * direction
            proposed, proposed_gradient = objective(proposal)
            if proposed <= value + 1e-4 * size * slope:
                break
            if time.monotonic() > deadline:
                return x
            size /= 2
        else:
            if not history:
                break
            history.clear()  # start again along the gradient
            continue
        change, turn = proposal - x, proposed_gradient - gradient
        if change @ turn > 1e-12 * change.norm() * turn.norm():
            history.append((change, turn))
        idle = idle + 1 if value - proposed < tolerance else 0
        x, value, gradient = proposal, proposed, proposed_gradient
        if idle == 5:
            break
    return x


def _inverse_hessian(history: deque[tuple[Tensor, Tensor]], gradient: Tensor) -> Tensor:
    """The two-loop recursion of L-BFGS (Nocedal 1980)."""
    q = gradient.clone()
    steps = []
    for change, turn in reversed(history):
        alpha = (change @ q) / (change @ turn)
        steps.append(alpha)
        q -= alpha * turn
    if history:
        change, turn = history[-1]
        q *= (change @ turn) / (turn @ turn)
    for (change, turn), alpha in zip(history, reversed(steps), strict=True):
        q += (alpha - (turn @ q) / (change @ turn)) * change
    return q
