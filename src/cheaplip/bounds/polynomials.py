r"""Functions of x in a box as polynomials of degree two with errors, and what activations make of them.

In the box x = c + r d with |d_i| <= 1. Each entry of a value is

    a + b . d + s . y +- error,

with numbers y in [-1, 1] that all entries share: the products of the d_i, and after them one number for each error made
so far. So what entries have in common can cancel later. An activation becomes a polynomial of its argument that is as near
to it as can be on the interval where the argument lies, the rest being an error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from .layers.activations import derivative, jumps
from .layers.curvature import curvature
from .layers.entrywise import Partly
from .rounding import SLOPES, gamma

POINTS = 17
"""On which the error of a fit is measured; between them the curvature bounds it."""


@dataclass(frozen=True)
class Polynomial:
    """The part without its error, for any number of entries, `(cells, ...)`."""

    constant: Tensor  # (cells, ...)
    linear: Tensor  # (cells, ..., inputs)
    rest: Tensor  # (cells, ..., numbers)

    def sizes(self) -> tuple[Tensor, Tensor]:
        """What the linear part and the rest are at most, `(cells, ...)` each."""
        return self.linear.abs().sum(-1), self.rest.abs().sum(-1)

    def times(self, matrix: Tensor) -> Polynomial:
        """Of the entries times this matrix from the right."""
        return Polynomial(self.constant @ matrix, matrix.mT @ self.linear, matrix.mT @ self.rest)


class Products:
    """The first of the numbers y: d_l d_m for l > m, and 2 d_l^2 - 1.

    Args:
        inputs: how many there are.
        like: a tensor of the device.
    """

    def __init__(self, inputs: int, like: Tensor) -> None:
        self.first, self.second = torch.tril_indices(inputs, inputs, device=like.device)
        self.squares = self.first == self.second
        self.scale = torch.where(self.squares, 0.25, 1.0).to(like)
        self.count = len(self.first)
        ends = (nn.functional.one_hot(end, inputs) for end in (self.first, self.second))
        self.share = sum(ends, start=torch.zeros(self.count, inputs, device=like.device, dtype=like.dtype))

    def of(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """(a . d) (b . d) as a constant and a combination of these numbers: d_l^2 is 1/2 + (2 d_l^2 - 1) / 2."""
        both = a[..., self.first] * b[..., self.second] + a[..., self.second] * b[..., self.first]
        return (a * b).sum(-1) / 2, both * self.scale

    def of_matrix(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """d^T K d of matrices `(..., inputs, inputs)` in the same way."""
        both = (matrix + matrix.mT).flatten(-2)[..., self.first * matrix.shape[-1] + self.second]
        return matrix.diagonal(dim1=-2, dim2=-1).sum(-1) / 2, both * self.scale

    def matrix(self, combination: Tensor) -> tuple[Tensor, Tensor]:
        """`(cells, count)` as a constant and the symmetric matrix K of d^T K d."""
        entries = torch.where(self.squares, 2 * combination, combination / 2)
        n = self.share.shape[1]
        matrix = combination.new_zeros(len(combination), n, n)
        matrix[:, self.first, self.second] = entries
        matrix[:, self.second, self.first] = entries
        return -(combination * self.squares).sum(1), matrix


def longer(a: Tensor, b: Tensor) -> Tensor:
    """The sum, with zeros at the end of the shorter one."""
    if a.shape[-1] < b.shape[-1]:
        a, b = b, a
    if not b.shape[-1]:
        return a
    return torch.cat([a[..., : b.shape[-1]] + b, a[..., b.shape[-1] :]], -1) if a.shape[-1] > b.shape[-1] else a + b


def reach_of(z: Polynomial, error: Tensor) -> Tensor:
    """How far the polynomial and its error are from the constant, rounded upwards."""
    linear, rest = z.sizes()
    return (linear + rest + error) * (1 + SLOPES) + SLOPES * (1 + z.constant.abs())


def slopes(act: nn.Module, z: Polynomial, error: Tensor) -> tuple[Polynomial, Tensor]:
    """phi'(z) as a straight line through the interval of z, and its error, `(cells, entries)`."""
    reach, bend = reach_of(z, error), _bends(act)[1]
    (level, steep), far = _fit(derivative(act)[0], z.constant, reach, 1, bend)
    far = far + jumps(act)[1]
    if isinstance(act, Partly):
        level, steep, far = (torch.where(act.mask, one, other) for one, other in ((level, 1.0), (steep, 0.0), (far, 0.0)))
    line = Polynomial(level, steep[..., None] * z.linear, steep[..., None] * z.rest)
    return line, (far + steep.abs() * error + gamma(2) * (level.abs() + steep.abs() * reach)) * (1 + SLOPES)


