"""Lower bounds of Lip(f), attained: by a pair of inputs, or in the limit at a point. The witness is returned.

Reported values are computed in float64: in float32 the quotient of two close points is dominated by rounding.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..domains import Ball, Domain, box_of, projected
from ..errors import InputError
from ..inference import Model, evaluating, in_float32, in_float64
from ..norms import dual_exponent, per_sample, sample_norm
from ..pairs import ascent
from ..pairs.quotient import pair_quotient
from ..pairs.sets import PairSet

RESTARTS, RESTARTS_INSIDE = 150, 16
"""Random pairs beside those from inputs: without a domain, and in one, where inputs have measured as good starts."""
FINALISTS = 8
"""Pairs that take the most ascent steps."""
ROUGH_SEPARATION = 1e-2
"""In float32 pairs are kept this far apart, in units of their mean distance: differences of points and outputs are rounded."""
CHUNK = 250
"""Points whose Jacobians are in memory at once."""
JACOBIAN_NORMS = {(2, 2), (2, math.inf), (math.inf, math.inf)}
"""Input and output norms for which the norm of a matrix has a formula."""


@dataclass(frozen=True)
class LowerBound:
    """A value that Lip(f) is at least, and where it is attained."""

    value: float
    method: str
    witness: tuple[Tensor, ...]  # a pair (u, v), or one point x at which the Jacobian has this norm


def lower_bound(
    model: nn.Module,
    inputs: Tensor,
    *,
    domain: Domain | None = None,
    pairs: PairSet | None = None,
    steps: int = 50,
    input_norm: float = 2,
    output_norm: float = 2,
    deadline: float = math.inf,
) -> LowerBound:
    """The largest of the quotients after ascent and the norms of Jacobians.

    Ascent starts from the inputs, from `pairs`, and from random pairs that are far apart: anywhere in the domain, or,
    without one, as far out as the inputs reach and further. Jacobians are taken beside the inputs.

    Args:
        model: f.
        inputs: start points, `(n, *input)`.
        domain: box or ball to stay in.
        pairs: further start pairs.
        steps: of each round of the ascent from inputs and `pairs`; random pairs take four times as many.
        input_norm: exponent of the norm on inputs.
        output_norm: exponent of the norm on outputs.
        deadline: `time.monotonic()` at which the ascents stop with what they have.

    Raises:
        InputError: no inputs, inputs or a model that are not finite.
    """
    if len(inputs) == 0 or not inputs.isfinite().all():
        raise InputError("at least one finite input to start from", tuple(inputs.shape), "Give some samples.")
    x = inputs.detach().double()
    low, high = (x.amin(), x.amax()) if domain is None else (end.to(x) for end in box_of(domain, tuple(x.shape[1:])))
    u = x.clamp(low, high)
    generator = torch.Generator().manual_seed(0)
    # each entry moves towards the far end of the range, so that no start pair vanishes in the box
    width = (high - low).clamp(min=1e-3) if domain is None else high - low
    inwards = torch.where(u > (low + high) / 2, -1.0, 1.0) * width
    away = inwards * torch.rand(u.shape, generator=generator).to(u)
    v = u + 0.1 * away
    jittered = u + 1e-6 * away  # inputs may lie on kinks of f (a black image, no biases); random points do not
    if pairs is not None:
        u, v = torch.cat([u, pairs.u.to(u)]), torch.cat([v, pairs.v.to(v)])
    starts = [(u, v, steps)]
    if domain is None:  # where far away f has its steepest slopes, wide pairs find them
        centre = (low + high) / 2 + width * torch.randn(RESTARTS, *x.shape[1:], generator=generator).to(u)
        gap = torch.tensor([3.0, 10.0, 30.0])[torch.arange(RESTARTS) % 3].to(u)
        far_points = centre + per_sample(gap, centre) * width * torch.randn(centre.shape, generator=generator).to(u)
        starts.append((centre, far_points, 4 * steps))
    else:
        ends = low + width * torch.rand(2, RESTARTS_INSIDE, *x.shape[1:], generator=generator).to(u)
        starts.append((ends[0], ends[1], 4 * steps))
    norms = {"input_norm": input_norm, "output_norm": output_norm}
    candidates = [
        pair_lower_bound(model, first, second, steps=n, domain=domain, deadline=deadline, **norms)
        for first, second, n in starts
    ]
    full_dimensional = domain is None or bool((low < high).all())  # across an input that is held, f may be steeper
    if (input_norm, output_norm) in JACOBIAN_NORMS and full_dimensional:
        inside = jittered if domain is None else projected(jittered, domain)
        candidates.append(jacobian_lower_bound(model, inside, input_norm=input_norm, output_norm=output_norm))
    return max(candidates, key=lambda bound: bound.value)


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
    _check_finite(given)
    best = points[torch.where(gap >= floor, given, 0.0).argmax()]

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
    points, quotient = climb(f, torch.cat([points, best[None]]), floor)
    if isinstance(domain, Ball):
        points = projected(points, domain)
        with torch.no_grad():
            quotient = pair_quotient(f, points, input_norm, output_norm)
        quotient = torch.where(sample_norm(points[:, 0] - points[:, 1], input_norm) >= floor, quotient, 0.0)
    first = int(quotient.argmax())
    return LowerBound(float(quotient[first]), "ascent on pairs", (points[first, 0], points[first, 1]))


def jacobian_lower_bound(model: Model, x: Tensor, *, input_norm: float = 2, output_norm: float = 2) -> LowerBound:
    """The largest operator norm of the Jacobian of f at the points x, `(n, *input)`: Lip(f) is its supremum.

    One backward pass an output. The points must not lie on kinks of f: there, what autograd gives may be no derivative.
    `lower_bound` therefore takes random points beside the inputs.

    Raises:
        InputError: a model whose Jacobian is not finite, norms without a formula (from inf to 2).
    """
    f = in_float64(model)
    parts = x.detach().double().split(CHUNK)
    norms = torch.cat([jacobian_norms(f, points, input_norm=input_norm, output_norm=output_norm) for points in parts])
    best = int(norms.argmax())
    return LowerBound(float(norms[best]), "norm of the Jacobian", (x.detach()[best].double(),))


def jacobian_norms(model: Model, x: Tensor, *, input_norm: float = 2, output_norm: float = 2) -> Tensor:
    """Operator norm of the Jacobian of f at each point of x, `(n, *input)` -> `(n,)`."""
    if (input_norm, output_norm) not in JACOBIAN_NORMS:
        do = "Use pairs for others."
        raise InputError("norms (2, 2), (2, inf) or (inf, inf) for the Jacobian", (input_norm, output_norm), do)
    x = x.detach().requires_grad_()
    with evaluating(model), torch.enable_grad():
        outputs = model(x).reshape(len(x), -1)
        rows = [torch.autograd.grad(output.sum(), x, retain_graph=True)[0] for output in outputs.unbind(1)]
    jacobian = torch.stack([row.reshape(len(x), -1) for row in rows], dim=1)  # (n, outputs, inputs)
    _check_finite(jacobian)
    norms: Tensor
    if output_norm == math.inf:
        norms = torch.linalg.vector_norm(jacobian, ord=dual_exponent(input_norm), dim=2).amax(1)
        return norms
    # the Gram matrix is far smaller than the Jacobian, and float64 leaves half its digits to the root
    gram = jacobian @ jacobian.mT if jacobian.shape[1] <= jacobian.shape[2] else jacobian.mT @ jacobian
    norms = torch.linalg.eigvalsh(gram)[:, -1].clamp(min=0).sqrt()
    return norms


def _check_finite(values: Tensor) -> None:
    if not values.isfinite().all():
        do = "Look for nan among its parameters: training may have diverged."
        raise InputError("a model with finite outputs and derivatives", "nan or inf", do)
