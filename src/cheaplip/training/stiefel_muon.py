r"""`StiefelMuon`: an optimizer that keeps the matrices of a network orthonormal, so that its constant is known all the time.

A penalty asks for a small constant; here the weights never leave the set where the product of their norms is a number that
was chosen. With activations that keep lengths, such as |x|, hardly anything is lost between the product and Lip(f), and all of
the constant goes into margins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, require_in

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients with which few steps bring all singular values to about 1, from those of Muon."""
STEPS = 5
"""Of these."""
EPS = 1e-12
LONGEST = 0.2
"""Learning rate: the retraction needs singular values well between 0 and sqrt(3) times their own."""


class StiefelMuon(torch.optim.Optimizer):
    r"""Muon on the Stiefel manifold: matrices with orthonormal rows, or columns, times a number s.

    Each matrix W of m rows and n columns, with momentum M of its gradient, takes the step

        W <- R(W - lr s polar(M)),   R(W) = W (3 I - W^T W / s^2) / 2,   s = lipschitz^(1/k)

    with polar(M) the orthonormal matrix nearest to M, by Newton and Schulz, and k the number of matrices. R brings W back: its
    singular values are never above s, and below it by some two times lr^2 of s, so that they end there as lr falls. All other
    parameters take steps of Adam.

    A parameter of more than two dimensions counts as the matrix of its first one by all others. A convolution whose windows do
    not overlap (kernel = stride, zero padding, no dilation) has the norm of that matrix, one whose windows do a larger one. So
    `lipschitz` is an upper bound of Lip(f), up to rounding, for chains of dense layers, such convolutions and activations of
    slope 1 at most, where no layer is used twice and none is frozen. `lipschitz_bracket` has the proof, for these and all
    others.

    Args:
        params: as any optimizer's. The matrices are orthonormal from here on: each is replaced by the nearest one that is. What
            is frozen (`requires_grad` is False) stays as it is, and does not count.
        lr: learning rate, in (0, 0.2], as a part of s; of `vector_lr` times as much for all that are no matrices.
        lipschitz: the product of the matrices' norms. The loss sees logits, so it should be of the size of the margins there:
            4 with `margin_cross_entropy` and its margin 8.
        momentum: in [0, 1).
        vector_lr: learning rate of the others, as a part of lr.
        betas: of Adam.

    Raises:
        InputError: a value outside its range, also a learning rate that a schedule has raised; parameters that are not real; no
            matrix.

    Source: Muon, Jordan et al. 2024; the iteration R, Bjorck and Bowie 1971.

    Example:
        >>> layer = nn.Linear(8, 4)
        >>> optimizer = StiefelMuon(layer.parameters(), lipschitz=2.0)
        >>> round(float(torch.linalg.matrix_norm(layer.weight.detach(), 2)), 5)
        2.0
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.06,
        *,
        lipschitz: float = 1.0,
        momentum: float = 0.95,
        vector_lr: float = 0.25,
        betas: tuple[float, float] = (0.9, 0.99),
    ) -> None:
        require_in("lr", lr, f"(0, {LONGEST}]", "Give a share of the matrices' norm, such as 0.06.")
        require_in("lipschitz", lipschitz, "(0, inf)")
        require_in("momentum", momentum, "[0, 1)")
        require_in("vector_lr", vector_lr, "[0, inf)")
        for beta in betas:
            require_in("betas", beta, "[0, 1)")
        super().__init__(params, {"lr": lr, "momentum": momentum, "vector_lr": vector_lr, "betas": tuple(betas)})
        everything = [p for group in self.param_groups for p in group["params"]]
        if unreal := [p.dtype for p in everything if not p.is_floating_point()]:
            raise InputError("real parameters", f"some of {unreal[0]}", "Use an optimizer of torch.optim for them.")
        matrices = [p for p in everything if p.dim() > 1 and p.numel() and p.requires_grad]
        if not matrices:
            raise InputError("a matrix among the parameters", "none", "Use an optimizer of torch.optim.")
        for group in self.param_groups:
            group["norm"] = lipschitz ** (1 / len(matrices))
        for p in matrices:
            _settle(p, self.param_groups[0]["norm"])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Of the constructor alone: `InputError` later on, since all matrices share one product of norms."""
        if any("norm" in group for group in self.param_groups):
            do = "Give all groups to the constructor."
            raise InputError("no further parameters, for a product of norms that stays", "a new group", do)
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step from the gradients that are there; those that are missing leave their parameter where it is."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            require_in("lr", group["lr"], f"[0, {LONGEST}]", "A schedule has raised it: choose a smaller largest one.")
            for p in group["params"]:
                if p.grad is not None and p.numel():
                    (_step_matrix if p.dim() > 1 else _step_vector)(p, p.grad, self.state[p], group)
        return loss


def _step_matrix(p: nn.Parameter, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    if not state:  # the weights may have been loaded, or unfrozen, since the optimizer was made
        _settle(p, group["norm"])
        state["momentum"] = torch.zeros_like(p)
    mean: Tensor = state["momentum"]
    mean.mul_(group["momentum"]).add_(gradient)
    ahead = _wide(gradient + group["momentum"] * mean)  # Nesterov's
    turned = _wide(p) / group["norm"] - group["lr"] * newton_schulz(ahead)
    turned = 1.5 * turned - 0.5 * (turned @ turned.T) @ turned
    p.copy_(_shaped(group["norm"] * turned, p))


def _step_vector(p: nn.Parameter, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    if not state:
        state |= {"step": 0, "mean": torch.zeros_like(p).to(_precision(p)), "square": torch.zeros_like(p).to(_precision(p))}
    (first, second), state["step"] = group["betas"], state["step"] + 1
    gradient = gradient.to(_precision(p))
    state["mean"].lerp_(gradient, 1 - first)
    state["square"].lerp_(gradient.square(), 1 - second)
    mean, square = state["mean"] / (1 - first ** state["step"]), state["square"] / (1 - second ** state["step"])
    p.sub_(group["lr"] * group["vector_lr"] * mean / (square.sqrt() + 1e-8))


@torch.no_grad()
def _settle(p: nn.Parameter, norm: float) -> None:
    p.copy_(norm * nearest_orthonormal(p))


def newton_schulz(matrix: Tensor) -> Tensor:
    """A matrix with the same singular vectors and singular values of about 1 (0.7 to 1.2); `(m, n)` with m <= n."""
    a, b, c = NEWTON_SCHULZ
    found: Tensor = matrix / (torch.linalg.matrix_norm(matrix) + EPS)
    for _ in range(STEPS):
        gram = found @ found.T
        found = a * found + (b * gram + c * gram @ gram) @ found
    return found


def nearest_orthonormal(p: Tensor) -> Tensor:
    """The nearest matrix with orthonormal rows, or columns where it has more rows than columns, in the shape of `p`."""
    u, _, v = torch.linalg.svd(_wide(p), full_matrices=False)
    return _shaped(u @ v, p)


def _wide(p: Tensor) -> Tensor:
    """As a matrix with no more rows than columns, in single precision at least."""
    matrix = p.detach().flatten(1).to(_precision(p))
    return matrix.T if matrix.shape[0] > matrix.shape[1] else matrix


def _precision(p: Tensor) -> torch.dtype:
    return torch.float64 if p.dtype == torch.float64 else torch.float32


def _shaped(wide: Tensor, p: Tensor) -> Tensor:
    matrix = wide.T if len(p) > p[0].numel() else wide
    return matrix.reshape(p.shape).to(p.dtype)
