"""One layer of a network as the graph finds it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import nn

from .constants import local_norm
from .region import Region, Shape

__all__ = ["Layer", "Shape"]


@dataclass(frozen=True, eq=False)
class Layer:
    """A module with the shapes of one input and of one output, and where its inputs lie."""

    module: nn.Module
    shape: Shape
    out: Shape
    region: Region

    @cached_property
    def constant(self) -> float:
        """An upper bound of its Lipschitz constant there, in the 2-norm."""
        return local_norm(self.module, self.shape, self.region)
