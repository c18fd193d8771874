"""Algorithm 1: move the points of pairs so that their quotients rise. Pure functions; nobody's `.grad` is touched.

The paper's update is gradient ascent on L^2/2, one point at a time,

    u <- u + tau L(u, v) grad_u L(u, v),      v <- v + tau L(u, v) grad_v L(u, v).

Its length depends on the units of the inputs and, squared, of the outputs, so tau must be found again for every
network, and too large a tau makes pairs collapse and quotients blow up. `normalized_step` is the same direction with
the length |u - v| times a step size: the same path in any units.

The two points of each pair lie side by side in one tensor, `(pairs, 2, *input)`: one gather, one forward pass, one step.
"""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from ..domains import Box, projected
from ..inference import Model, evaluating
from ..norms import per_sample, sample_norm, sample_unit
from .quotient import pair_quotient

GROWTH = 1.3
"""Factor of a pair's step size after an accepted step, and its inverse after a refused one (authors' code)."""


def quotient_and_gradient(model: Model, points: Tensor, input_norm: float = 2, output_norm: float = 2) -> tuple[Tensor, Tensor]:
    """The quotients `(pairs,)` and the gradient of L^2/2 with respect to the points, `(pairs, 2, *input)`."""
    points = points.detach().requires_grad_()
    # the backward pass too: autocast would round in it, and recomputed activations are those of the mode that it runs in
    with torch.enable_grad(), torch.autocast(points.device.type, enabled=False), evaluating(model):
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
    length = (step_size * _distance(points)).to(points)
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
    return (step_sizes * factor.to(step_sizes)).clamp(0.02, 1.0)


def accepted_step(
    model: Model,
    points: Tensor,
    gradient: Tensor,
    quotient: Tensor,
    step_sizes: Tensor,
    *,
    separation: float | Tensor,
    domain: Box | None = None,
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


def climb(
    model: Model,
    points: Tensor,
    *,
    steps: int,
    separation: float,
    domain: Box | None = None,
    input_norm: float = 2,
    output_norm: float = 2,
    deadline: float = math.inf,
) -> tuple[Tensor, Tensor]:
    """Ascend until little is left to gain: `steps` normalised steps, each taken only where it raises the quotient.

    Args:
        model: f.
        points: u and v of each pair, `(pairs, 2, *input)`.
        steps: ascent steps; a pair's step size grows by `GROWTH` when one is taken and is halved when refused.
        separation: the least distance of a pair; the quotient of a nearer one counts as 0 until it is that far apart.
        domain: box that the points must not leave.
        input_norm: exponent of the norm on inputs.
        output_norm: exponent of the norm on outputs.
        deadline: `time.monotonic()` at which to stop with what there is.

    Returns:
        The points and their quotients `(pairs,)`, none lower than before.
    """
    sizes = points.new_full((len(points),), 0.5)
    quotient, gradient = quotient_and_gradient(model, points, input_norm, output_norm)
    quotient = torch.where(_distance(points, input_norm) >= separation, quotient, 0.0)
    for _ in range(steps):
        if time.monotonic() > deadline:
            break
        proposal = keep_valid(normalized_step(points, gradient, sizes), points, separation, domain, input_norm)
        proposed, proposed_gradient = quotient_and_gradient(model, proposal, input_norm, output_norm)
        apart = _distance(proposal, input_norm) >= 0.99 * separation  # not where keep_valid gave up
        rises = (proposed > quotient) & apart
        mask = per_sample(rises, points)
        points, gradient = torch.where(mask, proposal, points), torch.where(mask, proposed_gradient, gradient)
        quotient = torch.where(rises, proposed, quotient)
        sizes = torch.where(rises, sizes * GROWTH, sizes / 2).clamp(max=2.0)
    return points, quotient


def keep_valid(
    proposal: Tensor,
    points: Tensor,
    separation: float | Tensor,
    domain: Box | None = None,
    input_norm: float = 2,
) -> Tensor:
    """Make every proposed pair, `(pairs, 2, *input)`, a valid one: finite, inside the domain, at least `separation` apart.

    A pair that came too close is stretched about its midpoint; both points are then projected onto the box `domain`;
    where that brought them too close again, or a value is not finite, the pair keeps its old `points`.
    """
    gap = proposal[:, 0] - proposal[:, 1]
    distance = sample_norm(gap, input_norm)
    missing = ((separation / torch.where(distance > 0, distance, 1.0)).clamp(min=1) - 1) / 2  # at each end, in gaps
    ends = torch.stack([missing, -missing], dim=1).reshape(-1, 2, *[1] * (gap.dim() - 1))
    proposal = torch.addcmul(proposal, ends, gap[:, None])
    if domain is not None:
        proposal = projected(proposal, domain)
    # 1e-3: a stretched pair may miss the separation by rounding
    distance = _distance(proposal, input_norm)
    valid = (distance >= separation * (1 - 1e-3)) & distance.isfinite()
    return torch.where(per_sample(valid, proposal), proposal, points)


def _distance(points: Tensor, input_norm: float = 2) -> Tensor:
    return sample_norm(points[:, 0] - points[:, 1], input_norm)
