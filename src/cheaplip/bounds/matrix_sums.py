r"""The largest norm of a sum of matrices, each times a number in [-1, 1].

For any weights t > 0 and any vector u (Cauchy and Schwarz)

    |sum_k y_k A_k u|^2  <=  (sum_k t_k) (sum_k |A_k u|^2 / t_k)  <=  (sum_k t_k) lambda_max(sum_k A_k^T A_k / t_k) |u|^2.

The weights sqrt(tr A_k X A_k^T), with X near the projection on the u of the largest value, are nearly the best ones. X is
R R^T with few columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .rounding import TINY, gamma

ROUNDS = 3
"""Of better X, from the identity on."""
POWER, MULTIPLE = 3, 3
"""Of the eigenvalues in X, and how many of them: the largest value may be a multiple one."""
FLOOR = 1e-3
"""Share of the mean weight that each weight has at least."""


def largest_norm(near_by: Sequence[Tensor], others: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The norm, `(cells,)`, rounded upwards; and the weights, for each group `(cells, matrices)`.

    The weight of a matrix is about what it makes of the norm.

    Args:
        near_by: groups of matrices of the same columns, `(cells, rows, columns, matrices)`, that say where the norm is about
            attained.
        others: more such groups.
    """
    groups = [*near_by, *others]
    cells, columns = groups[0].shape[0], groups[0].shape[2]
    root = torch.eye(columns).to(groups[0]).expand(cells, -1, -1) / math.sqrt(columns)
    for i in range(ROUNDS):
        gram, _ = _weighed(near_by, root)
        level, axes = torch.linalg.eigh(gram.nan_to_num(0.0, 0.0, 0.0))
        level, axes = level[:, -MULTIPLE:], axes[:, :, -MULTIPLE:]
        share = (level / level[:, -1:].clamp(min=TINY)).clamp(min=0) ** POWER
        new = axes * (share / share.sum(1, keepdim=True).clamp(min=TINY)).sqrt()[:, None]
        root = torch.cat([root, new], 2) / math.sqrt(2) if i else new
    gram, weights = _weighed(groups, root)
    total = torch.stack([weight.sum(1) for weight in weights]).sum(0)
    margin = 1 + columns * gamma(sum(group.shape[1] * group.shape[3] for group in groups) + columns)
    value = torch.linalg.eigvalsh(gram.nan_to_num(0.0, 0.0, 0.0))[:, -1].clamp(min=0)
    norm = value.sqrt() * total.sqrt() * margin  # not of the product, which could vanish
    return torch.where(gram.isfinite().flatten(1).all(1), norm, torch.inf), weights


def _weighed(groups: Sequence[Tensor], root: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The sum of the A^T A / t, and the weights t."""
    gram, found = root.new_zeros(len(root), root.shape[1], root.shape[1]), []
    for matrices in groups:
        weights = (root.mT[:, None] @ matrices).square_().sum((1, 2)).sqrt()
        weights = weights + (FLOOR * weights.mean(1, keepdim=True) if weights.shape[1] else 0) + TINY
        gram = gram + ((matrices / weights[:, None, None]) @ matrices.mT).sum(1)
        found.append(weights)
    return gram, found
