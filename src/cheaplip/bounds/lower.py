"""Lower bounds of Lip(f), attained: by a pair of inputs, or in the limit at a point. The witness is returned.

Reported values are computed in float64: in float32 the quotient of two close points is dominated by rounding.
"""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor, nn

from ..arguments import checked
from ..domains import Ball, Domain, box_of, projected
from ..errors import InputError
from ..inference import Model, evaluating, in_float32, in_float64
from ..norms import per_sample, sample_norm
from ..pairs import ascent
from ..pairs.quotient import pair_quotient
from ..pairs.sets import PairSet
from .climbing import climb_jacobian, pays
from .jacobian import JACOBIAN_NORMS, LowerBound, check_finite, jacobian_lower_bound

RESTARTS, RESTARTS_INSIDE = 150, 16
"""Random pairs beside those from inputs: without a domain, and in one, where inputs have measured as good starts."""
BOXES = ((1, 1 / 3), (5, 1 / 6))
"""Searched first where there is no domain: widths in units of what the inputs span, and shares of the time."""
FINALISTS = 8
"""Pairs that take the most ascent steps."""
ROUGH_SEPARATION = 1e-2
"""In float32 pairs are kept this far apart, in units of their mean distance: differences of points and outputs are rounded."""


@checked
def lower_bound(
    model: nn.Module,
    inputs: Tensor,
    *,
    domain: Domain | None = None,
    pairs: PairSet | None = None,
    steps: int = 50,
    input_norm: float = 2,
    output_norm: float = 2,
    budget: float | None = None,
) -> LowerBound:
    """The largest of the quotients after ascent and the norms of Jacobians.

    Ascent starts from the inputs, from `pairs`, and from random pairs that are far apart: anywhere in the domain, or,
    without one, as far out as the inputs reach and further, and also where the inputs lie. Jacobians are taken beside the
    inputs.

    Args:
        model: f.
        inputs: start points, `(n, *input)`.
        domain: box or ball to stay in.
        pairs: further start pairs.
        steps: of each round of the ascent from inputs and `pairs`; random pairs take four times as many.
        input_norm: exponent of the norm on inputs.
        output_norm: exponent of the norm on outputs.
        budget: seconds after which to stop with what there is; None: until the searches converge.

    Raises:
        InputError: no inputs, inputs or a model that are not finite.

    Example:
        >>> round(lower_bound(nn.Linear(2, 1), torch.zeros(1, 2), budget=10).value, 3) > 0
        True
    """
    deadline = math.inf if budget is None else time.monotonic() + budget
    if len(inputs) == 0 or not inputs.isfinite().all():
        raise InputError("at least one finite input to start from", tuple(inputs.shape), "Give some samples.")
    x = inputs.detach().double()
    low, high = (x.amin(), x.amax()) if domain is None else (end.to(x) for end in box_of(domain, tuple(x.shape[1:])))
    u = x.clamp(low, high)
    norms = {"input_norm": input_norm, "output_norm": output_norm}
    candidates = []
    if domain is None and bool(low < high):  # never below the bound on the box that the inputs span, rarely on a wider one
        for wider, share in BOXES if pays(x) else BOXES[:1]:
            reach, part = (wider - 1) / 2 * (high - low), None if budget is None else share * budget
            box = float(low - reach), float(high + reach)
            candidates.append(lower_bound(model, inputs, domain=box, pairs=pairs, steps=steps, budget=part, **norms))
    generator = torch.Generator().manual_seed(0)
    # each entry moves towards the far end of the range, so that no start pair vanishes in the box
    width = (high - low).clamp(min=1e-3) if domain is None else high - low
    inwards = torch.where(u > (low + high) / 2, -1.0, 1.0) * width
    away = inwards * torch.rand(u.shape, generator=generator).to(u)
    v = u + 0.1 * away
    jittered = u + 1e-6 * away  # inputs may lie on kinks of f (a black image, no biases); random points do not
    if pairs is not None:
        u, v = torch.cat([u, pairs.u.to(u)]), torch.cat([v, pairs.v.to(v)])
    for found in candidates:  # and on from there
        first, second = found.witness[0][None].to(u), found.witness[-1][None].to(u)
        if len(found.witness) == 2:
            u, v = torch.cat([u, first]), torch.cat([v, second])
        jittered = torch.cat([jittered, first])
    ends = low + width * torch.rand(2, RESTARTS_INSIDE, *x.shape[1:], generator=generator).to(u)
    starts = [(u, v, steps), (ends[0], ends[1], 4 * steps)]
    if domain is None:  # where far away f has its steepest slopes, wide pairs find them
        centre = (low + high) / 2 + width * torch.randn(RESTARTS, *x.shape[1:], generator=generator).to(u)
        gap = torch.tensor([3.0, 10.0, 30.0])[torch.arange(RESTARTS) % 3].to(u)
        far_points = centre + per_sample(gap, centre) * width * torch.randn(centre.shape, generator=generator).to(u)
        starts.append((centre, far_points, 4 * steps))
    full_dimensional = domain is None or bool((low < high).all())  # across an input that is held, f may be steeper
    if (input_norm, output_norm) in JACOBIAN_NORMS and full_dimensional:
        inside = torch.cat([jittered, ends[0]])
        inside = inside if domain is None else projected(inside, domain)
        candidates.append(jacobian_lower_bound(model, inside, deadline=_part_of(deadline, 4), **norms))
        if pays(inside):
            candidates.append(climb_jacobian(model, inside, domain, deadline=_part_of(deadline, 3), **norms))
    for i, (first, second, n) in enumerate(starts):
        until = _part_of(deadline, len(starts) - i)
        candidates.append(pair_lower_bound(model, first, second, steps=n, domain=domain, deadline=until, **norms))
    return max(candidates, key=lambda bound: bound.value)


