r"""Branch and bound for Lip(f) on a domain of few inputs, with a bound of the Jacobian on ever smaller cells.

On a convex domain Lip(f) is the largest norm of the Jacobian. A cell is a box with a bound of that norm in it: from intervals
(`intervals`), or, for smooth activations and the 2-norm, from polynomials of degree two (`expansion`). As cells shrink, both
come close to the Jacobian at the centre. So the bound converges to Lip(f) where the cells of the largest bound are split.
With polynomials the excess falls with the square of the width, so that some thousand cells do where intervals need millions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..domains import Ball, Domain, box_of
from .expansion import Expansion
from .intervals import IntervalJacobian
from .layers.activations import acts_entrywise
from .layers.curvature import curvature
from .layers.layer import Layer
from .rounding import SLOPES
from .serial import Affine, steps_of

FEW, MANY = 6, 32
"""With more inputs than this there would be too many cells: with intervals, and with polynomials."""
TOLERANCE = 0.01
"""The search ends when the bound is at most this share above the largest norm that it has met."""
CELLS, WORK = 2**19, 2**39
"""It gives up after about so many cells, or multiplications: some minutes of one core."""
AT_ONCE, ENTRIES, BATCH = 2**11, 2**23, 2**26
"""Cells that are split in one round; fewer where a tensor would have more than so many entries, or where they would take more
than so many multiplications in polynomials."""
EARLY = 1 / 8
"""Share of the time after which the search asks whether it will end below what a quick method proves."""
PART = 1 / 8
"""Share of the open cells that are split before they are sorted again."""
PROBES = 64
"""Cells a round at whose centres the norm is taken."""


@dataclass(frozen=True)
class Subdivision:
    """What was found, and proved."""

    upper: float  # bound of Lip(f) on the domain
    largest: float  # norm of the Jacobian at the steepest centre, rounded down
    steepest: Tensor | None  # that centre, (inputs,), float64; None if there is none, off all kinks, where f rises

    reached: float = 0.0  # what Lip(f) was at least, before

    @property
    def close(self) -> bool:
        """Whether the upper and the lower end have met, but for the tolerance."""
        return self.upper <= (1 + TOLERANCE) * max(self.largest, self.reached)


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

    @staticmethod
    def together(groups: Sequence[_Cells]) -> _Cells:
        """The cells of all groups."""
        return _Cells(*map(torch.cat, zip(*(group.parts() for group in groups), strict=True)))

    def within(self, bound: Tensor, rise: Tensor) -> _Cells:
        """The same with what was found: no part of a cell is steeper than the cell."""
        bound = bound.nan_to_num(nan=math.inf)  # of values too large for float64
        return _Cells(self.low, self.high, rise.nan_to_num(nan=math.inf), torch.minimum(self.bound, bound))

    def split(self, share: float, least: int) -> tuple[_Cells, _Cells]:
        """Those with the largest bounds, this share but so many at least, and the others."""
        count = min(len(self.bound), max(least, int(share * len(self.bound))))
        steepest = self.bound.topk(count).indices
        others = torch.ones_like(self.bound, dtype=torch.bool)
        others[steepest] = False
        return self[steepest], self[others]

    def halves(self) -> _Cells:
        """Each cell in two that share a side, along the input of the largest rise."""
        split = nn.functional.one_hot(self.rise.argmax(1), self.low.shape[1]).bool()
        middle = (self.low + self.high) / 2
        before = _Cells(self.low, self.high.where(~split, middle), self.rise, self.bound)
        return _Cells.together([before, _Cells(self.low.where(~split, middle), self.high, self.rise, self.bound)])

    def centre(self) -> Tensor:
        """A point in the middle, `(cells, inputs)`."""
        return (self.low + self.high) / 2

    def half(self) -> Tensor:
        """How far the cell reaches from there, rounded upwards."""
        centre = self.centre()
        return torch.maximum(self.high - centre, centre - self.low) * (1 + SLOPES)


@torch.no_grad()
def subdivide(
    layers: Sequence[Layer],
    domain: Domain,
    *,
    input_norm: float = 2,
    output_norm: float = 2,
    deadline: float = math.inf,
    reached: float = 0.0,
    quick: Callable[[], float] = lambda: math.inf,
    slow: Callable[[], float] = lambda: math.inf,
) -> Subdivision | None:
    """An upper bound of Lip(f) on the domain, and a point at which f is about as steep.

    Args:
        layers: all that f consists of, from its input on, each with a rule in `layers`.
        domain: a box; or a ball, whose cells are those of the box round it that meet it.
        input_norm: 2 or inf.
        output_norm: 2 or inf.
        deadline: `time.monotonic()` at which to stop with what there is.
        reached: what Lip(f) is at least; cells whose bound is hardly above it are not split.
        quick: computes what another method proves, in a small part of the time.
        slow: the same with much of it. It is called where the bound would end above that of `quick`; then the search goes on.

    Returns:
        None for more than `FEW` inputs, or `MANY` with smooth activations, a domain without width in one of them, and for a
        layer that neither acts entry by entry nor is a matrix.
    """
    shape = layers[0].shape
    low, high = (end.reshape(1, -1) for end in box_of(domain, shape))
    if math.prod(shape) > MANY or not (low < high).all() or (steps := steps_of(layers)) is None:
        return None
    intervals = IntervalJacobian(steps, math.prod(shape), input_norm, output_norm)
    euclidean = input_norm == 2 and (output_norm == 2 or math.prod(layers[-1].out) == 1)
    expansion = Expansion.of(steps) if euclidean else None
    if expansion is None and math.prod(shape) > FEW:
        return None
    bounded = intervals if expansion is None else expansion
    most = min(CELLS, WORK // max(bounded.cost, 1))
    widest = ENTRIES // (max(math.prod(layer.out) for layer in layers) * intervals.matrices)
    at_once = max(1, min(AT_ONCE, widest if expansion is None else BATCH // expansion.cost))
    device = next((step.weight.device for step in steps if isinstance(step, Affine)), torch.device("cpu"))
    low, high = low.to(device), high.to(device)
    open_cells = _Cells(low, high, high - low, low.new_full((1,), math.inf))
    largest, steepest, closed, made = 0.0, None, 0.0, 0
    progress, others, asked = _Progress(time.monotonic(), deadline), math.inf, False
    while len(open_cells.bound) and made < most and time.monotonic() <= deadline:
        parents, open_cells = open_cells.split(PART, at_once)
        done = [open_cells]
        for some in torch.arange(len(parents.bound), device=device).split(at_once):
            cells = parents[some]
            if time.monotonic() <= deadline:
                cells = cells.halves() if made else cells
                cells = cells[_meets(cells.centre(), cells.half(), domain)]
                made += len(cells.bound)
                cells = cells.within(*bounded(cells.centre(), cells.half()))
            done.append(cells)
        open_cells = _Cells.together(done)
        centres = open_cells.centre()[open_cells.bound.topk(min(PROBES, len(open_cells.bound))).indices]
        attained = intervals.attained(centres) * _meets(centres, 0 * centres, domain)
        if float(attained.amax()) > largest:
            largest, steepest = float(attained.amax()), centres[attained.argmax()]
        steep = open_cells.bound > (1 + TOLERANCE) * max(largest, reached)
        closed = max([closed, *open_cells.bound[~steep].tolist()])
        open_cells = open_cells[steep]
        expected = progress.expected(max([closed, *open_cells.bound.tolist()]))
        if not asked and expected is not None:
            asked, others = True, quick()
            others = min(others, slow()) if expected > others else others
        if others <= (1 + TOLERANCE) * max(largest, reached):
            break
    return Subdivision(max([closed, *open_cells.bound.tolist()]), largest, steepest, reached)


class _Progress:
    """Where the bound will be at the deadline: it falls by about the same factor with each doubling of the time.

    Args:
        begun: `time.monotonic()`.
        deadline: the same.
    """

    def __init__(self, begun: float, deadline: float) -> None:
        self._begun, self._time = begun, deadline - begun
        self._past: list[tuple[float, float]] = []

    def expected(self, bound: float) -> float | None:
        """The bound then; None as long as it is early."""
        spent = time.monotonic() - self._begun
        self._past.append((spent, bound))
        if spent < EARLY * self._time:
            return None
        before, was = next(past for past in self._past if past[0] >= spent / 2)
        if not 0 < bound < math.inf or before == spent:
            return bound
        doublings = math.log(max(self._time / spent, 1)) / math.log(spent / before)
        reached: float = bound * (bound / was) ** doublings
        return reached


def is_smooth(layers: Sequence[Layer]) -> bool:
    """Whether all activations have slopes without jumps, of a known curvature."""
    return all(curvature(layer.module) is not None for layer in layers if acts_entrywise(layer.module))


def _meets(centre: Tensor, half: Tensor, domain: Domain) -> Tensor:
    """Which cells have a point in the domain, `(cells,)`."""
    if not isinstance(domain, Ball):
        return torch.ones(len(centre), dtype=torch.bool, device=centre.device)
    ahead = ((centre - domain.centre.to(centre).flatten()).abs() - half * (1 + SLOPES)).clamp(min=0)
    meets: Tensor = torch.linalg.vector_norm(ahead, dim=1) <= domain.radius * (1 + SLOPES)
    return meets
