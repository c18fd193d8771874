"""Penalties other than the Lipschitz constant: the baselines a CLIP run is compared with."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def weight_norm(model: nn.Module, *, squared: bool = False) -> Tensor:
    r"""The Euclidean norm of all trainable parameters, |theta| or |theta|^2; equation (6) of the CLIP paper.

    Args:
        model: theta are its parameters that require a gradient, biases included.
        squared: |theta|^2 (weight decay) instead of |theta|.

    Returns:
        A scalar with a graph; its gradient at theta = 0 is 0.
    """
    parts = [parameter for parameter in model.parameters() if parameter.requires_grad]
    norms = torch.stack(torch._foreach_norm(parts))
    return norms.square().sum() if squared else torch.linalg.vector_norm(norms)
