r"""Maps that are linear, or linear and a constant, beside the modules of torch: what functions such as `mean` or `pad` are.

A linear map A without negative entries has, by Schur's test, \|A\|_2 <= sqrt(largest row sum * largest column sum): the
images of a vector of ones under A and under its transpose. That is exact for every rearrangement, selection, repetition and
padding, for nearest-neighbour upsampling, means and sums over whole axes, and pooling windows that do not overlap.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .region import Shape

Function = Callable[[Tensor], Tensor]


class Nonnegative(nn.Module):
    """A function that is linear without negative coefficients, but for a constant. It is called with two samples at a time.

    Args:
        function: from `(2, *shape)` to `(2, *out)`, each sample by itself.
        channelwise: whether no two channels, the first axis of a sample, mix.
        piece: (axis, index, pieces) where it takes one of so many pieces along an axis.
    """

    def __init__(self, function: Function, *, channelwise: bool = False, piece: tuple[int, int, int] | None = None) -> None:
        super().__init__()
        self._function, self.channelwise, self.piece = function, channelwise, piece

    def forward(self, x: Tensor) -> Tensor:
        """Of any number of samples."""
        even = torch.cat([x, x[-1:]]) if len(x) % 2 else x
        return torch.cat([self._function(two) for two in even.split(2)])[: len(x)]


class Scaling(nn.Module):
    """Entry by entry times a number or a tensor `(*shape)`."""

    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.register_buffer("factor", factor.detach().double())
        self.factor: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """The product with the factor."""
        return self.factor.to(x) * x


class Shift(nn.Module):
    """Plus a number or a tensor `(*shape)`: it changes no difference, but the intervals of values."""

    def __init__(self, constant: Tensor) -> None:
        super().__init__()
        self.register_buffer("constant", constant.detach().double())
        self.constant: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """The sum with the constant."""
        return x + self.constant.to(x)


class Rotation(nn.Module):
    """((a + b) / sqrt 2, (a - b) / sqrt 2) for neighbours a, b along an axis of length two; its own inverse."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """Of shape and norm of x."""
        a, b = x.unbind(self.dim)
        return torch.stack([a + b, a - b], self.dim) / math.sqrt(2)


class Reshape(nn.Module):
    """The entries of a sample in the same order, in another shape."""

    def __init__(self, out: Shape) -> None:
        super().__init__()
        self._out = out

    def forward(self, x: Tensor) -> Tensor:
        """`(n, *out)`."""
        return x.reshape(len(x), *self._out)


LinearMap = Nonnegative | Scaling | Shift | Rotation


def sums(function: Function, shape: Shape) -> tuple[Tensor, Tensor]:
    """Sums of the rows and of the columns of a linear map, `(*out)` and `(*shape)`, float64.

    Args:
        function: linear but for a constant, on `(2, *shape)`.
        shape: of one sample.
    """
    ones = torch.ones(2, *shape, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        rows = function(ones) - function(torch.zeros_like(ones))
        (columns,) = torch.autograd.grad(rows.sum(), ones)
    return rows[0].detach(), columns[0]


def schur(function: Function, shape: Shape) -> float:
    """The bound above of a map without negative entries."""
    rows, columns = sums(function, shape)
    return math.sqrt(float(rows.max()) * float(columns.max())) if rows.numel() and columns.numel() else 0.0


def keeps_samples_apart(function: Function, shape: Shape) -> bool:
    """Whether each of two samples has its own output and the two are treated alike, by zeros in one, 1 or -1 in the other.

    A proof for maps without negative coefficients, and for functions along an axis, whichever it is.
    """
    zeros = torch.zeros(1, *shape, dtype=torch.float64)
    none = function(torch.cat([zeros, zeros]))
    if none.dim() == 0 or len(none) != 2:
        return False
    for entry in (1.0, -1.0):
        first, second = function(torch.cat([zeros + entry, zeros])), function(torch.cat([zeros, zeros + entry]))
        if not (first[1].equal(none[1]) and second[0].equal(none[0]) and first[0].equal(second[1])):
            return False
    return True
