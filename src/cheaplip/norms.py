"""p-norms of each sample of a batch, whatever the shape of a sample, and dual exponents."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .errors import InputError


def check_exponent(p: float) -> float:
    """Return `p` as a float; raise `InputError` unless 1 <= p <= inf."""
    if not p >= 1:  # also refuses nan
        raise InputError("a norm exponent p with 1 <= p <= inf", p, "Use 1, 2, math.inf or any value between.")
    return float(p)


def sample_norm(x: Tensor, p: float = 2) -> Tensor:
    r"""The p-norm of every sample, :math:`|x_i|_p = (\sum_j |x_{ij}|^p)^{1/p}`, the largest entry for p = inf.

    Args:
        x: `(n, *shape)`, any shape, also `(n,)`.
        p: exponent, 1 <= p <= inf.

    Returns:
        `(n,)`. The gradient at 0 is 0, an element of the subdifferential, never nan.

    Raises:
        InputError: p < 1.

    Example:
        >>> sample_norm(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [5.0, 0.0]
    """
    norm: Tensor = torch.linalg.vector_norm(x.reshape(len(x), -1), ord=check_exponent(p), dim=1)
    return norm


def dual_exponent(p: float) -> float:
    """The q with 1/p + 1/q = 1 (Hoelder): 2 -> 2, 1 -> inf, inf -> 1."""
    p = check_exponent(p)
    if p == 1:
        return math.inf
    return 1.0 if p == math.inf else p / (p - 1)


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Reshape `(n,)` to `(n, 1, ..., 1)` so that it broadcasts over `like`, `(n, *shape)`."""
    return values.reshape(-1, *[1] * (like.dim() - 1))
