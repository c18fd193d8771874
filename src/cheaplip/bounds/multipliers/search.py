"""The search for multipliers: L-BFGS on a smooth upper estimate of the certificate, in float64, always feasible.

The largest eigenvalue is replaced by (tr G^p)^(1/p), which is at most n^(1/p) times larger, and a logarithmic barrier of
weight 1/p keeps the multipliers feasible; p grows. As a function of the multipliers the certificate is quasi-convex (its
level sets are those of a linear matrix inequality), so that a local minimum is the best one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..rounding import TINY
from .certificate import ActivationState, Arithmetic, Chain, Slopes, output_gram, product_multipliers, spread
from .lbfgs import Objective, minimise

POWERS = ((8, 1e-4), (128, 1e-5), (2048, 1e-6))
"""The powers p, and the gain (of a logarithm) below which a step counts as idle."""
ENTRIES = 2**26
"""No more entries than this (half a GiB) are made beforehand."""


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
    grams = _grams_per_group(chain)
    for power, gain in POWERS if start is None else POWERS[1:2]:
        x = minimise(_objective(chain, grams, sizes, power), x, iterations=iterations, tolerance=gain, deadline=deadline)
    return list(x.split(sizes))


class Searching(Arithmetic):
    """The arithmetic of the search: groups of columns multiplied beforehand, and a barrier added up on the way.

    The barrier is the sum over the layers of the mean of -log of the squared diagonal of the Cholesky factors.
    """

    def __init__(self, grams: Sequence[Tensor | None], zero: Tensor) -> None:
        self._grams, self.barrier = grams, zero

    def congruence(self, weight: Tensor, deviation: Tensor | None, index: int) -> Tensor:
        """From the products of the groups of columns, where there are any."""
        grams = self._grams[index]
        if grams is None:
            return super().congruence(weight, deviation, index)
        return grams.sum(0) if deviation is None else torch.tensordot(spread(deviation, len(grams)).square(), grams, 1)

    def activation(self, gram: Tensor, slopes: Slopes, log_t: Tensor) -> ActivationState | None:
        """Adds to the barrier."""
        state = super().activation(gram, slopes, log_t)
        if state is not None and state.factor is not None:
            self.barrier = self.barrier - 2 * state.factor.diagonal(dim1=-2, dim2=-1).real.log().mean()
        return state


def _objective(chain: Chain, grams: Sequence[Tensor | None], sizes: list[int], power: int) -> Objective:
    def value_and_gradient(x: Tensor) -> tuple[float, Tensor]:
        x = x.detach().requires_grad_()
        arithmetic = Searching(grams, chain.weights[0].real.new_zeros(()))
        with torch.enable_grad():
            gram = output_gram(chain, list(x.split(sizes)), arithmetic)
            if gram is None:
                return math.inf, x.detach()
            logs = torch.linalg.eigvalsh(gram).clamp(min=TINY).log()
            value = torch.logsumexp(power * logs.flatten(), 0) / power + arithmetic.barrier / power
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


def _grams_per_group(chain: Chain) -> list[Tensor | None]:
    """W_k W_k^T for the runs of columns that share a multiplier, where they are few: made once instead of at every step."""
    grams: list[Tensor | None] = []
    for weight, runs in zip(chain.weights, [1, *chain.groups], strict=True):
        rows, columns = weight.shape[-2:]
        worth = weight.dim() == 2 and runs < columns and runs * rows**2 <= ENTRIES
        pieces = weight.reshape(rows, runs, -1).transpose(0, 1) if worth else None
        grams.append(None if pieces is None else pieces @ pieces.mT)
    return grams