def _part_of(deadline: float, parts: int) -> float:
    """When one of so many equal parts of the time that is left is over."""
    now = time.monotonic()
    return now + (deadline - now) / parts


def pair_lower_bound(
    model: Model,
    u: Tensor,
    v: Tensor,
    *,
    steps: int = 100,
    domain: Domain | None = None,
    separation: float = 1e-4,
    input_norm: float = 2,
    output_norm: float = 2,
    deadline: float = math.inf,
) -> LowerBound:
    """The largest quotient after ascent from the pairs (u, v): `steps` for all, as many again for the best quarter, and so on.

    A step counts only where it raises the quotient. All rounds but the last are in float32, with pairs further apart, unless
    the network has parameters of float64 or the inputs are large beside their distances. The last one has the best of the
    given pairs among its own, so that the result is no less.

    Args:
        model: f.
        u: first points, `(pairs, *input)`.
        v: second points.
        steps: ascent steps of a round.
        domain: box or ball that the points must not leave; they are projected onto it first.
        separation: pairs are kept this far apart, in units of their mean distance; nearer ones count once they are.
        input_norm: exponent of the norm on inputs.
        output_norm: exponent of the norm on outputs.
        deadline: `time.monotonic()` at which to stop with what there is.

    Raises:
        InputError: a model whose outputs are not finite.
    """
    f = in_float64(model)
    points = torch.stack([u, v], dim=1).detach().double()  # (pairs, 2, *input)
    if domain is not None:
        points = projected(points, domain)
    gap = sample_norm(points[:, 0] - points[:, 1], input_norm)
    # rounding alone makes steep quotients of pairs that are nearer than this
    rounding = 1e-10 * float(sample_norm(points[:, 0], input_norm).max())
    floor = max(separation * float(gap.mean()), rounding)
    given = pair_quotient(f, points, input_norm, output_norm)
    check_finite(given)
    order = torch.where(gap >= floor, given, 0.0).argsort(descending=True)
    points = points[order]
    best = points[0]

    def climb(model: Model, points: Tensor, min_distance: float) -> tuple[Tensor, Tensor]:
        box = None if domain is None else box_of(domain, tuple(u.shape[1:]))

        # the projection onto a ball brings no two points further apart: a quotient of f after it is one of f, or less
        def inside(x: Tensor) -> Tensor:
            with evaluating(model):
                return model(projected(x, domain)) if isinstance(domain, Ball) else model(x)

        return ascent.climb(
            inside,
            points,
            steps=steps,
            separation=min_distance,
            domain=None if box is None else (box[0].to(points), box[1].to(points)),
            input_norm=input_norm,
            output_norm=output_norm,
            deadline=deadline,
        )

    min_distance = max(floor, ROUGH_SEPARATION * float(gap.mean()))
    float32_model = in_float32(model) if 1e5 * rounding <= min_distance else None
    while len(points) > FINALISTS and time.monotonic() <= deadline:
        points, quotient = (
            climb(f, points, floor) if float32_model is None else climb(float32_model, points.float(), min_distance)
        )
        points = points[quotient.topk(max(FINALISTS, len(points) // 4)).indices].double()
        if domain is not None:
            points = projected(points, domain)
    points, quotient = climb(f, torch.cat([points[:FINALISTS], best[None]]), floor)
    if isinstance(domain, Ball):
        points = projected(points, domain)
        with torch.no_grad():
            quotient = pair_quotient(f, points, input_norm, output_norm)
        quotient = torch.where(sample_norm(points[:, 0] - points[:, 1], input_norm) >= floor, quotient, 0.0)
    first = int(quotient.argmax())
    return LowerBound(float(quotient[first]), "ascent on pairs", (points[first, 0], points[first, 1]))
