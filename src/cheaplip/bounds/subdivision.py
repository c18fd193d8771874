r"""Branch and bound for Lip(f) on a domain of few inputs, with the interval of the Jacobian on ever smaller cells.

On a convex domain Lip(f) is the largest norm of the Jacobian. Take a cell of centre c and half widths r, and say that on
all of it the Jacobian of a layer's values z lies in A +- R, entry by entry. Then (mean value theorem)

    z(x) lies in z(c) +- (|A| + R) r          for every x in the cell,
    the slopes of an activation there lie in m +- s                                              (see `activations`),
    the Jacobian after it lies in m A +- (|m| R + s (|A| + R)), and after a weight W in W A +- |W| R.

Where slopes jump, s does not fall with r, and |W| amplifies it. But the Jacobian is linear in each slope by itself and its
norm is convex, so the norm is largest where each slope is at one end of its interval. The few entries with the widest s
take either end, one after the other, in branches with an A and an R of their own.

As r falls, the interval shrinks to the Jacobian at c. So the bound converges to Lip(f) where the cells of the largest bound
are split. All is in float64, with bounds of the rounding errors added to R and to the half width of z(x).
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..domains import Ball, Domain, box_of
from .layers.activations import derivative, slope_interval
from .layers.layer import Layer
from .rounding import SLOPES, TINY, UNIT, gamma
from .serial import Affine, steps_of

FEW = 6
"""With more inputs than this there would be too many cells."""
TOLERANCE = 0.01
"""The search ends when the bound is at most this share above the largest norm that it has met."""
CELLS, WORK = 2**19, 2**39
"""It gives up after about so many cells, or multiplications: some minutes of one core."""
AT_ONCE, ENTRIES = 2**11, 2**23
"""Cells that are split in one round; fewer where a tensor would have more than so many entries."""
BRANCHES = 2**6
"""At most so many in a cell."""
PROBES = 64
"""Cells a round at whose centres the norm is taken."""

SMOOTH = 1e-6
"""A centre counts as off the kinks if what its Jacobian may be differs by less than this share."""


@dataclass(frozen=True)
class Subdivision:
    """What was found, and proved."""

    upper: float  # bound of Lip(f) on the domain
    largest: float  # norm of the Jacobian at the steepest centre, rounded down
    steepest: Tensor | None  # that centre, (inputs,), float64; None if there is none, off all kinks, where f rises

    @property
    def close(self) -> bool:
        """Whether the two have met, but for the tolerance."""
        return self.upper <= (1 + TOLERANCE) * self.largest


@dataclass(frozen=True)
class _Cells:
    low: Tensor  # (cells, inputs)
    high: Tensor  # (cells, inputs)
    rise: Tensor  # (cells, inputs), how much f may change along each input, up to a factor of the cell
    bound: Tensor  # (cells,), of the Jacobian's norm

    def parts(self) -> tuple[Tensor, ...]:
        """All four."""
        return self.low, self.high, self.rise, self.bound

    def __getitem__(self, index: Tensor) -> _Cells:
        return _Cells(*(part[index] for part in self.parts()))

    def __add__(self, other: _Cells) -> _Cells:
        return _Cells(*map(torch.cat, zip(self.parts(), other.parts(), strict=True)))

    def halves(self) -> _Cells:
        """Each cell in two that share a side, along the input of the largest rise."""
        split = nn.functional.one_hot(self.rise.argmax(1), self.low.shape[1]).bool()
        middle = (self.low + self.high) / 2
        before = _Cells(self.low, self.high.where(~split, middle), self.rise, self.bound)
        return before + _Cells(self.low.where(~split, middle), self.high, self.rise, self.bound)

    def centre(self) -> Tensor:
        """A point in the middle, `(cells, inputs)`."""
        return (self.low + self.high) / 2

    def half(self) -> Tensor:
        """How far the cell reaches from there, rounded upwards."""
        centre = self.centre()
        return torch.maximum(self.high - centre, centre - self.low) * (1 + SLOPES)


@torch.no_grad()
def subdivide(
    layers: Sequence[Layer], domain: Domain, *, input_norm: float = 2, output_norm: float = 2, deadline: float = math.inf
) -> Subdivision | None:
    """An upper bound of Lip(f) on the domain, and a point at which f is about as steep.

    Args:
        layers: all that f consists of, from its input on, each with a rule in `layers`.
        domain: a box; or a ball, whose cells are those of the box round it that meet it.
        input_norm: 2 or inf.
        output_norm: 2 or inf.
        deadline: `time.monotonic()` at which to stop with what there is.

    Returns:
        None for more than `FEW` inputs, a domain without width in one of them, and for a layer that neither acts entry by
        entry nor is a matrix.
    """
    shape = layers[0].shape
    low, high = (end.reshape(1, -1) for end in box_of(domain, shape))
    if math.prod(shape) > FEW or not (low < high).all() or (steps := steps_of(layers)) is None:
        return None
    device = next((step.weight.device for step in steps if isinstance(step, Affine)), torch.device("cpu"))
    low, high = low.to(device), high.to(device)
    norms = {"input_norm": input_norm, "output_norm": output_norm}
    at_once, most = _cells_allowed(layers, steps)
    open_cells = _Cells(low, high, high - low, low.new_full((1,), math.inf))
    largest, steepest, closed, made = 0.0, None, 0.0, 0
    while len(open_cells.bound) and made < most and time.monotonic() <= deadline:
        order = open_cells.bound.argsort(descending=True)
        cells = open_cells[order[:at_once]].halves()
        cells = cells[_meets(cells.centre(), cells.half(), domain)]
        made += len(cells.bound)
        middle, radius = _jacobian(steps, cells.centre(), cells.half())
        rise = torch.linalg.vector_norm(middle.abs() + radius, dim=3).amax(1) * cells.half()
        bound = _norm(middle, radius, **norms).nan_to_num(nan=math.inf)  # of values too large for float64
        # no part of a cell is steeper than the cell
        cells = _Cells(cells.low, cells.high, rise.nan_to_num(nan=math.inf), torch.minimum(cells.bound, bound))
        centres = cells.centre()[cells.bound.topk(min(PROBES, len(bound))).indices]
        attained = _attained(steps, centres, **norms) * _meets(centres, 0 * centres, domain)
        if float(attained.amax()) > largest:
            largest, steepest = float(attained.amax()), centres[attained.argmax()]
        open_cells = cells + open_cells[order[at_once:]]
        steep = open_cells.bound > (1 + TOLERANCE) * largest
        closed = max([closed, *open_cells.bound[~steep].tolist()])
        open_cells = open_cells[steep]
    return Subdivision(max([closed, *open_cells.bound.tolist()]), largest, steepest)


def _cells_allowed(layers: Sequence[Layer], steps: Sequence[Affine | nn.Module]) -> tuple[int, int]:
    """At once, and in all."""
    inputs, width = math.prod(layers[0].shape), max(math.prod(layer.out) for layer in layers)
    kinks: int = inputs * sum(_jumps(step) for step in steps if isinstance(step, nn.Module))
    matrices = 2 * inputs * min(2**kinks, BRANCHES)  # A and R, a row an input
    products = matrices * sum(step.weight.numel() for step in steps if isinstance(step, Affine))
    return max(1, min(AT_ONCE, ENTRIES // (width * matrices))), min(CELLS, WORK // max(products, 1))


def _jacobian(steps: Sequence[Affine | nn.Module], centre: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """A and R, transposed, `(cells, branches, inputs, outputs)`, for cells of this centre and half width, `(cells, inputs)`."""
    cells, inputs = centre.shape
    z, deviation = centre, torch.zeros_like(centre)  # (cells, entries), and the rounding errors of z
    middle = torch.eye(inputs).to(centre).expand(cells, 1, -1, -1)  # (cells, branches, inputs, entries)
    radius = torch.zeros_like(middle)
    for step in steps:
        if isinstance(step, Affine):
            weight, size, rounding = step.weight, step.weight.abs(), gamma(step.weight.shape[1] + 1)
            deviation = (deviation + rounding * z.abs()) @ size.T * (1 + rounding) + rounding * step.size
            radius = (radius + rounding * middle.abs()) @ size.T * (1 + rounding)
            z, middle = z @ weight.T + step.bias, middle @ weight.T
            continue
        reach = (half[:, None] @ (middle.abs() + radius).amax(1))[:, 0] * (1 + SLOPES) + deviation
        low, high = slope_interval(step, z - reach, z + reach)
        z, deviation = step(z), deviation * torch.maximum(low.abs(), high.abs())
        deviation = deviation + SLOPES * (1 + z.abs())
        low, high = _branched(step, low, high, middle)
        slope, spread = ((low + high) / 2)[:, :, None], ((high - low) / 2)[:, :, None]
        repeats = slope.shape[1] // middle.shape[1]
        middle, radius = middle.repeat(1, repeats, 1, 1), radius.repeat(1, repeats, 1, 1)
        radius = (slope.abs() * radius + spread * (middle.abs() + radius)) * (1 + SLOPES) + UNIT * (slope * middle).abs()
        middle = slope * middle
    return middle, radius


def _attained(steps: Sequence[Affine | nn.Module], points: Tensor, **norms: float) -> Tensor:
    """The norm of the Jacobian at these points, rounded down, `(points,)`; 0 where one lies on a kink that matters."""
    middle, radius = _jacobian(steps, points, torch.zeros_like(points))
    norm = _norm(middle[:, :1], 0 * radius[:, :1], **norms) / (1 + SLOPES) ** 2
    unknown = _norm(middle - middle[:, :1], radius, **norms)
    return (norm - unknown).where(unknown <= SMOOTH * norm, 0.0).nan_to_num(nan=0.0)


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


def _norm(middle: Tensor, radius: Tensor, input_norm: float, output_norm: float) -> Tensor:
    """The largest operator norm of the matrices in A +- R of any branch, or a little more, `(cells,)`."""
    norms = _interval_norm(middle.flatten(0, 1), radius.flatten(0, 1), input_norm, output_norm)
    largest: Tensor = norms.unflatten(0, middle.shape[:2]).amax(1) * (1 + SLOPES)
    return largest


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


def _meets(centre: Tensor, half: Tensor, domain: Domain) -> Tensor:
    """Which cells have a point in the domain, `(cells,)`."""
    if not isinstance(domain, Ball):
        return torch.ones(len(centre), dtype=torch.bool, device=centre.device)
    ahead = ((centre - domain.centre.to(centre).flatten()).abs() - half * (1 + SLOPES)).clamp(min=0)
    meets: Tensor = torch.linalg.vector_norm(ahead, dim=1) <= domain.radius * (1 + SLOPES)
    return meets
