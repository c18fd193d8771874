"""A search for the point at which the Jacobian is largest: along gradients, and by random steps from the better of two points.

The Jacobian of a network of straight pieces is constant on each of them, so that no gradient tells where the next larger one
is. In up to some dozen inputs random steps of all sizes find it within a second. Of smooth networks the gradient leads there,
whatever the number of inputs.
"""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from ..domains import Ball, Domain, box_of, projected
from ..inference import Model, in_float64
from ..norms import sample_norm
from .jacobian import LowerBound, jacobian_gradients, jacobian_norms

FEW = 64
"""With more inputs than this, ascent on pairs finds more."""
POINTS, ROUNDS, IDLE = 256, 200, 40
"""Points at a time; rounds at most, and without a gain."""
UPHILL, GROWTH, SHRINKING = 40, 1.3, 0.5
"""Steps along the signs of the gradient, and what the step of an entry changes by where its sign is the same, or has turned
(resilient propagation, Riedmiller and Braun 1993)."""
DECADES = 4
"""Steps are between the width of the search and so many powers of ten less."""
MARGIN = 1e-6
"""Share of a box's width by which points keep away from its sides: there may be kinks, where no derivative is."""


@torch.no_grad()
def climb_jacobian(
    model: Model, inputs: Tensor, domain: Domain | None, *, input_norm: float, output_norm: float, deadline: float
) -> LowerBound:
    """The largest norm met.

    Args:
        model: f.
        inputs: start points `(n, *input)`, float64, besides random ones; without a domain their range tells the width.
        domain: box or ball to stay in.
        input_norm: 2 or inf.
        output_norm: 2 or inf.
        deadline: `time.monotonic()` at which to stop with what there is.
    """
    f, generator = in_float64(model), torch.Generator().manual_seed(0)
    shape = tuple(inputs.shape[1:])
    low, high = (inputs.amin(), inputs.amax()) if domain is None else (end.to(inputs) for end in box_of(domain, shape))
    width = (high - low).clamp(min=1e-3) if domain is None else high - low

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64).to(inputs)

    def uniform(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator, dtype=torch.float64).to(inputs)

    def inside(x: Tensor) -> Tensor:
        if domain is None:
            return x
        return projected(x, domain) if isinstance(domain, Ball) else x.clamp(low + MARGIN * width, high - MARGIN * width)

    def norms(x: Tensor) -> Tensor:
        return jacobian_norms(f, x, input_norm=input_norm, output_norm=output_norm, deadline=deadline)

    one = [1] * len(shape)
    x = low + width * uniform(POINTS, *shape)
    if domain is None:  # and further out
        x = (low + high) / 2 + (x - (low + high) / 2) * 10 ** (2 * uniform(POINTS, *one) - 0.5)
    x = inside(torch.cat([x, inputs[:POINTS]])[-POINTS:])
    found = norms(x)
    y, size, last = x, 0.1 * width * torch.ones_like(x), torch.zeros_like(x)
    for _ in range(UPHILL):
        uphill = jacobian_gradients(f, y, input_norm=input_norm, output_norm=output_norm)
        if not uphill.any() or time.monotonic() > deadline:
            break
        turned = uphill * last
        size = size * torch.where(turned < 0, SHRINKING, torch.where(turned > 0, GROWTH, 1.0))
        last, y = uphill, inside(y + size * uphill.sign())
        reached = norms(y)
        better = reached > found
        x, found = torch.where(better.reshape(-1, *one), y, x), torch.maximum(found, reached)
    idle = 0
    for _ in range(ROUNDS):
        if idle >= IDLE or time.monotonic() > deadline:
            break
        other = (uniform(POINTS) * POINTS).long().clamp(max=POINTS - 1)
        parents = x[torch.where(found >= found[other], torch.arange(POINTS).to(other), other)]
        size = width * 10 ** (-DECADES * uniform(POINTS, *one))
        if domain is None:
            size = size * (1 + sample_norm(parents).reshape(-1, *one) / width)
        moving = uniform(POINTS, *shape) < uniform(POINTS, *one)  # few entries, or many
        children = inside(parents + size * moving * normal(POINTS, *shape))
        reached = norms(children)
        idle = idle + 1 if float(reached.max()) <= (1 + 1e-4) * float(found.max()) else 0
        better = reached > found
        x, found = torch.where(better.reshape(-1, *one), children, x), torch.maximum(found, reached)
    return LowerBound(float(found.max()), "norm of the Jacobian", (x[found.argmax()],))


def pays(inputs: Tensor) -> bool:
    """Whether there are few enough inputs."""
    return 0 < math.prod(inputs.shape[1:]) <= FEW
