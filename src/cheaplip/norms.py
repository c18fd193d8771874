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
    p, x = check_exponent(p), x.reshape(len(x), math.prod(x.shape[1:]))
    if p == math.inf:
        return x.abs().amax(1)  # on a CPU, vector_norm takes 20 times as long
    norm: Tensor
    if p in (1, 2):
        norm = torch.linalg.vector_norm(x, ord=p, dim=1)
        return norm
    # other powers leave the range of floats early: 0.001 ** 20 is 0 in float32
    largest = x.detach().abs().amax(1)
    norm = largest * torch.linalg.vector_norm(x / torch.where(largest > 0, largest, 1.0)[:, None], ord=p, dim=1)
    return norm


def sample_unit(x: Tensor) -> Tensor:
    """Every sample divided by its 2-norm, `(n, *shape)`; 0 stays 0. Safe where squares of the entries underflow."""
    for p in (math.inf, 2.0):
        length = sample_norm(x, p)
        x = x / per_sample(torch.where(length > 0, length, 1.0), x)
    return x


def all_finite(x: Tensor) -> bool:
    """Whether x has no nan and no inf: one pass without a mask as large as a data set. True for no entries.

    Raises:
        InputError: x is complex or sparse.
    """
    if x.is_complex() or x.layout != torch.strided:
        raise InputError("a dense tensor of real numbers", f"one of {x.dtype}, {x.layout}", "Convert it.")
    return x.numel() == 0 or bool(torch.stack(x.aminmax()).isfinite().all())


def dual_exponent(p: float) -> float:
    """The q with 1/p + 1/q = 1 (Hoelder): 2 -> 2, 1 -> inf, inf -> 1."""
    p = check_exponent(p)
    if p == 1:
        return math.inf
    return 1.0 if p == math.inf else p / (p - 1)


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Reshape `(n,)` to `(n, 1, ..., 1)` so that it broadcasts over `like`, `(n, *shape)`."""
    return values.reshape(-1, *[1] * (like.dim() - 1))
