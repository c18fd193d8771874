r"""The largest norm of a sum of matrices, each times a number in [-1, 1].

For any weights t > 0 and any vector u (Cauchy and Schwarz)

    |sum_k y_k A_k u|^2  <=  (sum_k t_k) (sum_k |A_k u|^2 / t_k)  <=  (sum_k t_k) lambda_max(sum_k A_k^T A_k / t_k) |u|^2.

The weights sqrt(tr A_k X A_k^T), with X near the projection on the u of the largest value, are nearly the best ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .rounding import TINY, gamma

ROUNDS = 2
"""Of better X, from the identity on."""
POWER = 3
"""Of the eigenvalues in X: the largest value may be a multiple one."""
FLOOR = 1e-3
"""Share of the mean weight that each weight has at least."""


def largest_norm(*groups: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The norm, `(cells,)`, rounded upwards; and the weights, for each group `(cells, matrices)`.

    The weight of a matrix is about what it makes of the norm.

    Args:
        groups: matrices of the same columns, `(cells, matrices, rows, columns)`. All but the last group say where the norm is
            about attained.
    """
    cells, columns = groups[0].shape[0], groups[0].shape[3]
    near = torch.eye(columns).to(groups[0]).expand(cells, -1, -1) / columns
    for i in range(ROUNDS):
        gram, _ = _weighed(groups[:-1], near)
        level, axes = torch.linalg.eigh(gram.nan_to_num(0.0, 0.0, 0.0))
        share = (level / level[:, -1:].clamp(min=TINY)).clamp(min=0) ** POWER
        new = (axes * (share / share.sum(1, keepdim=True).clamp(min=TINY))[:, None]) @ axes.mT
        near = (near + new) / 2 if i else new
    gram, weights = _weighed(groups, near)
    total = torch.stack([weight.sum(1) for weight in weights]).sum(0)
    margin = 1 + columns * gamma(sum(group.shape[1] * group.shape[2] for group in groups) + columns)
    value = torch.linalg.eigvalsh(gram.nan_to_num(0.0, 0.0, 0.0))[:, -1].clamp(min=0)
    norm = value.sqrt() * total.sqrt() * margin  # not of the product, which could vanish
    return torch.where(gram.isfinite().flatten(1).all(1), norm, torch.inf), weights


def _weighed(groups: Sequence[Tensor], near: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The sum of the A^T A / t, and the weights t."""
    gram, found = torch.zeros_like(near), []
    for matrices in groups:
        cells, count, rows, columns = matrices.shape
        flat = matrices.reshape(cells, count * rows, columns)
        squares = ((flat @ near) * flat).sum(-1).reshape(cells, count, rows).sum(-1)
        weights = squares.clamp(min=0).sqrt()
        weights = weights + FLOOR * weights.mean(1, keepdim=True) + TINY
        gram = gram + (matrices / weights[..., None, None]).reshape(flat.shape).mT @ flat
        found.append(weights)
    return gram, found
