"""The certificate of a chain as a bound: search the multipliers, then prove what they give."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import InputError
from ..rounding import ROOTS
from .certificate import Chain, proved_bound
from .search import search_multipliers

PAIR_ITERATIONS = 60
"""Of the search for each difference of two outputs, which starts from the multipliers of all outputs."""


@dataclass(frozen=True)
class Certificate:
    """What multipliers prove of a chain."""

    value: float  # Lip(f) is at most this, in the 2-norm
    gram: Tensor | None
    """`(outputs, outputs)`: |c . (f(x) - f(x'))|^2 <= c^T gram c |x - x'|_2^2 for every c; None for symbols."""
    pairwise: Tensor | None
    """`(outputs, outputs)`: upper bounds of Lip(f_i - f_j)."""


def certified(
    chain: Chain, *, known: Sequence[Tensor] = (), pairwise: bool = False, deadline: float = math.inf
) -> Certificate | None:
    """What a search finds and Cholesky proves; None if nothing is proved.

    Args:
        chain: weights and slopes.
        known: logarithms of multipliers, such as those of a training: the search starts there, and what they prove counts.
        pairwise: search multipliers for every difference of two outputs, too.
        deadline: `time.monotonic()` at which the searches stop with what they have.

    Raises:
        InputError: known multipliers of another chain.
    """
    known = _fitting(chain, known) if known else []
    logs = search_multipliers(chain, known=known, deadline=deadline)
    proved = [bound for some in ([logs, known] if known else [logs]) if (bound := proved_bound(chain, some)) is not None]
    if not proved:
        return None
    value, gram = min(proved, key=lambda bound: bound[0])
    if gram.dim() != 2:
        return Certificate(value, None, None)
    pairs = pair_bounds(gram)
    for i, j in itertools.combinations(range(len(gram)), 2) if pairwise else ():
        if time.monotonic() > deadline:
            break
        contrast = torch.zeros(1, len(gram)).to(gram)
        contrast[0, i], contrast[0, j] = 1.0, -1.0
        own = search_multipliers(chain, start=logs, contrast=contrast, iterations=PAIR_ITERATIONS, deadline=deadline)
        if (one := proved_bound(chain, own)) is not None:
            pairs[i, j] = pairs[j, i] = min(float(pairs[i, j]), float(pair_bounds(one[1])[i, j]))
    return Certificate(value, gram, pairs)


def _fitting(chain: Chain, known: Sequence[Tensor]) -> list[Tensor]:
    if [tuple(log.shape) for log in known] != [(k,) for k in chain.groups]:
        expected = f"logarithms of multipliers, vectors of {', '.join(map(str, chain.groups)) or 'none'}"
        got = ", ".join(str(tuple(log.shape)) for log in known)
        raise InputError(expected, got, "Give those of a certificate of this network, or none.")
    return [log.to(chain.weights[0].real) for log in known]


def pair_bounds(gram: Tensor) -> Tensor:
    """Upper bounds of Lip(f_i - f_j) from the matrix of `proved_bound`, `(..., outputs, outputs)`, rounded upwards."""
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    total = diagonal[..., :, None] + diagonal[..., None, :]
    squares = total - 2 * gram + ROOTS * total  # of both: the difference may cancel
    own = torch.eye(gram.shape[-1], dtype=torch.bool, device=gram.device)
    return (squares.clamp(min=0).sqrt() * (1 + ROOTS)).masked_fill(own, 0.0)


def is_narrower(local: Chain, chain: Chain) -> bool:
    """Whether some slope interval is at least 1 % narrower than everywhere: else a second search is in vain."""
    pairs = zip(local.slopes, chain.slopes, strict=True)
    return any(bool(((high - low) < 0.99 * (wide_high - wide_low)).any()) for (low, high), (wide_low, wide_high) in pairs)
