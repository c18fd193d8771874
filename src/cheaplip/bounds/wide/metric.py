"""What the errors of one bend make of the metric of a certificate: multipliers in closed form, and factors that prove them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..rounding import gamma

SHARE = 0.75
"""Largest eigenvalue of a bend's part of the metric, about."""
LEAST = 0.1
"""Of what the metric was, a bend leaves at least this: it is proved by a factorisation."""
MOST = 0.1
"""Of the metric may be lost to rounding errors, before a radius is given up."""
POWERS = 40
"""Steps of the power method for the largest eigenvalue, which need not be exact."""
ROUNDING = 1e-3
"""Share by which rows are enlarged for their rounding errors, whose squares are then added a thousandfold."""
STILL = 1e-3
"""Share of the largest error that none counts below."""
KEPT = math.sqrt(LEAST * (1 - MOST))
"""Lengths grow by no more than the inverse of this."""


class TooWideError(Exception):
    """Too many errors, or too large ones, for a proof."""


@dataclass(frozen=True)
class Metric:
    """A factor of I - L L^T, or of I - L^T L, and new coordinates."""

    factor: Tensor
    rows: Tensor | None  # L; None where the factor is of I - L^T L
    scale: float  # of all coordinates, for rounding errors
    support: Tensor  # results with an error
    noise: Tensor  # what a unit of their coordinates is, in the result

    def whitened(self, coordinates: Tensor) -> Tensor:
        """In coordinates in which the metric is the identity, `(n, some)`."""
        if self.rows is None:
            found: Tensor = torch.linalg.solve_triangular(self.factor, coordinates.T, upper=False).T
            return self.scale * found
        across = torch.linalg.solve_triangular(self.factor, self.rows @ coordinates.T, upper=False).T
        return self.scale * torch.cat([coordinates, across], 1)


def metric(rows: Tensor, sizes: Tensor, blocks: Tensor, support: Tensor, wrong: tuple[float, float], *, few: bool) -> Metric:
    """The error of each block is at most the root of the sum of squares of its functionals, times their sizes.

    Args:
        rows: the functionals, `(n, coordinates)`; changed.
        sizes: `(n,)`, float64.
        blocks: `(n,)`, which of `support` each belongs to.
        support: results with an error.
        wrong: rounding errors of the rows, at most, and those as a share of their lengths.
        few: whether the matrix with a row for each functional may be factorised, where it is the smaller one.

    Raises:
        TooWideError: no factorisation proves the multipliers.
    """
    lengths = (sizes * torch.linalg.vector_norm(rows.double(), dim=1)).square()
    error = torch.zeros(len(support), dtype=torch.float64).index_add(0, blocks, lengths).sqrt()
    t = 1 / error.clamp(min=STILL * float(error.max()))
    rows *= (t[blocks].sqrt() * sizes).to(rows)[:, None]
    few = few and len(rows) < rows.shape[1]
    gram = rows @ rows.T if few else rows.T @ rows
    trace, largest = float(gram.diagonal().sum()), _largest(gram) / SHARE
    # |a + b|^2 <= (1 + ROUNDING) |a|^2 + (1 + 1 / ROUNDING) |b|^2, with a the computed rows and b what they are wrong by
    lost = float((t[blocks] * sizes.square()).sum()) * wrong[0] ** 2 + trace * wrong[1] ** 2
    lost *= 2 * (1 + 1 / ROUNDING) / largest
    if not lost <= MOST:
        raise TooWideError
    factor = (1 + ROUNDING) / (1 - lost) / largest
    gram, rows, n = gram.mul_(factor), rows.mul_(math.sqrt(factor)), len(gram)
    slack = gamma(sum(rows.shape)) * factor * trace + gamma(n) * n
    below = _factor(gram, 1 - slack)
    _factor(gram, 1 - slack - LEAST)
    return Metric(below, rows if few else None, 1 / math.sqrt(1 - lost), support, (largest / t).sqrt().to(rows))


def _factor(gram: Tensor, of: float) -> Tensor:
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(of * torch.eye(len(gram)).to(gram) - gram)
    if failed:
        raise TooWideError
    return factor


def _largest(gram: Tensor) -> float:
    """About its largest eigenvalue."""
    vector = gram.diagonal().clamp(min=0).sqrt()
    size = 0.0
    for _ in range(POWERS):
        vector = gram @ (vector / torch.linalg.vector_norm(vector))
        size = float(torch.linalg.vector_norm(vector))
    return size
