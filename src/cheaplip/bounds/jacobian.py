"""Norms of the Jacobian of f at given points: the supremum over all points is Lip(f)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..errors import InputError
from ..inference import Model, evaluating, in_float64
from ..norms import dual_exponent, sample_unit

CHUNK = 250
"""Points whose Jacobians are in memory at once."""
ROWS = 64
"""With more outputs than this the 2-norm is found by power iteration, not from one backward pass an output."""
ITERATIONS = 10
"""Of the power iteration, at least; and five times as many at most."""
JACOBIAN_NORMS = {(2, 2), (2, math.inf), (math.inf, math.inf)}
"""Input and output norms for which the norm of a matrix has a formula."""


@dataclass(frozen=True)
class LowerBound:
    """A value that Lip(f) is at least, and where it is attained."""

    value: float
    method: str
    witness: tuple[Tensor, ...]  # a pair (u, v), or one point x at which the Jacobian has this norm


def jacobian_lower_bound(
    model: Model, x: Tensor, *, input_norm: float = 2, output_norm: float = 2, deadline: float = math.inf
) -> LowerBound:
    """The largest operator norm of the Jacobian of f at the points x, `(n, *input)`: Lip(f) is its supremum.

    The points must not lie on kinks of f: there, what autograd gives may be no derivative. `lower_bound` therefore takes
    random points beside the inputs.

    Args:
        model: f.
        x: the points.
        input_norm: exponent of the norm on inputs.
        output_norm: exponent of the norm on outputs.
        deadline: `time.monotonic()` at which to stop with the points and the rows there are by then.

    Raises:
        InputError: a model whose Jacobian is not finite, norms without a formula (from inf to 2).
    """
    f, best = in_float64(model), LowerBound(0.0, "norm of the Jacobian", (x.detach()[0].double(),))
    for points in x.detach().double().split(CHUNK):
        norms = jacobian_norms(f, points, input_norm=input_norm, output_norm=output_norm, deadline=deadline)
        if float(norms.max()) > best.value:
            best = LowerBound(float(norms.max()), best.method, (points[norms.argmax()],))
        if time.monotonic() > deadline:
            break
    return best


def jacobian_norms(
    model: Model, x: Tensor, *, input_norm: float = 2, output_norm: float = 2, deadline: float = math.inf
) -> Tensor:
    """Operator norm of the Jacobian of f at each point of x, `(n, *input)` -> `(n,)`; nearly, for many outputs: never more.

    Rows that are not made by the deadline are left out, which can only lower the norm.
    """
    if (input_norm, output_norm) not in JACOBIAN_NORMS:
        do = "Use pairs for others."
        raise InputError("norms (2, 2), (2, inf) or (inf, inf) for the Jacobian", (input_norm, output_norm), do)
    x = x.detach().requires_grad_()
    with evaluating(model), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # the other kernels have no second derivative
        outputs = model(x).reshape(len(x), -1)
        if output_norm == 2 and outputs.shape[1] > ROWS and math.prod(x.shape[1:]) > 1:
            return _by_power_iteration(outputs, x, deadline)
        rows: list[Tensor] = []
        for output in outputs.unbind(1):
            if rows and time.monotonic() > deadline:
                break
            rows.append(torch.autograd.grad(output.sum(), x, retain_graph=True)[0])
    jacobian = torch.stack([row.reshape(len(x), -1) for row in rows], dim=1)  # (n, outputs, inputs)
    check_finite(jacobian)
    norms: Tensor
    if output_norm == math.inf:
        norms = torch.linalg.vector_norm(jacobian, ord=dual_exponent(input_norm), dim=2).amax(1)
        return norms
    # the Gram matrix is far smaller than the Jacobian, and float64 leaves half its digits to the root
    gram = jacobian @ jacobian.mT if jacobian.shape[1] <= jacobian.shape[2] else jacobian.mT @ jacobian
    norms = torch.linalg.eigvalsh(gram)[:, -1].clamp(min=0).sqrt()
    return norms


def jacobian_gradients(model: Model, x: Tensor, *, input_norm: float = 2, output_norm: float = 2) -> Tensor:
    """Gradients of the norms of the Jacobian at x, `(n, *input)`; zeros for many outputs, or without a second derivative.

    The norm is that of J^T u for the u of the largest value, which may be held while x moves.
    """
    x = x.detach().requires_grad_()
    none = torch.zeros_like(x)
    with evaluating(model), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        outputs = model(x).reshape(len(x), -1)
        count = outputs.shape[1]
        if count > ROWS:
            return none
        u = torch.ones_like(outputs)
        if count > 1:
            rows = [torch.autograd.grad(output.sum(), x, retain_graph=True)[0].flatten(1) for output in outputs.unbind(1)]
            jacobian = torch.stack(rows, dim=1)
            if output_norm == math.inf:
                lengths = torch.linalg.vector_norm(jacobian, ord=dual_exponent(input_norm), dim=2)
                u = torch.nn.functional.one_hot(lengths.argmax(1), count).to(x)
            else:
                u = torch.linalg.svd(jacobian, full_matrices=False).U[:, :, 0]
        (pulled,) = torch.autograd.grad(outputs, x, u, create_graph=True)
        if not pulled.requires_grad:
            return none
        norm = torch.linalg.vector_norm(pulled.flatten(1), ord=dual_exponent(input_norm), dim=1)
        try:
            (gradient,) = torch.autograd.grad(norm.sum(), x, allow_unused=True)
        except RuntimeError:  # functions of one's own may have one derivative alone
            return none
    return none if gradient is None else gradient.nan_to_num(0.0, 0.0, 0.0)


def _by_power_iteration(outputs: Tensor, x: Tensor, deadline: float) -> Tensor:
    """|J v| for unit v after steps v <- J^T J v."""
    weight = torch.zeros_like(outputs, requires_grad=True)
    (pulled,) = torch.autograd.grad(outputs, x, weight, create_graph=True)  # J^T weight, linear in weight

    def pushed(v: Tensor) -> Tensor:
        (image,) = torch.autograd.grad(pulled, weight, v, retain_graph=True)  # J v
        return image.detach()

    def pulled_back(u: Tensor) -> Tensor:
        (image,) = torch.autograd.grad(outputs, x, u, retain_graph=True)  # J^T u
        return image.detach()

    generator = torch.Generator().manual_seed(0)
    v = sample_unit(torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x))
    return _iterated(pushed, pulled_back, v, deadline)


def _iterated(push: Callable[[Tensor], Tensor], pull: Callable[[Tensor], Tensor], v: Tensor, deadline: float) -> Tensor:
    largest = v.new_zeros(len(v))
    for i in range(5 * ITERATIONS):
        u = push(v)
        norms = torch.linalg.vector_norm(u, dim=1)
        check_finite(norms)
        settled = float((norms - largest).amax()) <= 1e-4 * float(norms.amax())
        largest = torch.maximum(largest, norms)
        if time.monotonic() > deadline or (settled and i >= ITERATIONS):
            break
        v = sample_unit(pull(u))
    return largest


def check_finite(values: Tensor) -> None:
    """`InputError` unless they are."""
    if not values.isfinite().all():
        do = "Look for nan among its parameters: training may have diverged."
        raise InputError("a model with finite outputs and derivatives", "nan or inf", do)
