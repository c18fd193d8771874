r"""The multiplier certificate: an upper bound of Lip(f) for layers W_1, phi_1, W_2, ..., phi_{l-1}, W_l that is a proof.

Each phi_i acts entry by entry with slopes in [a, b] (per entry, if need be): phi(z) - phi(z') = m dz + r dp with
m = (a+b)/2, r = (b-a)/2 and \|dp_j\| <= \|dz_j\| for every entry j. Multipliers t > 0 weigh these inequalities,
sum_j t_j (dz_j^2 - dp_j^2) >= 0. Start from the unit ball of inputs, Sigma_0 = I, and carry an ellipsoid along that
holds all differences (dx^T Sigma_i^{-1} dx <= 1):

    G_i     = W_i Sigma_{i-1} W_i^T                                         (differences before phi_i)
    Sigma_i = diag(m) (G_i^{-1} - diag(t_i))^{-1} diag(m) + diag(r^2 / t_i)     where diag(t_i) < G_i^{-1}
    Lip(f)^2 <= largest eigenvalue of W_l Sigma_{l-1} W_l^T

Any t for which the Cholesky factorisations succeed is a proof. With the best t this is the bound of LipSDP-Neuron
(Fazlyab et al. 2019), for slopes in [0, b] written without an inverse of Sigma; no SDP solver is needed.

A weight is a matrix `(rows, columns)` or a stack `(frequencies, rows, columns)` of the symbols of a convolution, whose
operator is block-diagonal with these blocks. A vector of k multipliers serves n entries in k runs of n / k neighbours
(the channels of an image); so does a diagonal Sigma, kept as a vector wherever m = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..rounding import EIGENVALUES, INWARDS, NEXT, TINY, UNIT, gamma

Slopes = tuple[Tensor, Tensor]
"""The interval [a, b] of an activation's slopes: two tensors, each `()` or `(rows,)`."""


@dataclass(frozen=True)
class Chain:
    """l weights, the slopes between them, and how many multipliers each activation has."""

    weights: list[Tensor]
    slopes: list[Slopes]
    groups: list[int]


@dataclass(frozen=True)
class Passed:
    """What `output_gram` has met at an activation."""

    log_multipliers: Tensor  # as they were used
    gram: Tensor  # G, of the differences before the activation
    factor: Tensor | None  # L with L L^H = I - T^{1/2} G T^{1/2}; None where a contraction was scaled to the edge


def output_gram(
    weights: Sequence[Tensor],
    log_multipliers: Sequence[Tensor],
    slopes: Sequence[Slopes],
    *,
    outwards: bool = False,
    parts: Sequence[Tensor | None] = (),
    passed: list[Passed] | None = None,
) -> tuple[Tensor | None, Tensor]:
    """G_l = W_l Sigma_{l-1} W_l^T, `(..., rows, rows)`, None where a factorisation fails; and the barrier of the search.

    The barrier is the sum over the layers of the mean of -log of the squared diagonal of the Cholesky factors.

    Args:
        weights: l of them, `(rows, columns)` or `(frequencies, rows, columns)`.
        log_multipliers: l - 1 vectors, log t_i; `(rows,)`, or `(groups,)` with a divisor of the rows.
        slopes: l - 1 intervals.
        outwards: enlarge every ellipsoid by a bound of the rounding errors made so far, so that the result holds in
            exact arithmetic. Float64 only.
        parts: of some weights W, in runs of columns W_k, the matrices W_k W_k^T, `(runs, rows, rows)`, made beforehand.
        passed: a list, to scale the multipliers of contractions (m = 0) to the edge, lambda_max(T^{1/2} G T^{1/2}) = 1, and
            to be filled with what was met at each activation. The best ones touch that edge, and on no other way does
            the result depend on the weights before a contraction: Sigma = r^2 / T there.
    """
    barrier = weights[0].real.new_zeros(())
    gram = _diagonal_congruence(weights[0], None, outwards, parts[0] if parts else None)
    for i, (log_t, (low, high)) in enumerate(zip(log_multipliers, slopes, strict=True)):
        weight, part = weights[i + 1], parts[i + 1] if parts else None
        middle, radius = (low + high) / 2, (high - low) / 2
        n = gram.shape[-1]
        # an entry of one slope alone says nothing that an inequality would add to: its multiplier is 0
        root, contraction = spread(log_t.div(2).exp() * (radius > 0), n), not middle.any()
        factor = None
        if passed is not None and contraction:
            if not gram.isfinite().all():  # weights that have diverged
                return None, barrier
            log_t = log_t - torch.linalg.eigvalsh(root[:, None] * gram * root).amax().clamp(min=TINY).log()
        else:
            room = 1 - (gamma(n) * n if outwards else 0.0)
            shifted = room * torch.eye(n).to(gram) - root[:, None] * gram * root
            factor, failed = torch.linalg.cholesky_ex(shifted)
            if failed.any():
                return None, barrier
            barrier = barrier - 2 * factor.diagonal(dim1=-2, dim2=-1).real.log().mean()
        if passed is not None:
            passed.append(Passed(log_t, gram, factor))
        deviation = radius * torch.exp(-log_t / 2)  # not the root of a square: where r = 0 that has no derivative
        before = gram
        gram = _diagonal_congruence(weight, deviation * (1 + 16 * UNIT) if outwards else deviation, outwards, part)
        if factor is not None and not contraction:
            gram = gram + _coupled(weight * middle, before, root, factor, outwards)
    return gram, barrier


