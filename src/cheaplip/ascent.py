"""Algorithm 1: move the points of pairs so that their quotients rise. Pure functions; nobody's `.grad` is touched.

The paper's update is gradient ascent on L^2/2, one point at a time,

    u <- u + tau L(u, v) grad_u L(u, v),      v <- v + tau L(u, v) grad_v L(u, v).

Its length depends on the units of the inputs and, squared, of the outputs, so tau must be found again for every
network, and too large a tau makes pairs collapse and quotients blow up. `normalized_step` is the same direction with
the length |u - v| times a step size: the same path in any units.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .norms import per_sample, sample_norm
from .quotient import Model, difference_quotient

Points = tuple[Tensor, Tensor]
"""The two points of each pair, u and v, both `(pairs, *input)`; or a gradient for each."""

GROWTH = 1.3
"""Factor of a pair's step size after an accepted step, and its inverse after a refused one (authors' code)."""


def quotient_and_gradients(
    model: Model, u: Tensor, v: Tensor, input_norm: float = 2, output_norm: float = 2
) -> tuple[Tensor, Points]:
    """The quotients `(pairs,)` and the gradients of L^2/2 with respect to u and v, each `(pairs, *input)`."""
    u, v = u.detach().requires_grad_(), v.detach().requires_grad_()
    with torch.enable_grad():
        quotient = difference_quotient(model, u, v, input_norm, output_norm)
        grad_u, grad_v = torch.autograd.grad(quotient.square().sum() / 2, (u, v))
    return quotient.detach(), (grad_u, grad_v)


def printed_step(points: Points, gradients: Points, step_size: float | Tensor) -> Points:
    """One step of Algorithm 1 exactly as printed: u + tau L grad_u L, v + tau L grad_v L.

    Args:
        points: u and v, each `(pairs, *input)`.
        gradients: of L^2/2 with respect to u and v, that is, L grad L.
        step_size: tau, one number or one a pair `(pairs,)`; in units of input^4 / output^2.
    """
    (u, v), (grad_u, grad_v) = points, gradients
    tau = per_sample(torch.as_tensor(step_size, dtype=u.dtype, device=u.device), u)
    return u + tau * grad_u, v + tau * grad_v


def normalized_step(points: Points, gradients: Points, step_size: float | Tensor) -> Points:
    """A step along the same gradient with the length `step_size` |u - v|, both points' moves taken as one vector.

    Invariant to the units of inputs and outputs and to any positive factor on the gradients, which is why the gradient
    of a weighted penalty serves as well as that of L^2/2. A pair without a gradient stays where it is.

    Args:
        points: u and v, each `(pairs, *input)`.
        gradients: any positive multiple, pair by pair, of the gradient of L.
        step_size: length in units of |u - v| (dimensionless), one number or one a pair `(pairs,)`.
    """
    (u, v), (grad_u, grad_v) = points, gradients
    both = torch.stack([grad_u, grad_v], dim=1)  # (pairs, 2, *input)
    # first by the largest entry: squares of tiny gradients would underflow in the 2-norm
    largest = sample_norm(both, torch.inf)
    both = both / per_sample(torch.where(largest > 0, largest, 1.0), both)
    length = sample_norm(both)
    factor = step_size * sample_norm(u - v) / torch.where(length > 0, length, 1.0)
    move = per_sample(factor, both) * both
    return u + move[:, 0], v + move[:, 1]


def adapted(step_sizes: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Step sizes of `normalized_step` after seeing what a step did: 1.1 times where the quotient rose, 1/1.3 where it fell.

    Kept within [0.02, 1]: below, a pair would stand still; above, both points would jump past each other.

    Args:
        step_sizes: `(pairs,)`.
        before: quotients before the step, `(pairs,)`; nan where none is known, which leaves the step size.
        after: quotients after it, `(pairs,)`.
    """
    factor = torch.where(after > before, 1.1, torch.where(after < before, 1 / 1.3, 1.0))
    return (step_sizes * factor).clamp(0.02, 1.0)


def accepted_step(
    model: Model,
    points: Points,
    gradients: Points,
    quotient: Tensor,
    step_sizes: Tensor,
    *,
    separation: float | Tensor,
    domain: tuple[float, float] | None = None,
    input_norm: float = 2,
    output_norm: float = 2,
) -> tuple[Points, Tensor, Tensor]:
    """A printed step taken, pair by pair, only where it raises the quotient; the step sizes adapt.

    A pair's step size grows by `GROWTH` when its step is accepted and shrinks by it when refused (the authors' code
    computes this factor but forgets it). Costs one more forward pass over the pairs.

    Returns:
        The points, their quotients (never lower than `quotient`), the new step sizes `(pairs,)`.
    """
    proposal = keep_valid(printed_step(points, gradients, step_sizes), points, separation, domain, input_norm)
    with torch.no_grad():
        proposed = difference_quotient(model, *proposal, input_norm, output_norm)
    rises = proposed > quotient  # nan compares false: refused
    mask = per_sample(rises, points[0])
    moved = torch.where(mask, proposal[0], points[0]), torch.where(mask, proposal[1], points[1])
    step_sizes = torch.where(rises, step_sizes * GROWTH, step_sizes / GROWTH)
    return moved, torch.where(rises, proposed, quotient), step_sizes


def keep_valid(
    proposal: Points,
    points: Points,
    separation: float | Tensor,
    domain: tuple[float, float] | None = None,
    input_norm: float = 2,
) -> Points:
    """Make every proposed pair a valid one: finite, inside the domain, at least `separation` apart.

    A pair that came too close is stretched about its midpoint; both points are then projected onto the box `domain`;
    where that brought them too close again, or a value is not finite, the pair keeps its old `points`.
    """
    u, v = proposal
    gap, middle = u - v, (u + v) / 2
    distance = sample_norm(gap, input_norm)
    stretch = per_sample(torch.clamp(separation / torch.where(distance > 0, distance, 1.0), min=1), u)
    too_close = per_sample(distance < separation, u)
    u = torch.where(too_close, middle + stretch * gap / 2, u)
    v = torch.where(too_close, middle - stretch * gap / 2, v)
    if domain is not None:
        u, v = u.clamp(*domain), v.clamp(*domain)
    # 1e-3: a stretched pair may miss the separation by rounding
    distance = sample_norm(u - v, input_norm)
    valid = per_sample((distance >= separation * (1 - 1e-3)) & distance.isfinite(), u)
    return torch.where(valid, u, points[0]), torch.where(valid, v, points[1])
