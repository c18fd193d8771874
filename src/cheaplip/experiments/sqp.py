"""A deterministic full-batch solver of (2) for small networks, to the accuracy of which propositions can be checked.

Lip(f, X_Lip) is a maximum, at whose kinks gradient methods chatter, and every minimiser lies on kinks. With the constant s
as a variable of its own the problem is smooth,

    min over theta, s of  risk(theta) + lambda s   subject to  -s <= (f(u) - f(v)) / |u - v| <= s  for all pairs

(of several outputs |f(u) - f(v)| / |u - v| <= s), and sequential quadratic programming solves it to many digits. So
X_Lip is fixed here and the regularizer of the library, made for stochastic steps on a moving X_Lip, is not used. Float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.func import functional_call, jacrev
from torch.nn.functional import mse_loss

from ..norms import sample_norm, sample_unit
from ..pairs.sets import PairSet


@dataclass(frozen=True)
class Solution:
    """A solution of (2) for one weight, and what it was reached with."""

    weight: float
    theta: Tensor  # the trainable parameters, flat
    risk: float
    lipschitz: float  # Lip(f, X_Lip)
    converged: bool

    @property
    def objective(self) -> float:
        """Risk + lambda Lip."""
        return self.risk + self.weight * self.lipschitz


def solve_path(
    model: nn.Module, data: tuple[Tensor, Tensor], pairs: PairSet, weights: Sequence[float], *, iterations: int = 200
) -> Iterator[Solution]:
    """Solutions of (2), mean squared error, for each weight, started from the one before; the model is left at the last.

    Args:
        model: f; parameters that do not require a gradient stay fixed. If only the last layer does, the
            problem is convex and the solutions are global minimisers.
        data: x `(n, *input)` and y `(n, outputs)`.
        pairs: X_Lip.
        weights: of lambda; from large to small goes well, the other way gets stuck.
        iterations: of the quadratic programming, for each weight.
    """
    problem = _Problem(model, data, pairs)
    theta = problem.start
    for weight in weights:
        s = problem.lipschitz(theta)
        found = minimize(
            lambda z, weight=weight: problem.objective(z, weight),
            np.append(theta.numpy(), s),
            jac=True,
            constraints={"type": "ineq", "fun": problem.slack, "jac": problem.slack_gradient},
            method="SLSQP",
            options={"maxiter": iterations, "ftol": 1e-12},
        )
        theta = torch.tensor(found.x[:-1])
        problem.load(theta)
        yield Solution(weight, theta, float(problem.risk(theta)), problem.lipschitz(theta), bool(found.success))


class _Problem:
    def __init__(self, model: nn.Module, data: tuple[Tensor, Tensor], pairs: PairSet) -> None:
        self._model, (self._x, self._y) = model, data
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._ends, self._distance = torch.cat([pairs.u, pairs.v]), sample_norm(pairs.u - pairs.v)
        self._jacobian = jacrev(self.quotients)

    @property
    def start(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self._parameters.values()])

    def load(self, theta: Tensor) -> None:
        nn.utils.vector_to_parameters(theta, self._parameters.values())

    def risk(self, theta: Tensor) -> Tensor:
        return mse_loss(self._outputs(theta, self._x), self._y)

    def quotients(self, theta: Tensor) -> Tensor:
        """(f(u) - f(v)) / |u - v|, `(pairs, outputs)`."""
        before, after = self._outputs(theta, self._ends).chunk(2)
        scaled: Tensor = (after - before) / self._distance[:, None]
        return scaled

    def lipschitz(self, theta: Tensor) -> float:
        return float(sample_norm(self.quotients(theta)).max())

    def objective(self, z: np.ndarray, weight: float) -> tuple[float, np.ndarray]:
        theta = torch.tensor(z[:-1], requires_grad=True)
        risk = self.risk(theta)
        (gradient,) = torch.autograd.grad(risk, theta)
        return float(risk.detach()) + weight * z[-1], np.append(gradient.numpy(), weight)

    def slack(self, z: np.ndarray) -> np.ndarray:
        quotients = self.quotients(torch.tensor(z[:-1])).detach()
        one = quotients[:, 0].numpy()
        if quotients.shape[1] == 1:
            return np.concatenate([z[-1] - one, z[-1] + one])
        return np.asarray(z[-1] - sample_norm(quotients).numpy())

    def slack_gradient(self, z: np.ndarray) -> np.ndarray:
        theta = torch.tensor(z[:-1])
        jacobian = self._jacobian(theta).detach()  # (pairs, outputs, parameters)
        ones = np.ones((len(jacobian), 1))
        if jacobian.shape[1] == 1:
            return np.block([[-jacobian[:, 0].numpy(), ones], [jacobian[:, 0].numpy(), ones]])
        along = sample_unit(self.quotients(theta).detach())
        return np.hstack([-torch.einsum("po,pot->pt", along, jacobian).numpy(), ones])

    def _outputs(self, theta: Tensor, x: Tensor) -> Tensor:
        sizes = [p.numel() for p in self._parameters.values()]
        shaped = [part.view(p.shape) for part, p in zip(theta.split(sizes), self._parameters.values(), strict=True)]
        outputs: Tensor = functional_call(self._model, dict(zip(self._parameters, shaped, strict=True)), (x,))
        return outputs