def _coupled(half: Tensor, gram: Tensor, root: Tensor, factor: Tensor, outwards: bool) -> Tensor:
    """A (G^{-1} - T)^{-1} A^H for A = `half`, as A G A^H + S^H S with L S = T^{1/2} G A^H and L L^H = I - T^{1/2} G T^{1/2}."""
    moved = gram @ half.mH
    s = torch.linalg.solve_triangular(factor, root[:, None] * moved, upper=False)
    result: Tensor = half @ moved + s.mH @ s
    result = (result + result.mH) / 2
    if not outwards:
        return result
    n, rows = len(root), half.shape[-2]
    inverse = torch.linalg.solve_triangular(factor, torch.eye(n).to(factor), upper=False)
    condition = n * torch.linalg.matrix_norm(inverse)[..., None]  # at least that of L, whose norm is at most 1
    # the error of entry (i, j) is at most gamma a_i a_j, with a_i the deviation of A's row i and the length of its S
    reach = half.abs() @ gram.diagonal(dim1=-2, dim2=-1).real.sqrt()[..., None]
    lengths = reach[..., 0] + torch.linalg.vector_norm(s, dim=-2)
    slack = 4 * rows * gamma(4 * n) * (1 + condition) * lengths.square()
    return result + torch.diag_embed(slack).to(result)


def product_multipliers(chain: Chain) -> list[Tensor]:
    """Logarithms of multipliers, one a layer, that give the product of the norms (less a hair, to stay inside).

    With Sigma = s I before a layer of norm w, g = s w^2 and t = r / (g (|m| + r)) give Sigma <= g (|m| + r)^2 I after it.
    """
    s = chain.weights[0].real.new_ones(())
    logs = []
    for weight, (low, high), k in zip(chain.weights[:-1], chain.slopes, chain.groups, strict=True):
        g = s * torch.linalg.matrix_norm(weight, 2).max().square().clamp(min=TINY)
        middle, radius = (low + high).abs().max() / 2, (high - low).max() / 2
        share = (radius / (middle + radius)).nan_to_num(0.5).clamp(1e-6, 1 - 1e-3)
        logs.append((share / g).log().expand(k).clone())
        s = g * (middle.square() / (1 - share) + radius.square() / share) + TINY
    return logs


def verified_bound(chain: Chain, log_multipliers: Sequence[Tensor]) -> tuple[float, Tensor] | None:
    """An upper bound of Lip(f) that these multipliers prove in exact arithmetic, and an upper bound of W Sigma W^T.

    Every ellipsoid is enlarged by a bound of the rounding errors (standard forward analysis with a factor of 8 to
    spare), and lambda I - G is shown positive definite by Cholesky, with the same margin.

    Returns:
        The bound and the matrix `(..., outputs, outputs)`; None if a factorisation fails: these multipliers prove nothing.
    """
    with torch.no_grad():
        gram, _ = output_gram(chain.weights, log_multipliers, chain.slopes, outwards=True)
        if gram is None or not gram.isfinite().all():
            return None
        n = gram.shape[-1]
        identity = torch.eye(n).to(gram)
        largest = torch.linalg.eigvalsh(gram).amax().clamp(min=TINY)
        for slack in EIGENVALUES:
            square = largest * (1 + n * slack)
            shifted = square * (1 - gamma(n) * n) * identity - gram
            if not torch.linalg.cholesky_ex(shifted).info.any():
                return float(square.sqrt()) * NEXT, gram
    return None


def proved_bound(chain: Chain, log_multipliers: Sequence[Tensor]) -> tuple[float, Tensor] | None:
    """`verified_bound` of these multipliers, moved inwards where they lie too near the boundary for the margin of rounding."""
    for inwards in INWARDS:
        proved = verified_bound(chain, [log - (i + 1) * inwards for i, log in enumerate(log_multipliers)])
        if proved is not None:
            return proved
    return None


def _diagonal_congruence(weight: Tensor, deviation: Tensor | None, outwards: bool, parts: Tensor | None = None) -> Tensor:
    """W diag(deviation^2) W^H, the deviation (all ones for None) spread over runs of columns."""
    if parts is not None:
        if deviation is None:
            return parts.sum(0)
        combined: Tensor = torch.tensordot(spread(deviation, len(parts)).square(), parts, 1)
        return combined
    half = weight if deviation is None else weight * spread(deviation, weight.shape[-1])
    gram: Tensor = half @ half.mH
    if not outwards:
        return gram
    reach = half.abs().sum(-1).square()  # the error of entry (i, j) is at most gamma a_i a_j again
    return gram + torch.diag_embed(gamma(2 * half.shape[-1]) * reach.shape[-1] * reach).to(gram)


def spread(values: Tensor, n: int) -> Tensor:
    """K values for n entries, in runs of neighbours."""
    return values if len(values) == n else values.repeat_interleave(n // len(values))
