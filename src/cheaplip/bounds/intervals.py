r"""The interval of the Jacobian on boxes, for networks of matrices and any activations.

Take a box of centre c and half widths r, and say that on all of it the Jacobian of a layer's values z lies in A +- R, entry
by entry. Then (mean value theorem)

    z(x) lies in z(c) +- (|A| + R) r          for every x in the box,
    the slopes of an activation there lie in m +- s                                              (see `activations`),
    the Jacobian after it lies in m A +- (|m| R + s (|A| + R)), and after a weight W in W A +- |W| R.

Where slopes jump, s does not fall with r, and |W| amplifies it. But the Jacobian is linear in each slope by itself and its
norm is convex, so the norm is largest where each slope is at one end of its interval. The few entries with the widest s
take either end, one after the other, in branches with an A and an R of their own.

As r falls, the interval shrinks to the Jacobian at c. All is in float64, with bounds of the rounding errors added to R and
to the half width of z(x).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .layers.activations import derivative, jumps, slope_interval
from .rounding import SLOPES, TINY, UNIT, gamma
from .serial import Affine

BRANCHES = 2**6
"""At most so many in a box."""
SMOOTH = 1e-6
"""A point counts as off the kinks if what its Jacobian may be differs by less than this share."""


@dataclass(frozen=True)
class IntervalJacobian:
    """The network on boxes, and at points."""

    steps: Sequence[Affine | nn.Module]
    inputs: int
    input_norm: float  # 2 or inf
    output_norm: float

    def __call__(self, centre: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
        """For boxes of this centre and half width, `(cells, inputs)`, each.

        Returns:
            An upper bound of the Jacobian's norm, `(cells,)`, and about how much f may change along each side of the box,
            `(cells, inputs)`, up to a factor of the box.
        """
        middle, radius = _jacobian(self.steps, centre, half)
        rise = torch.linalg.vector_norm(middle.abs() + radius, dim=3).amax(1) * half
        return self._norm(middle, radius), rise

    def attained(self, points: Tensor) -> Tensor:
        """The norm of the Jacobian at these points, rounded down, `(points,)`; 0 where one lies on a kink that matters."""
        middle, radius = _jacobian(self.steps, points, torch.zeros_like(points))
        norm = self._norm(middle[:, :1], 0 * radius[:, :1]) / (1 + SLOPES) ** 2
        unknown = self._norm(middle - middle[:, :1], radius)
        return (norm - unknown).where(unknown <= SMOOTH * norm, 0.0).nan_to_num(nan=0.0)

    @property
    def matrices(self) -> int:
        """Rows of A and R in all branches of a box."""
        kinks = self.inputs * sum(_jumps(step) for step in self.steps if isinstance(step, nn.Module))
        return 2 * self.inputs * min(1 << kinks, BRANCHES)

    @property
    def cost(self) -> int:
        """Multiplications for one box."""
        return self.matrices * sum(step.weight.numel() for step in self.steps if isinstance(step, Affine))

    def _norm(self, middle: Tensor, radius: Tensor) -> Tensor:
        """The largest operator norm of the matrices in A +- R of any branch, or a little more, `(cells,)`."""
        norms = _interval_norm(middle.flatten(0, 1), radius.flatten(0, 1), self.input_norm, self.output_norm)
        largest: Tensor = norms.unflatten(0, middle.shape[:2]).amax(1) * (1 + SLOPES)
        return largest


def _jacobian(steps: Sequence[Affine | nn.Module], centre: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """A and R, transposed, `(cells, branches, inputs, outputs)`, for cells of this centre and half width, `(cells, inputs)`."""
    cells, inputs = centre.shape
    z, deviation = centre, torch.zeros_like(centre)  # (cells, entries), and the rounding errors of z
    middle = torch.eye(inputs).to(centre).expand(cells, 1, -1, -1)  # (cells, branches, inputs, entries)
    radius = torch.zeros_like(middle)
    for step in steps:
        if isinstance(step, Affine):
            weight, size, rounding = step.weight, step.weight.abs(), gamma(step.weight.shape[1] + 1 + step.terms)
            wrong = rounding * ((z.abs() + deviation) @ step.sizes.T + step.size)
            deviation = deviation @ size.T * (1 + rounding) + wrong
            radius = radius @ size.T * (1 + rounding) + rounding * (middle.abs() + radius) @ step.sizes.T
            z, middle = z @ weight.T + step.bias, middle @ weight.T
            continue
        reach = (half[:, None] @ (middle.abs() + radius).amax(1))[:, 0] * (1 + SLOPES) + deviation
        low, high = slope_interval(step, z - reach, z + reach)
        z, deviation = step(z), deviation * torch.maximum(low.abs(), high.abs())
        deviation = deviation + SLOPES * (1 + z.abs()) + jumps(step)[0]
        low, high = _branched(step, low, high, middle)
        slope, spread = ((low + high) / 2)[:, :, None], ((high - low) / 2)[:, :, None]
        repeats = slope.shape[1] // middle.shape[1]
        middle, radius = middle.repeat(1, repeats, 1, 1), radius.repeat(1, repeats, 1, 1)
        radius = (slope.abs() * radius + spread * (middle.abs() + radius)) * (1 + SLOPES) + UNIT * (slope * middle).abs()
        middle = slope * middle
    return middle, radius


def _branched(step: nn.Module, low: Tensor, high: Tensor, middle: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes `(cells, branches, entries)`: all branches so far with one kink after the other at its low and its high end."""
    branches, inputs, entries = middle.shape[1:]
    count = min(inputs, entries, (BRANCHES // branches).bit_length() - 1) if _jumps(step) else 0
    width = (high - low) * middle.square().sum(2).amax(1)
    kinks = width.topk(count, dim=1).indices  # (cells, count)
    low, high = low[:, None].expand(-1, branches, -1), high[:, None].expand(-1, branches, -1)
    for kink in kinks.unbind(1):
        there = nn.functional.one_hot(kink, entries)[:, None].bool()
        low, high = torch.cat([low, high.where(there, low)], 1), torch.cat([low.where(there, high), high], 1)
    return low, high


def _jumps(step: nn.Module) -> bool:
    return any(len(set(values)) > 1 for values in derivative(step)[1].values())


def _interval_norm(middle: Tensor, radius: Tensor, input_norm: float, output_norm: float) -> Tensor:
    largest = middle.abs() + radius
    norm: Tensor
    if (input_norm, output_norm) == (2, 2):
        norm = torch.minimum(_spectral(largest), _spectral(middle) + _spectral(radius))
    elif input_norm == 2:
        norm = torch.linalg.vector_norm(largest, dim=1).amax(1)
    elif output_norm == math.inf:
        norm = largest.sum(1).amax(1)
    else:
        corners = itertools.product((1.0, -1.0), repeat=middle.shape[1])  # of the unit cube: one of them attains the norm
        images = [torch.tensordot(middle, middle.new_tensor(corner), ([1], [0])).abs() + radius.sum(1) for corner in corners]
        norm = torch.stack([torch.linalg.vector_norm(image, dim=1) for image in images]).amax(0)
    return norm


def _spectral(matrix: Tensor) -> Tensor:
    """Largest singular value of `(cells, few, entries)`, from the small Gram matrix."""
    scale = matrix.abs().amax((1, 2), keepdim=True).clamp(min=TINY)  # squares of small numbers would vanish
    gram = (matrix / scale) @ (matrix / scale).mT
    norm = torch.linalg.eigvalsh(gram.nan_to_num())[:, -1].clamp(min=0).sqrt() * scale[:, 0, 0]
    largest: Tensor = norm.where(matrix.isfinite().all(2).all(1), math.inf)
    return largest
