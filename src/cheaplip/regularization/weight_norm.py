"""Penalties other than the Lipschitz constant: the baselines a CLIP run is compared with."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


def weight_norm(model: nn.Module, *, squared: bool = False) -> Tensor:
    r"""The Euclidean norm of all trainable parameters, |theta| or |theta|^2; equation (6) of the CLIP paper.

    Args:
        model: theta are its parameters that require a gradient, biases included.
        squared: |theta|^2 (weight decay) instead of |theta|.

    Returns:
        A scalar with a graph; its gradient at theta = 0 is 0. Without trainable parameters, 0.
    """
    parts: list[Tensor] = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parts:
        return torch.zeros(())
    norms = torch.stack(torch._foreach_norm(parts))
    return norms.square().sum() if squared else torch.linalg.vector_norm(norms)


class NoPenalty:
    """Plain training: nothing to add, nothing to ascend. The interface of every penalty that `fit` can use."""

    skipped = 0

    def __call__(self) -> Tensor:
        """Zero."""
        return torch.zeros(())

    def step(self) -> None:
        """Nothing moves."""

    def ceiling(self, chance: float) -> float:
        """No limit to the weight."""
        return math.inf

    def redraw(self) -> None:
        """No pairs to draw."""

    def lower_bound(self) -> float | None:
        """A lower bound of Lip(f), where the penalty knows one."""
        return None

    def upper_bound(self) -> float | None:
        """A proved upper bound of Lip(f), where the penalty knows one."""
        return None

    def refine(self) -> float | None:
        """The lower bound after some work on it."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """What changes during training: nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""


class WeightPenalty(NoPenalty):
    """`weight_norm` of one model as a penalty: the baseline of Table 1."""

    def __init__(self, model: nn.Module, *, squared: bool = False) -> None:
        self._model, self._squared = model, squared

    def __call__(self) -> Tensor:
        """|theta|, or its square."""
        return weight_norm(self._model, squared=self._squared)
