"""The weight norm as a penalty: the baseline of Table 1, equation (6)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .penalty import Penalty


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


class WeightNorm(Penalty):
    """`weight_norm` of one model as a penalty. It has no state."""

    def __init__(self, model: nn.Module, *, squared: bool = False) -> None:
        self._model, self._squared = model, squared

    def __call__(self) -> Tensor:
        """|theta|, or its square, `()`."""
        return weight_norm(self._model, squared=self._squared)
