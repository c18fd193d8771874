"""The search for multipliers: L-BFGS on a smooth upper estimate of the certificate, in float64, always feasible.

The largest eigenvalue is replaced by (tr G^p)^(1/p), which is at most n^(1/p) times larger, and a logarithmic barrier keeps
the multipliers feasible. From stage to stage p grows and the barrier's weight falls: a deep chain that starts with a light
barrier ends stuck at it, ten times too high. As a function of the multipliers the certificate is quasi-convex (its level
sets are those of a linear matrix inequality), so that a local minimum is the best one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..rounding import TINY
from .certificate import ActivationState, Arithmetic, Chain, Slopes, output_gram, spread
from .lbfgs import Objective, minimise
from .start import SHIFTS, best_start, bound_of, moved_inwards


@dataclass(frozen=True)
class Stage:
    """One minimisation on the way."""

    barrier: float  # its weight
    power: int  # p
    gain: float  # of a logarithm, a layer, below which a step counts as idle


STAGES = (Stage(1.0, 8, 1e-4), Stage(1 / 4, 16, 2e-5), Stage(1 / 32, 128, 5e-5), Stage(1 / 512, 2048, 5e-6))
REFINEMENT = Stage(1 / 128, 128, 5e-6)
"""The only stage from multipliers that are already good."""
ENTRIES = 2**26
"""No more entries than this (half a GiB) are made beforehand."""


def search_multipliers(
    chain: Chain,
    *,
    start: Sequence[Tensor] | None = None,
    known: Sequence[Tensor] = (),
    contrast: Tensor | None = None,
    iterations: int = 300,
    deadline: float = math.inf,
) -> list[Tensor]:
    """Logarithms of multipliers whose certificate is about as small as it can be; at least as good as the start.

    Args:
        chain: weights and slopes in float64.
        start: first logarithms, already good; by default the best in closed form.
        known: logarithms to begin with in the place of those, if they are feasible. They may be far from good.
        contrast: `(k, outputs)` matrix put before the outputs, such as e_i - e_j for a difference of two logits.
        iterations: of L-BFGS, in each stage.
        deadline: `time.monotonic()` at which to stop with what there is.
    """
    if not chain.slopes:
        return []
    chain = _compressed(chain, contrast)
    logs, least = best_start(chain, deadline) if start is None else (list(start), bound_of(output_gram(chain, start)))
    sizes, grams, x = [len(log) for log in logs], _grams_per_group(chain), torch.cat(_begun(chain, known) or logs)
    for stage in STAGES if start is None else (REFINEMENT,):
        if time.monotonic() > deadline:
            break
        objective = _objective(chain, grams, sizes, stage)
        x = minimise(objective, x, iterations=iterations, tolerance=stage.gain * len(sizes), deadline=deadline)
        bound = bound_of(output_gram(chain, list(x.split(sizes))))
        if bound < least:
            logs, least = list(x.split(sizes)), bound
    return logs


def _begun(chain: Chain, known: Sequence[Tensor]) -> list[Tensor]:
    """The known multipliers within what is feasible, a little from the boundary, where the barrier is high; none if nowhere."""
    moved, bound = moved_inwards(known, lambda logs: bound_of(output_gram(chain, logs))) if known else ([], math.inf)
    return [log - i * SHIFTS[1] for i, log in enumerate(moved, start=1)] if bound < math.inf else []


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


def _objective(chain: Chain, grams: Sequence[Tensor | None], sizes: list[int], stage: Stage) -> Objective:
    def value_and_gradient(x: Tensor) -> tuple[float, Tensor]:
        x = x.detach().requires_grad_()
        arithmetic = Searching(grams, chain.weights[0].real.new_zeros(()))
        with torch.enable_grad():
            gram = output_gram(chain, list(x.split(sizes)), arithmetic)
            if gram is None:
                return math.inf, x.detach()
            logs = torch.linalg.eigvalsh(gram).clamp(min=TINY).log()
            value = torch.logsumexp(stage.power * logs.flatten(), 0) / stage.power + stage.barrier * arithmetic.barrier
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
