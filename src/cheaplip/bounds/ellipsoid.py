r"""The multiplier certificate for every network: an ellipsoid of the differences of all values that are still needed.

The certificate of `multipliers` carries Sigma with dv^T Sigma^{-1} dv <= \|dx\|^2 for chains of matrices and activations. Here
v are the values side by side, and each operation is a matrix and errors in blocks (`linearised`),

    dv' = M dv + N q,   \|q_b\| <= \|(C dv)_b\| for each block b of entries,   any t_b > 0 with C^T T C < Sigma^{-1}
    Sigma' = M (Sigma^{-1} - C^T T C)^{-1} M^T + N T^{-1} N^T

A block is an entry of an activation, a group of a normalisation, a row of a product of matrices. The errors are those on
the domain; there each value is no further from the one at its centre than the ellipsoid reaches. So on small domains the
bound is near |M_l ... M_1|, the norm of the Jacobian at the centre, where a product of constants is not. The multipliers are
in closed form.
"""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from .blocks import Linearised
from .linearised import Reach, linearised
from .multipliers.start import bound_of
from .network import Network, Value
from .rounding import gamma

MOST = 1536
"""Entries side by side."""
HUGE = 1e100
"""Squares of larger differences are not followed."""
ROUNDS = 3
"""The first one is for large errors, the next one weighs all entries alike, later ones by what they do to the outputs."""


@dataclass(frozen=True)
class _Move:
    """A step, and which entries side by side it takes and leaves."""

    rest: Tensor
    own: Tensor
    step: Linearised
    moved: Tensor  # (kept and new entries, arguments after C)
    spread: Tensor  # (arguments after C,)


@dataclass(frozen=True)
class _Weight:
    """How much entries side by side matter: the matrix from there to the outputs, and what errors do on the way."""

    matrix: Tensor  # (outputs, entries)
    errors: Tensor  # (entries,), squares

    @property
    def lengths(self) -> Tensor:
        """Both, `(entries,)`, squares."""
        return self.matrix.square().sum(0) + self.errors

    def of(self, columns: Tensor) -> Tensor:
        """Squared lengths of columns `(entries, n)`."""
        return (self.matrix @ columns).square().sum(0) + self.errors @ columns.square()


@torch.no_grad()
def ellipsoid(network: Network, deadline: float = math.inf) -> Tensor | None:
    """Sigma of the outputs, `(outputs, outputs)`: |c . (f(x) - f(x'))|^2 <= c^T Sigma c |x - x'|_2^2 for every c.

    Args:
        network: with its regions on a domain, or anywhere.
        deadline: `time.monotonic()` at which to give up the first round; the others must end in half of the time.

    Returns:
        None for networks that are too wide, where a change is unbounded, and where time did not suffice.
    """
    if any(math.prod(value.shape) > MOST for value in network.order):
        return None
    best: Tensor | None = None
    weights: list[_Weight] | None = None
    reaches = [Reach(network.order[0].region.reach) for _ in network.order]
    begun = time.monotonic()
    for i in range(ROUNDS):
        done = _carried(network, reaches, weights, deadline)
        if done is None:
            break
        sigma, moves = done
        if best is None or bound_of(sigma) < bound_of(best):
            best = sigma
        spent = (time.monotonic() - begun) / (i + 1)
        if time.monotonic() + spent > begun + (deadline - begun) / 2:
            break
        weights = [_alike(len(move.moved)) for move in moves] if weights is None else _backwards(moves, len(sigma))
    return best


def _carried(
    network: Network, reaches: list[Reach], weights: list[_Weight] | None, deadline: float
) -> tuple[Tensor, list[_Move]] | None:
    order = network.order
    last_use = {id(one): i for i, value in enumerate(order) for one in value.inputs}
    live, sigma = [order[0]], torch.eye(math.prod(network.shape)).double()
    moves: list[_Move] = []
    for i, value in enumerate(order):
        if not value.inputs:
            continue
        kept = [one for one in live if last_use.get(id(one), len(order)) > i]
        if sum(math.prod(one.shape) for one in (*kept, *value.inputs)) > MOST or time.monotonic() > deadline:
            return None
        places = _places(live)
        rest = torch.cat([torch.arange(0), *(places[id(one)] for one in kept)])
        own = torch.cat([places[id(one)] for one in value.inputs])
        step = linearised(value, reaches[i].within(sigma[own][:, own]))
        if step is None:
            return None
        weight = weights[len(moves)] if weights else None
        found = _moved(sigma, rest, own, step, weight)
        if found is None or not found[0].diagonal().max() < HUGE:
            return None
        moves.append(_Move(rest, own, step, *found[1:]))
        sigma, live = found[0], [*kept, value]
    chosen = _places(live)[id(network.root)]
    return sigma[chosen][:, chosen], moves