def values(act: nn.Module, z: Polynomial, error: Tensor, products: Products) -> tuple[Polynomial, Tensor]:
    """phi(z) as a parabola over the interval of z, and its error, `(cells, entries)`."""
    reach, bend = reach_of(z, error), _bends(act)[0]
    (level, steep, bent), far = _fit(act.inner if isinstance(act, Partly) else act, z.constant, reach, 2, bend)
    far = far + 2 * jumps(act)[0]  # once on the grid, and once between
    if isinstance(act, Partly):
        pairs = ((level, z.constant), (steep, 1.0), (bent, 0.0), (far, 0.0))
        level, steep, bent, far = (torch.where(act.mask, one, other) for one, other in pairs)
    linear, rest = z.sizes()
    rest = rest + error
    mean, square = products.of(z.linear, z.linear)
    parabola = Polynomial(
        level + bent * mean, steep[..., None] * z.linear, longer(bent[..., None] * square, steep[..., None] * z.rest)
    )
    # of (b.d + rest)^2 all but (b.d)^2 is an error
    far = far + steep.abs() * error + bent.abs() * (2 * linear * rest + rest.square())
    rounding = gamma(z.linear.shape[-1]) * (level.abs() + steep.abs() * reach + bent.abs() * reach.square())
    return parabola, (far + rounding) * (1 + SLOPES)


def _bends(act: nn.Module) -> tuple[float, float]:
    bends = curvature(act)
    assert bends is not None
    return bends


def _fit(
    function: Callable[[Tensor], Tensor], centre: Tensor, reach: Tensor, degree: int, bend: float
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Coefficients of the powers of z - centre, and by how much the function differs there; |function''| <= bend."""
    grid, powers, inverse = (part.to(centre) for part in _grid(degree))
    found = function(centre[..., None] + reach[..., None] * grid)
    parts = found @ inverse.T
    away = found - parts @ powers.T
    high, low = away.amax(-1), away.amin(-1)
    parts[..., 0] += (high + low) / 2
    bent = bend * reach.square() + (2 * parts[..., 2].abs() if degree > 1 else 0)
    between = (2 / (POINTS - 1)) ** 2 / 8 * bent  # of a straight line through two points of the grid
    rounding = SLOPES * (1 + centre.abs() + reach + found.abs().amax(-1) + parts.abs().sum(-1))
    scaled = parts / reach[..., None] ** torch.arange(degree + 1, device=reach.device)
    return scaled.unbind(-1), (high - low) / 2 + between * (1 + SLOPES) + rounding


@cache
def _grid(degree: int) -> tuple[Tensor, Tensor, Tensor]:
    """Points in [-1, 1], their powers, and the matrix from values there to coefficients of nearly the least largest error."""
    grid = torch.linspace(-1, 1, POINTS, dtype=torch.float64)
    powers = torch.stack([grid**k for k in range(degree + 1)], 1)
    weight = (1.02 - grid.square()) ** -0.25  # as Chebyshev's polynomials have it
    return grid, powers, torch.linalg.pinv(weight[:, None] * powers) * weight
