r"""The certificate with its gradient, for little more than its value: only vectors are differentiated.

The bound's square is u^H G_l u with u the top eigenvector of G_l = W_l Sigma_{l-1} W_l^H, and the derivative of an
eigenvalue is that of this form with u held fixed. So is each form before it, from the last layer to the first
(p = W_i^H u, q = m p):

    u^H G_i u                     = p^H Sigma_{i-1} p
    p^H Sigma p                   = q^T (G^{-1} - T)^{-1} q + sum_j (r_j^2 / t_j) |p_j|^2
    q^T (G^{-1} - T)^{-1} q       = max_y  2 q^T y - y^T (G^{-1} - T) y,     derivative by G and T: s^T dG s + y^T dT y

with y where the maximum is attained and s = q + T y = G^{-1} y. The matrices and their factorisations are those of the
value; differentiating through them, as autograd would in `output_gram`, costs as much again and more.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..rounding import TINY
from .certificate import ActivationState, Arithmetic, Chain, Slopes, output_gram, spread


class Tracing(Arithmetic):
    """Keeps the states for the backward pass, and scales the multipliers of contractions (m = 0) to the boundary.

    There lambda_max(T^1/2 G T^1/2) = 1, where the optimum lies. Without this the bound would not depend on the weights
    before a contraction at all, as Sigma = r^2 / T there.
    """

    def __init__(self) -> None:
        self.states: list[ActivationState] = []

    def activation(self, gram: Tensor, slopes: Slopes, log_t: Tensor) -> ActivationState | None:
        """The state; contractions without a factor."""
        low, high = slopes
        middle, radius = (low + high) / 2, (high - low) / 2
        if middle.any():
            state = super().activation(gram, slopes, log_t)
        elif not gram.isfinite().all():  # weights that have diverged
            state = None
        else:
            root = spread(log_t.div(2).exp() * (radius > 0), gram.shape[-1])
            log_t = log_t - torch.linalg.eigvalsh(root[:, None] * gram * root).amax().clamp(min=TINY).log()
            state = ActivationState(log_t, gram, middle, root, radius * torch.exp(-log_t / 2), None)
        if state is not None:
            self.states.append(state)
        return state


def bound_with_gradient(chain: Chain, log_multipliers: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The upper bound sqrt(lambda_max(W_l Sigma W_l^T)), the multipliers of contractions first scaled to the boundary.

    Differentiable in weights and multipliers. Not rounded upwards: `proved_bound` is.

    Args:
        chain: weights with a graph, slopes, groups.
        log_multipliers: as in `output_gram`.

    Returns:
        The bound `()`, inf and without a graph where a factorisation fails; the logarithms of the multipliers as they
        were used, detached, up to where it failed.
    """
    tracing = Tracing()
    with torch.no_grad():
        gram = output_gram(chain, log_multipliers, tracing)
    used = [state.log_multipliers.detach() for state in tracing.states]
    if gram is None or not gram.isfinite().all():
        return chain.weights[0].real.new_tensor(torch.inf), used
    square = _form(chain, log_multipliers, tracing.states, *_steepest(gram))
    return square.clamp(min=TINY).sqrt(), used


def _form(chain: Chain, log_multipliers: Sequence[Tensor], states: Sequence[ActivationState], u: Tensor, block: int) -> Tensor:
    """u^H G_i u with G_i = W_i Sigma W_i^H (of one of its blocks) after len(states) activations, `()`."""
    i = len(states)
    weight = chain.weights[i][block] if chain.weights[i].dim() == 3 else chain.weights[i]
    p = weight.mH @ u
    square = p.real.square() + p.imag.square() if p.is_complex() else p.square()
    if i == 0:
        return square.sum()
    state, log, (low, high) = states[-1], log_multipliers[i - 1], chain.slopes[i - 1]
    middle, radius = (low + high) / 2, (high - low) / 2
    n = state.gram.shape[-1]
    if state.factor is None:  # a contraction: m = 0, its multipliers divided by lambda_max(T^1/2 G T^1/2)
        root = spread(log.div(2).exp() * (radius > 0), n)
        top, block = _steepest(root.detach()[:, None] * state.gram * root.detach())
        inner = state.gram[block] if state.gram.dim() == 3 else state.gram
        s = root * top
        edge = torch.vdot(s.to(inner), inner @ s.to(inner)).real
        edge = edge + _change(_form(chain, log_multipliers, states[:-1], s.detach(), block))
        return edge * (spread(radius.square() * torch.exp(-log), len(square)) * square).sum()
    t, q = spread(log.exp() * (radius > 0), n), middle * p
    with torch.no_grad():
        root, moved = t.sqrt(), state.gram @ q
        solved = torch.cholesky_solve((root * moved)[:, None], state.factor)[:, 0]
        y = moved + state.gram @ (root * solved)
        s = q + t * y
        constant = 2 * (y @ s)
    energy = 2 * (q @ y) + t @ y.square() + _form(chain, log_multipliers, states[:-1], s, 0) - constant
    return energy + (spread(radius.square() * torch.exp(-log), len(square)) * square).sum()


def _change(value: Tensor) -> Tensor:
    """0 with the value's graph."""
    return value - value.detach()


def _steepest(gram: Tensor) -> tuple[Tensor, int]:
    """The top eigenvector of the block, if there are several, that has the largest eigenvalue; and which one it is."""
    values, vectors = torch.linalg.eigh(gram)
    if gram.dim() == 2:
        return vectors[:, -1], 0
    block = int(values[:, -1].argmax())
    return vectors[block, :, -1], block
