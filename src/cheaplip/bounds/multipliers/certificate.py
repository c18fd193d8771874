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
(the channels of an image); so does a diagonal Sigma, kept as a vector wherever m = 0. With slopes and multipliers
`(samples, rows)` there is one recursion a sample, on the same matrices.

`output_gram` is this recursion. What varies is the arithmetic of its lines: plain float64 here, `Rigorous` with a bound of
the rounding errors for a proof, one with a barrier in `search`, one that keeps its states in `gradient`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..rounding import EIGENVALUES, INWARDS, NEXT, PRODUCTS, TINY, UNIT, gamma

Slopes = tuple[Tensor, Tensor]
"""The interval [a, b] of an activation's slopes: two tensors, each `()`, `(rows,)` or `(samples, rows)`."""


@dataclass(frozen=True)
class Chain:
    """l weights, the slopes between them, and how many multipliers each activation has."""

    weights: list[Tensor]
    slopes: list[Slopes]
    groups: list[int]
    errors: list[Tensor] = field(default_factory=list)
    """`()`: upper bounds of |W' - W| in the 2-norm, for the true weights W': those that were merged have rounding errors."""


@dataclass(frozen=True)
class ActivationState:
    """What the recursion has at an activation, between G_i and Sigma_i."""

    log_multipliers: Tensor  # log t_i, as they were used
    gram: Tensor  # G_i, of the differences before the activation
    middle: Tensor  # m
    root: Tensor  # sqrt(t_i), (rows,)
    deviation: Tensor  # r / sqrt(t_i)
    factor: Tensor | None  # L with L L^H = I - T^1/2 G T^1/2; None where a contraction was scaled to the boundary


class Arithmetic:
    """The lines of `output_gram` in plain float64."""

    def congruence(self, weight: Tensor, deviation: Tensor | None, index: int) -> Tensor:
        """W_i diag(deviation^2) W_i^H, for the weight of this index; None: all deviations are 1."""
        half = weight if deviation is None else weight * spread(deviation, weight.shape[-1])[..., None, :]
        return half @ half.mH

    def activation(self, gram: Tensor, slopes: Slopes, log_t: Tensor) -> ActivationState | None:
        """Split the interval of slopes into m and r, and factorise I - T^1/2 G T^1/2; None if it is not positive definite."""
        low, high = slopes
        middle, radius = (low + high) / 2, (high - low) / 2
        # where a = b the slope is known exactly and the constraint is void: its multiplier is 0
        root = spread(log_t.div(2).exp() * (radius > 0), gram.shape[-1])
        factor = self.factor(gram, root)
        # not the root of r^2 / t: where r = 0 that has no derivative
        return None if factor is None else ActivationState(log_t, gram, middle, root, radius * torch.exp(-log_t / 2), factor)

    def factor(self, gram: Tensor, root: Tensor, room: float = 1.0) -> Tensor | None:
        """L with L L^H = `room` I - T^1/2 G T^1/2; None if there is none."""
        shifted = room * torch.eye(gram.shape[-1]).to(gram) - root[..., :, None] * gram * root[..., None, :]
        return self.settled(*torch.linalg.cholesky_ex(shifted))

    def settled(self, factor: Tensor, failed: Tensor) -> Tensor | None:
        """The factor, or None where one failed."""
        return None if failed.any() else factor

    def coupled(self, weight: Tensor, state: ActivationState) -> Tensor:
        """A (G^-1 - T)^-1 A^H for A = W diag(m), as A G A^H + S^H S with L S = T^1/2 G A^H."""
        half, moved, s = self._halves(weight, state)
        return _hermitian(half @ moved + s.mH @ s)

    def _halves(self, weight: Tensor, state: ActivationState) -> tuple[Tensor, Tensor, Tensor]:
        half = weight * state.middle.expand(state.root.shape)[..., None, :]
        moved = state.gram @ half.mH
        # a contraction (m = 0) is not coupled: there is a factor
        s = torch.linalg.solve_triangular(state.factor, state.root[..., :, None] * moved, upper=False)
        return half, moved, s


class Rigorous(Arithmetic):
    """The same, each result enlarged by a bound of its rounding errors, so that it holds in exact arithmetic.

    Standard forward error analysis, with a factor of 8 to spare: the error of entry (i, j) of a product is at most
    gamma a_i a_j, so that adding gamma n a_i^2 to the diagonal covers all of them.
    """

    def congruence(self, weight: Tensor, deviation: Tensor | None, index: int) -> Tensor:
        """Enlarged by the error of a product whose rows have absolute sums a_i."""
        half = weight if deviation is None else weight * spread(deviation * (1 + 16 * UNIT), weight.shape[-1])[..., None, :]
        sums = half.abs().sum(-1).square()
        gram = half @ half.mH
        return gram + torch.diag_embed(gamma(2 * half.shape[-1]) * sums.shape[-1] * sums).to(gram)

    def factor(self, gram: Tensor, root: Tensor, room: float = 1.0) -> Tensor | None:
        """With less room, by the error of the factorisation."""
        n = gram.shape[-1]
        return super().factor(gram, root, room - gamma(n) * n)

    def coupled(self, weight: Tensor, state: ActivationState) -> Tensor:
        """Enlarged by the error of the solution, which grows with the condition of L."""
        half, moved, s = self._halves(weight, state)
        result = _hermitian(half @ moved + s.mH @ s)
        n, rows = state.root.shape[-1], half.shape[-2]
        inverse = torch.linalg.solve_triangular(state.factor, torch.eye(n).to(s), upper=False)
        condition = n * torch.linalg.matrix_norm(inverse)[..., None]  # at least that of L, whose norm is at most 1
        # a_i: the deviation of A's row i and the length of its column of S
        reach = half.abs() @ state.gram.diagonal(dim1=-2, dim2=-1).real.sqrt()[..., None]
        lengths = reach[..., 0] + torch.linalg.vector_norm(s, dim=-2)
        slack = 4 * rows * gamma(4 * n) * (1 + condition) * lengths.square()
        return result + torch.diag_embed(slack).to(result)


