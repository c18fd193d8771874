"""One layer of a network as the graph finds it."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

Shape = tuple[int, ...]
"""Of one sample, without the batch dimension."""


class Layer(NamedTuple):
    """A module with the shapes of one input and of one output."""

    module: nn.Module
    shape: Shape
    out: Shape
