"""Modules that act entry by entry and that torch does not have."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Sine(nn.Module):
    """Sin x, or cos x: of slopes in [-1, 1], wherever x is."""

    def __init__(self, *, cosine: bool = False) -> None:
        super().__init__()
        self._function = torch.cos if cosine else torch.sin

    def forward(self, x: Tensor) -> Tensor:
        """Entry by entry."""
        return self._function(x)


class Partly(nn.Module):
    """An activation on some entries of a sample, the identity on the others.

    Args:
        inner: the activation.
        mask: `(*shape)`, where it acts.
    """

    def __init__(self, inner: nn.Module, mask: Tensor) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("mask", mask)
        self.mask: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Entry by entry."""
        return torch.where(self.mask.to(x.device), self.inner(x), x)


def flattened(module: nn.Module) -> nn.Module:
    """The same activation for samples as vectors."""
    return Partly(module.inner, module.mask.flatten()) if isinstance(module, Partly) else module
