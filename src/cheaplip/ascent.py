"""Algorithm 1: move the points of pairs so that their quotients rise. Pure functions; nobody's `.grad` is touched.

The paper's update is gradient ascent on L^2/2, one point at a time,

    u <- u + tau L(u, v) grad_u L(u, v),      v <- v + tau L(u, v) grad_v L(u, v).

Its length depends on the units of the inputs and, squared, of the outputs, so tau must be found again for every
network, and too large a tau makes pairs collapse and quotients blow up. `normalized_step` is the same direction with
the length |u - v| times a step size: the same path in any units.

The two points of each pair lie side by side in one tensor, `(pairs, 2, *input)`: one gather, one forward pass, one step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .norms import per_sample, sample_norm, sample_unit
from .quotient import Model, pair_quotient

GROWTH = 1.3
"""Factor of a pair's step size after an accepted step, and its inverse after a refused one (authors' code)."""


def quotient_and_gradient(model: Model, points: Tensor, input_norm: float = 2, output_norm: float = 2) -> tuple[Tensor, Tensor]:
    """The quotients `(pairs,)` and the gradient of L^2/2 with respect to the points, `(pairs, 2, *input)`."""
    points = points.detach().requires_grad_()
    # a backward pass run under autocast would round, whatever its forward pass did
    with torch.enable_grad(), torch.autocast(points.device.type, enabled=False):
        quotient = pair_quotient(model, points, input_norm, output_norm)
        (gradient,) = torch.autograd.grad(quotient.square().sum() / 2, points)
    return quotient.detach(), gradient


def printed_step(points: Tensor, gradient: Tensor, step_size: float | Tensor) -> Tensor:
    """One step of Algorithm 1 exactly as printed: u + tau L grad_u L, v + tau L grad_v L.

    Args:
        points: u and v of each pair, `(pairs, 2, *input)`.
        gradient: of L^2/2 with respect to the points, that is, L grad L.
        step_size: tau, one number or one a pair `(pairs,)`; in units of input^4 / output^2.
    """
    return points + per_sample(torch.as_tensor(step_size).to(points), points) * gradient


def normalized_step(points: Tensor, gradient: Tensor, step_size: float | Tensor) -> Tensor:
    """A step along the same gradient with the length `step_size` |u - v|, both points' moves taken as one vector.

    Invariant to the units of inputs and outputs and to any positive factor on the gradient. A pair without a gradient
    stays where it is.

    Args:
        points: u and v of each pair, `(pairs, 2, *input)`.
        gradient: any positive multiple, pair by pair, of the gradient of L.
        step_size: length in units of |u - v| (dimensionless), one number or one a pair `(pairs,)`.
    """
    length = (step_size * sample_norm(points[:, 0] - points[:, 1])).to(points)
    return torch.addcmul(points, per_sample(length, points), sample_unit(gradient))


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
    points: Tensor,
    gradient: Tensor,
    quotient: Tensor,
    step_sizes: Tensor,
    *,
    separation: float | Tensor,
    domain: tuple[float, float] | None = None,
    input_norm: float = 2,
    output_norm: float = 2,
) -> tuple[Tensor, Tensor, Tensor]:
    """A printed step taken, pair by pair, only where it raises the quotient; the step sizes adapt.

    A pair's step size grows by `GROWTH` when its step is accepted and shrinks by it when refused (the authors' code
    computes this factor but forgets it). Costs one more forward pass over the pairs.

    Returns:
        The points, their quotients (never lower than `quotient`), the new step sizes `(pairs,)`.
    """
    proposal = keep_valid(printed_step(points, gradient, step_sizes), points, separation, domain, input_norm)
    with torch.no_grad():
        proposed = pair_quotient(model, proposal, input_norm, output_norm)
    rises = proposed > quotient  # nan compares false: refused
    moved = torch.where(per_sample(rises, points), proposal, points)
    step_sizes = torch.where(rises, step_sizes * GROWTH, step_sizes / GROWTH)
    return moved, torch.where(rises, proposed, quotient), step_sizes


def keep_valid(
    proposal: Tensor,
    points: Tensor,
    separation: float | Tensor,
    domain: tuple[float, float] | None = None,
    input_norm: float = 2,
) -> Tensor:
    """Make every proposed pair, `(pairs, 2, *input)`, a valid one: finite, inside the domain, at least `separation` apart.

    A pair that came too close is stretched about its midpoint; both points are then projected onto the box `domain`;
    where that brought them too close again, or a value is not finite, the pair keeps its old `points`.
    """
    offset = proposal - proposal.mean(1, keepdim=True)  # from the midpoint
    distance = 2 * sample_norm(offset[:, 0], input_norm)
    stretch = (separation / torch.where(distance > 0, distance, 1.0)).clamp(min=1)
    proposal = torch.addcmul(proposal, per_sample(stretch - 1, proposal), offset)
    if domain is not None:
        proposal = proposal.clamp(*domain)
    # 1e-3: a stretched pair may miss the separation by rounding
    distance = sample_norm(proposal[:, 0] - proposal[:, 1], input_norm)
    valid = (distance >= separation * (1 - 1e-3)) & distance.isfinite()
    return torch.where(per_sample(valid, proposal), proposal, points)
