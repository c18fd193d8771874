"""The search for multipliers: L-BFGS on a smooth upper estimate of the certificate, in float64, always feasible.

The largest eigenvalue is replaced by (tr G^p)^(1/p), which is at most n^(1/p) times larger, and a logarithmic barrier of
weight 1/p keeps the multipliers inside; p grows. As a function of the multipliers the certificate is quasi-convex (its
level sets are those of a linear matrix inequality), so that a local minimum is the best one.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..rounding import TINY
from .certificate import Chain, output_gram, product_multipliers

POWERS = ((8, 1e-4), (128, 1e-5), (2048, 1e-6))
"""The powers p, and the gain (of a logarithm) below which a step counts as idle."""
PARTS = 2**26
"""No more entries than this (half a GiB) are made beforehand."""
Objective = Callable[[Tensor], tuple[float, Tensor]]


def search_multipliers(
    chain: Chain,
    *,
    start: Sequence[Tensor] | None = None,
    contrast: Tensor | None = None,
    iterations: int = 300,
    deadline: float = math.inf,
) -> list[Tensor]:
    """Logarithms of multipliers whose certificate is about as small as it can be; at least as good as the start.

    Args:
        chain: weights and slopes in float64.
        start: first logarithms, already good; by default those of the product of norms.
        contrast: `(k, outputs)` matrix put before the outputs, such as e_i - e_j for a difference of two logits.
        iterations: of L-BFGS, at each of the powers p.
        deadline: `time.monotonic()` at which to stop with what there is.
    """
    logs = list(product_multipliers(chain) if start is None else start)
    if not logs:
        return logs
    chain = _compressed(chain, contrast)
    sizes = [len(log) for log in logs]
    x = torch.cat(logs)
    parts = _parts(chain)
    for power, gain in POWERS if start is None else POWERS[1:2]:
        x = minimise(_objective(chain, parts, sizes, power), x, iterations=iterations, tolerance=gain, deadline=deadline)
    return list(x.split(sizes))


def _objective(chain: Chain, parts: list[Tensor | None], sizes: list[int], power: int) -> Objective:
    def value_and_gradient(x: Tensor) -> tuple[float, Tensor]:
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            gram, barrier = output_gram(chain.weights, list(x.split(sizes)), chain.slopes, parts=parts)
        if gram is None:
            return math.inf, x.detach()
        with torch.enable_grad():
            logs = torch.linalg.eigvalsh(gram).clamp(min=TINY).log()
            value = torch.logsumexp(power * logs.flatten(), 0) / power + barrier / power
            (gradient,) = torch.autograd.grad(value, x)
        return float(value.detach()), gradient

    return value_and_gradient


def _compressed(chain: Chain, contrast: Tensor | None) -> Chain:
    """The same certificate from a first weight with no more columns than rows: W_1 W_1^T is all that counts of it."""
    weights = list(chain.weights)
    if contrast is not None:
        weights[-1] = contrast @ weights[-1]
    rows, columns = weights[0].shape[-2:]
    if columns > rows and len(weights) > 1:
        weights[0] = torch.linalg.qr(weights[0].mH, mode="r").R.mH
    return Chain(weights, chain.slopes, chain.groups)


def _parts(chain: Chain) -> list[Tensor | None]:
    """W_k W_k^T for the runs of columns that share a multiplier, where they are few: made once instead of at every step."""
    parts: list[Tensor | None] = []
    for weight, runs in zip(chain.weights, [1, *chain.groups], strict=True):
        rows, columns = weight.shape[-2:]
        worth = weight.dim() == 2 and runs < columns and runs * rows**2 <= PARTS
        pieces = weight.reshape(rows, runs, -1).transpose(0, 1) if worth else None
        parts.append(None if pieces is None else pieces @ pieces.mT)
    return parts


def minimise(
    objective: Objective, x: Tensor, *, iterations: int, deadline: float = math.inf, memory: int = 30, tolerance: float = 1e-7
) -> Tensor:
    """L-BFGS with backtracking; points where the objective is not finite are stepped back from. Never worse than x."""
    value, gradient = objective(x)
    history: deque[tuple[Tensor, Tensor]] = deque(maxlen=memory)
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