PLAIN, RIGOROUS = Arithmetic(), Rigorous()


def output_gram(chain: Chain, log_multipliers: Sequence[Tensor], arithmetic: Arithmetic = PLAIN) -> Tensor | None:
    """G_l = W_l Sigma_{l-1} W_l^T, `(..., rows, rows)`; None where a factorisation fails: these multipliers prove nothing.

    Args:
        chain: its weights `(rows, columns)` or `(frequencies, rows, columns)`.
        log_multipliers: l - 1 vectors, log t_i; `(rows,)`, or `(groups,)` with a divisor of the rows.
        arithmetic: of each line.
    """
    gram = arithmetic.congruence(chain.weights[0], None, 0)  # G_1 = W_1 W_1^T
    for i, (slopes, log_t) in enumerate(zip(chain.slopes, log_multipliers, strict=True), start=1):
        state = arithmetic.activation(gram, slopes, log_t)  # T < G_i^-1
        if state is None:
            return None
        gram = arithmetic.congruence(chain.weights[i], state.deviation, i)  # W diag(r^2 / t) W^T
        if state.middle.any():
            gram = gram + arithmetic.coupled(chain.weights[i], state)  # + W diag(m) (G_i^-1 - T)^-1 diag(m) W^T
    return gram


@torch.no_grad()
def proved_bound(
    chain: Chain, log_multipliers: Sequence[Tensor], inwards: Sequence[float] = INWARDS
) -> tuple[float, Tensor] | None:
    """An upper bound of Lip(f) that these multipliers prove in exact arithmetic, and an upper bound of W Sigma W^T.

    Args:
        chain: weights and slopes in float64.
        log_multipliers: as in `output_gram`.
        inwards: by how much to move the multipliers away from the boundary, tried in turn until all factorisations hold.

    Returns:
        The bound and the matrix `(..., outputs, outputs)`; None if nothing is proved.
    """
    for shift in inwards:
        gram = output_gram(chain, [log - (i + 1) * shift for i, log in enumerate(log_multipliers)], RIGOROUS)
        if gram is not None and (value := proved_root(gram)) is not None:
            return _of_true_weights(chain, value, gram)
    return None


def _of_true_weights(chain: Chain, value: float, gram: Tensor) -> tuple[float, Tensor]:
    """The bound and the matrix for the weights that the chain's were computed for.

    Whatever the slopes of a pair of inputs are, its differences are those of a product of matrices. The chain's are bounded by
    `value`, and each weight is e_i away: the products differ by at most the sum of e_i times the norms of all others.
    """
    away = _products_differ(chain)
    if away == 0:
        return value, gram
    # |J' u|^2 <= (|J u| + e)^2 <= (1 + e / v) |J u|^2 + (e v + e^2), for each u
    shift = away * (value + away) + gamma(4) * len(gram) * float(gram.diagonal(dim1=-2, dim2=-1).real.amax())
    identity = torch.eye(gram.shape[-1]).to(gram)
    return (value + away) * NEXT, gram * (1 + away / value) + shift * identity


def _products_differ(chain: Chain) -> float:
    errors = [float(error) for error in chain.errors]
    if not any(errors):
        return 0.0
    steep = [max(float(low.abs().max()), float(high.abs().max())) for low, high in chain.slopes]
    norms = [_norm(weight) + error for weight, error in zip(chain.weights, errors, strict=True)]
    others = [math.prod([*norms[:i], *norms[i + 1 :]]) for i in range(len(norms))]
    differ = math.prod(steep) * sum(error * other for error, other in zip(errors, others, strict=True))
    return differ * (1 + PRODUCTS)


def _norm(weight: Tensor) -> float:
    """At least the 2-norm. Nothing coarser: its excess would be multiplied over the layers."""
    return float(torch.linalg.matrix_norm(weight, 2).amax()) * (1 + PRODUCTS)


def proved_root(gram: Tensor) -> float | None:
    """An upper bound of the root of the largest eigenvalue lambda, proved: Cholesky shows lambda I - G positive definite."""
    if not gram.isfinite().all():
        return None
    n = gram.shape[-1]
    identity = torch.eye(n).to(gram)
    largest = torch.linalg.eigvalsh(gram).amax().clamp(min=TINY)
    for slack in EIGENVALUES:
        square: Tensor = largest * (1 + n * slack)
        if not torch.linalg.cholesky_ex(square * (1 - gamma(n) * n) * identity - gram).info.any():
            return float(square.sqrt()) * NEXT
    return None


def spread(values: Tensor, n: int) -> Tensor:
    """K values for n entries, in runs of neighbours."""
    return values if values.shape[-1] == n else values.repeat_interleave(n // values.shape[-1], -1)


def _hermitian(matrix: Tensor) -> Tensor:
    return (matrix + matrix.mH) / 2