def _alike(entries: int) -> _Weight:
    return _Weight(torch.zeros(0, entries).double(), torch.ones(entries).double())


def _backwards(moves: list[_Move], outputs: int) -> list[_Weight]:
    """What matters after each step: all that is side by side there, as it acts on the outputs."""
    after = _Weight(torch.eye(outputs).double(), torch.zeros(outputs).double())
    found: list[_Weight] = []
    for move in reversed(moves):
        found.append(after)
        rest, step = len(move.rest), move.step
        through = after.matrix[:, rest:] @ step.matrix
        errors = after.errors[rest:] @ step.matrix.square() + step.caused(
            after.lengths[rest:], after.of(move.moved), move.spread
        )
        if step.before is not None:
            through, errors = through @ step.before, errors @ step.before.square()
        width = int(torch.cat([move.rest, move.own]).max()) + 1
        matrix = torch.zeros(outputs, width).double().index_add(1, move.rest, after.matrix[:, :rest])
        by_errors = torch.zeros(width).double().index_add(0, move.rest, after.errors[:rest])
        after = _Weight(matrix.index_add(1, move.own, through), by_errors.index_add(0, move.own, errors))
    return found[::-1]


def _places(live: list[Value]) -> dict[int, Tensor]:
    starts = itertools.accumulate((math.prod(value.shape) for value in live), initial=0)
    return {id(value): start + torch.arange(math.prod(value.shape)) for value, start in zip(live, starts, strict=False)}


def _moved(
    sigma: Tensor, rest: Tensor, own: Tensor, step: Linearised, weight: _Weight | None
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Sigma of what is kept and of the result of the step, enlarged by the rounding errors, as in `multipliers`."""
    matrix, before = step.matrix, step.before
    inner, across = sigma[own][:, own], sigma[rest][:, own]  # of the step's arguments
    reach = inner.diagonal().clamp(min=0).sqrt()
    slack = torch.zeros(len(rest) + len(matrix), dtype=torch.float64)
    if before is not None:
        sizes = before.abs() @ reach
        inner, across = before @ inner @ before.T, across @ before.T
        inner = inner + torch.diag(gamma(2 * len(own)) * (len(sizes) + len(rest)) * sizes.square())
        slack[: len(rest)] += gamma(2 * len(own)) * (len(sizes) + len(rest)) * sigma.diagonal()[rest]
        reach = inner.diagonal().clamp(min=0).sqrt()
    moved = torch.cat([across, matrix @ inner])  # (kept and new, arguments)
    cross = across @ matrix.T
    result = torch.cat([torch.cat([sigma[rest][:, rest], cross], 1), torch.cat([cross.T, matrix @ inner @ matrix.T], 1)])
    lengths = torch.cat([sigma.diagonal()[rest].clamp(min=0).sqrt(), matrix.abs() @ reach])
    n, condition = len(inner), 0.0
    if step.acting:
        root = step.roots(inner) if weight is None else step.roots(inner, weight.of(moved), weight.lengths[len(rest) :])
        factor, failed = torch.linalg.cholesky_ex((1 - gamma(n) * n) * torch.eye(n).double() - root[:, None] * inner * root)
        if failed:
            return None
        s = torch.linalg.solve_triangular(factor, root[:, None] * moved.T, upper=False)
        inverse = torch.linalg.solve_triangular(factor, torch.eye(n).double(), upper=False)
        condition = n * float(torch.linalg.matrix_norm(inverse))
        result = result + s.T @ s
        lengths = lengths + torch.linalg.vector_norm(s, dim=0)
        noise = step.noise(root)
        result[len(rest) :, len(rest) :] += torch.diag(noise * (1 + 64 * gamma(1)))
    slack = slack + 4 * len(result) * gamma(4 * max(n, 1)) * (1 + condition) * lengths.square()
    result = (result + result.T) / 2
    return result + torch.diag(slack), moved, inner.diagonal()
