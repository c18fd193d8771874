"""Lower bounds of Lip(f), attained: by a pair of inputs, or in the limit at a point. The witness is returned.

All in float64, so that a quotient is what it says also for pairs that have come close.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import ascent
from ..errors import InputError
from ..norms import sample_norm
from ..pairs import PairSet
from ..quotient import Model, evaluating, pair_quotient


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
    domain: tuple[float, float] | None = None,
    pairs: PairSet | None = None,
    steps: int = 50,
) -> LowerBound:
    """The larger of `pair_lower_bound` (from perturbed inputs and `pairs`) and `jacobian_lower_bound` beside the inputs.

    Raises:
        InputError: no inputs, inputs or a model that are not finite.
    """
    if len(inputs) == 0 or not inputs.isfinite().all():
        raise InputError("at least one finite input to start from", tuple(inputs.shape), "Give some samples.")
    low, high = domain or (float(inputs.amin()), float(inputs.amax()))
    u = inputs.detach().double().clamp(low, high)
    # each entry moves towards the far end of the range, so that no start pair vanishes in the box
    inwards = torch.where(u > (low + high) / 2, -1.0, 1.0) * max(high - low, 1e-3)
    away = inwards * torch.rand(u.shape, generator=torch.Generator().manual_seed(0)).to(u)
    v = u + 0.1 * away
    beside = u + 1e-6 * away  # inputs may lie on kinks of f (a black image, no biases); random points do not
    if pairs is not None:
        u, v = torch.cat([u, pairs.u.to(u)]), torch.cat([v, pairs.v.to(v)])
    candidates = [
        pair_lower_bound(model, u, v, steps=steps, domain=domain),
        jacobian_lower_bound(model, beside),
    ]
    return max(candidates, key=lambda bound: bound.value)


def pair_lower_bound(
    model: Model,
    u: Tensor,
    v: Tensor,
    *,
    steps: int = 100,
    domain: tuple[float, float] | None = None,
    separation: float = 1e-4,
    input_norm: float = 2,
    output_norm: float = 2,
) -> LowerBound:
    """The largest quotient after `steps` of ascent from the pairs (u, v); a step counts only where it raises the quotient.

    Args:
        model: f.
        u: first points, `(pairs, *input)`.
        v: second points.
        steps: ascent steps.
        domain: box that the points must not leave; they are projected onto it first.
        separation: pairs are kept this far apart, in units of their mean distance; nearer ones count once they are.
        input_norm: exponent of the norm on inputs.
        output_norm: exponent of the norm on outputs.

    Raises:
        InputError: a model whose outputs are not finite.
    """
    f = in_float64(model)
    points = torch.stack([u, v], dim=1).detach().double()  # (pairs, 2, *input)
    if domain is not None:
        points = points.clamp(*domain)
    gap = sample_norm(points[:, 0] - points[:, 1], input_norm)
    # rounding alone makes steep quotients of pairs that are nearer than this
    rounding = 1e-10 * float(sample_norm(points[:, 0], input_norm).max())
    floor = max(separation * float(gap.mean()), rounding)
    _check_finite(pair_quotient(f, points, input_norm, output_norm))
    norms = {"input_norm": input_norm, "output_norm": output_norm}
    points, quotient = ascent.climb(f, points, steps=steps, separation=floor, domain=domain, **norms)
    best = int(quotient.argmax())
    return LowerBound(float(quotient[best]), "ascent on pairs", (points[best, 0], points[best, 1]))


def jacobian_lower_bound(model: Model, x: Tensor, *, chunk: int = 250) -> LowerBound:
    """The largest spectral norm of the Jacobian of f at the points x, `(n, *input)`: Lip(f) for the 2-norm is its supremum.

    One backward pass an output. The points must not lie on kinks of f: there, what autograd gives may be no derivative.
    `lower_bound` therefore takes random points beside the inputs.

    Raises:
        InputError: a model whose Jacobian is not finite.
    """
    f = in_float64(model)
    norms = torch.cat([jacobian_norms(f, points) for points in x.detach().double().split(chunk)])
    best = int(norms.argmax())
    return LowerBound(float(norms[best]), "norm of the Jacobian", (x.detach()[best].double(),))


def jacobian_norms(model: Model, x: Tensor) -> Tensor:
    """Spectral norm of the Jacobian of f at each point of x, `(n, *input)` -> `(n,)`."""
    x = x.detach().requires_grad_()
    with evaluating(model), torch.enable_grad():
        outputs = model(x).reshape(len(x), -1)
        rows = [torch.autograd.grad(output.sum(), x, retain_graph=True)[0] for output in outputs.unbind(1)]
    jacobian = torch.stack([row.reshape(len(x), -1) for row in rows], dim=1)  # (n, outputs, inputs)
    _check_finite(jacobian)
    # the Gram matrix is far smaller than the Jacobian, and float64 leaves half its digits to the root
    gram = jacobian @ jacobian.mT if jacobian.shape[1] <= jacobian.shape[2] else jacobian.mT @ jacobian
    norms: Tensor = torch.linalg.eigvalsh(gram)[:, -1].clamp(min=0).sqrt()
    return norms


def in_float64(model: Model) -> Model:
    """A float64 copy of a network; a function that is not a module is returned as it is."""
    return copy.deepcopy(model).double() if isinstance(model, nn.Module) else model


def _check_finite(values: Tensor) -> None:
    if not values.isfinite().all():
        do = "Look for nan among its parameters: training may have diverged."
        raise InputError("a model with finite outputs and derivatives", "nan or inf", do)
