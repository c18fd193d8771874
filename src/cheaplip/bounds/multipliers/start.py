r"""Where the search for multipliers starts: at multipliers in closed form, layer by layer, of the Gram matrices that arrive.

With G the Gram matrix before an activation, d a power of its diagonal and g = lambda_max(diag(d)^{-1/2} G diag(d)^{-1/2}),

    t_j = s_j / (g d_j)  with 0 < s_j < 1   is feasible, and   s_j = r_j / (m_j + r_j)

with d = 1 proves Sigma <= g diag(m + r)^2, so that no bound from there is above the product of the norms. For ReLU that is
s = 1/2, which is ECLipsE-Fast (Xu, Sivaranjani 2024). Larger shares prove far less in deep chains, where each layer gains.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..rounding import TINY
from .certificate import ActivationState, Arithmetic, Chain, Slopes, output_gram, spread

STARTS = ((0.5, 0.5), (0.5, 0.0), (1.0, 0.0), (0.74, 0.0), (0.74, 0.5), (0.35, 0.5))
"""Powers of the share and of the diagonal, the best by experience first; for ReLU the shares are 0.7, 0.5, 0.6 and 0.78."""
SHIFTS = (0.0, *(0.01 * 2**k for k in range(17)))
"""By which given multipliers are moved away from the boundary, in turn."""


class _Choosing(Arithmetic):
    """Chooses the multipliers on the way."""

    def __init__(self, share: float, diagonal: float) -> None:
        self.logs: list[Tensor] = []
        self._share, self._diagonal = share, diagonal

    def activation(self, gram: Tensor, slopes: Slopes, log_t: Tensor) -> ActivationState | None:
        """With multipliers of its own instead of the given ones, of which only the number counts."""
        self.logs.append(closed_form(gram, slopes, len(log_t), self._share, self._diagonal))
        return super().activation(gram, slopes, self.logs[-1])


def closed_form(gram: Tensor, slopes: Slopes, k: int, power: float, diagonal: float) -> Tensor:
    """Logarithms of multipliers for G `(..., n, n)`: `(k,)`, or `(samples, n)` for slopes `(samples, n)` and k = n.

    Args:
        gram: G.
        slopes: [a, b].
        k: how many.
        power: of the share s; 1 proves the product of the norms, or less.
        diagonal: power of the diagonal of G in d.
    """
    low, high = slopes
    n = gram.shape[-1]
    share = ((high - low) / 2 / torch.maximum(high.abs(), low.abs())).nan_to_num(0.5)
    share = share.clamp(1e-6, 1.0).pow(power).clamp(max=1 - 1e-3)
    lengths = gram.diagonal(dim1=-2, dim2=-1).real
    if low.dim() < 2:  # the same for all blocks and for runs of neighbours
        share = share.expand(k) if share.dim() == 0 else share.reshape(k, -1).amin(1)
        lengths = lengths.reshape(-1, k, n // k).amax((0, 2))
    scale = (lengths / lengths.amax(-1, keepdim=True).clamp(min=TINY)).clamp(min=1e-6) ** diagonal
    moving = high > low  # where the slope is known, the multiplier is void
    root = spread(scale.rsqrt(), n) * spread(moving.expand(k) if moving.dim() == 0 else moving, n)
    largest = torch.linalg.eigvalsh(root[..., :, None] * gram * root[..., None, :])[..., -1].clamp(min=TINY)
    largest = largest.amax() if low.dim() < 2 else largest[..., None]
    logs: Tensor = (share / (largest * scale)).log()
    return logs


def gram_multipliers(chain: Chain, share: float = 1.0, diagonal: float = 0.0) -> tuple[list[Tensor], float]:
    """Logarithms of these multipliers, one vector a layer, and the bound they give, inf where a factorisation fails.

    Args:
        chain: weights and slopes.
        share: power of s; 1 proves the product of the norms, or less.
        diagonal: power of the diagonal of G in d.
    """
    choosing = _Choosing(share, diagonal)
    like = chain.weights[0].real
    gram = output_gram(chain, [like.new_zeros(k) for k in chain.groups], choosing)
    return choosing.logs, bound_of(gram)


def best_start(chain: Chain, deadline: float = math.inf) -> tuple[list[Tensor], float]:
    """The best of `STARTS`, or of those that were tried before the deadline: logarithms and bound."""
    found = [gram_multipliers(chain, *STARTS[0])]
    for powers in STARTS[1:]:
        if time.monotonic() > deadline and math.isfinite(found[-1][1]):
            break
        found.append(gram_multipliers(chain, *powers))
    return min(found, key=lambda start: start[1])


def moved_inwards(logs: Sequence[Tensor], bound: Callable[[list[Tensor]], float]) -> tuple[list[Tensor], float]:
    """Given multipliers, scaled down to where their bound is smallest, and that bound; inf where no scale is feasible.

    Layer i's are multiplied by exp(-i shift): shrinking one layer's enlarges the ellipsoid that enters the next.
    """
    best, least = list(logs), math.inf
    for shift in SHIFTS:
        moved = [log - i * shift for i, log in enumerate(logs, start=1)]
        value = bound(moved)
        if value >= least < math.inf:
            break
        if value < least:
            best, least = moved, value
    return best, least


def bound_of(gram: Tensor | None) -> float:
    """The root of the largest eigenvalue, not rounded upwards; inf for None and for what is not finite."""
    if gram is None or not gram.isfinite().all():
        return math.inf
    return float(torch.linalg.eigvalsh(gram).amax().clamp(min=0).sqrt())
