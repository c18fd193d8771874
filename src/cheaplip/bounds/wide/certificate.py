r"""How far the differences of two outputs can change from a point on, for networks of many values.

The certificate of `ellipsoid`, with its matrix Sigma in factors: every value is a linear function of coordinates q, the input
first, then one for each error of each bend (`bends`), and \|q\|_K <= radius in the metric

    K = I - sum over bends of L^T L,    L q: what the errors of the bend are made of, times roots of multipliers.

So a functional of values whose coordinates are l changes by at most radius (l K^{-1} l^T)^{1/2}. Only errors that there are
get coordinates: entries on one side of their kink, and windows with one largest entry, have none. Functionals go back
through the network when they are asked for, so that no matrix has as many rows as the network has values.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..rounding import INTERVALS, NEXT, gamma
from .bends import Bend, bend, rivals_of
from .metric import KEPT, Metric, TooWideError, metric
from .steps import Added, Bent, Mapped, Steps

ENTRIES = 2**27
"""No matrix is larger (1 GiB)."""
AT_ONCE = 2**24
"""Functionals are taken in parts of about so many entries."""


class Certificate:
    """Of one point and radius.

    Args:
        steps: the network.
        values: those at the point, as `Steps.at` gives them.
        radius: >= 0.

    Raises:
        TooWideError: too many errors, or too large ones, for a proof.
    """

    def __init__(self, steps: Steps, values: list[Tensor], radius: float) -> None:
        self._steps, self._values, self._radius = steps, values, radius
        self._bends: dict[int, Bend] = {}
        self._metrics: dict[int, Metric] = {}  # of bends with errors, in order
        self._inner: dict[int, Tensor] = {}  # the first coordinates of values, (coordinates, entries)
        self._sizes: dict[int, float] = {}  # 2-norms of values as maps of the coordinates, at most
        self._terms = max((step.terms for step in steps.steps if isinstance(step, Mapped)), default=1)
        self._run()

    def lengths(self, rows: Tensor) -> Tensor:
        """How far functionals of the outputs, `(n, outputs)`, can change, divided by the radius; `(n,)`, float64."""
        place, rows = self._steps.place, rows.to(self._steps.dtype)
        whitened = self._whitened(rows @ self._inner[place].T, self._back({place: rows}))
        return self._proved(whitened, torch.linalg.vector_norm(rows.double(), dim=1), place)

    def _proved(self, whitened: Tensor, sizes: Tensor, place: int) -> Tensor:
        """Lengths in the metric, with the rounding errors of functionals of these sizes."""
        found: Tensor = torch.linalg.vector_norm(whitened.double(), dim=1)
        return (found * (1 + self._relative(whitened.shape[1])) + self._rounding(place) * sizes) * NEXT

    def _relative(self, coordinates: int) -> float:
        """Of products with L and of triangular solves, each enlarged by all that follow."""
        return gamma(2 * coordinates) * coordinates * sum(KEPT ** -(2 * i + 2) for i in range(len(self._metrics) + 1))

    def _rounding(self, place: int) -> float:
        """Of products with the network's matrices on the way, for a functional of length 1."""
        return 2 * len(self._steps.steps) * gamma(self._terms) * self._sizes[place] * KEPT ** -len(self._metrics)

    def _run(self) -> None:
        self._room(len(self._values[0]), max(len(value) for value in self._values))
        self._inner[0], self._sizes[0] = torch.eye(len(self._values[0]), dtype=self._steps.dtype), 1.0
        last_use = {i: k for k, step in enumerate(self._steps.steps) for i in step.inputs}
        for k, step in enumerate(self._steps.steps):
            before = len(self._metrics)
            given = [self._inner[i] for i in step.inputs]
            if isinstance(step, Mapped):
                self._inner[step.out] = step.forward(given[0].reshape(-1, *step.shape)).flatten(1)
                self._sizes[step.out] = step.size * self._sizes[step.inputs[0]]
            elif isinstance(step, Added):
                self._inner[step.out] = sum(given[1:], given[0])
                self._sizes[step.out] = sum(self._sizes[i] for i in step.inputs)
            else:
                self._bend(step)
            for i in set(step.inputs):
                if last_use[i] == k:
                    del self._inner[i]
            if len(self._metrics) > before == 0:
                first = self._metrics[step.out]
                self._inner = {i: first.whitened(inner.T).T.contiguous() for i, inner in self._inner.items()}

    def _bend(self, step: Bent) -> None:
        source, centre = step.inputs[0], self._values[step.inputs[0]]
        reach = self._radius * self._reaches(source)
        reach = reach + INTERVALS * (centre.abs() + reach).max()
        rivals = rivals_of(step, centre, reach)
        members = rivals.near.scatter(1, rivals.place, True)[rivals.moving]
        entries, position = step.windows[rivals.moving][members].unique(return_inverse=True)
        units = self._units(entries, source)
        places = torch.zeros_like(step.windows)
        places[rivals.moving] = torch.zeros_like(members, dtype=torch.long).masked_scatter(members, position)
        block, place = rivals.near.nonzero(as_tuple=True)
        first = places.gather(1, rivals.place)[block, 0]
        two = torch.full((len(block),), 2.0, dtype=torch.float64)
        away = torch.zeros_like(rivals.gap)
        away[block, place] = self._radius * self._proved(units[places[block, place]] - units[first], two, source)
        self._bends[step.out] = made = bend(step, rivals, centre, reach, away)
        self._inner[step.out] = made.forward(self._inner[source])
        self._sizes[step.out] = made.size * step.overlap * self._sizes[source]
        if len(made.support):
            found = self._metric(made, units, places, source)
            self._sizes[step.out] += float(found.noise.max())
            self._metrics[step.out] = found

    def _metric(self, made: Bend, units: Tensor, places: Tensor, source: int) -> Metric:
        """That of the errors, whose functionals are combinations of single entries."""
        support = made.support
        mean = units.new_zeros(len(support), units.shape[1])
        for j in range(places.shape[1]):
            mean += made.mean[support, j, None].to(units) * units[places[support, j]]
        own = (made.own[support] > 0).nonzero()[:, 0]
        near, place = (made.sizes[support] > 0).nonzero(as_tuple=True)
        self._room(len(own) + len(near), units.shape[1])
        rows = torch.cat([mean[own], units[places[support][near, place]] - mean[near]])
        sizes = torch.cat([made.own[support][own], made.sizes[support][near, place]])
        wrong = 2 * self._rounding(source), self._relative(rows.shape[1])
        return metric(rows, sizes, torch.cat([own, near]), support, wrong, few=bool(self._metrics))

    def _reaches(self, place: int) -> Tensor:
        """How far each entry of a value can be from where it is at the point, divided by the radius."""
        inner = self._inner[place]
        ones = torch.ones(inner.shape[1], dtype=torch.float64)
        if not self._metrics:
            return self._proved(inner.T, ones, place)
        made = self._made(place)
        if len(self._metrics) == 1 and isinstance(made, Mapped) and made.squares and made.inputs[0] in self._metrics:
            first = self._metrics[made.inputs[0]]
            squares = inner.new_zeros(len(self._values[made.inputs[0]])).index_add(0, first.support, first.noise.square())
            noise = made.squares(squares.reshape(1, *made.shape)).flatten().clamp(min=0).sqrt()
            return self._proved(torch.stack([torch.linalg.vector_norm(inner, dim=0), noise], 1), ones, place)
        parts = torch.arange(len(ones)).split(self._at_once())
        return torch.cat([self._proved(self._units(part, place), ones[: len(part)], place) for part in parts])

    def _units(self, entries: Tensor, place: int) -> Tensor:
        """The coordinates of single entries of a value."""
        inner, made = self._inner[place], self._made(place)
        if not self._metrics:
            return inner[:, entries].T
        self._room(len(entries), inner.shape[0] + sum(len(of.support) + len(of.factor) for of in self._metrics.values()))
        found = []
        for some in entries.split(self._at_once()):
            if isinstance(made, Mapped):
                pending = {made.inputs[0]: made.units(some, self._steps.network.order[place].shape).flatten(1)}
            else:
                pending = {place: inner.new_zeros(len(some), inner.shape[1]).scatter_(1, some[:, None], 1.0)}
            found.append(self._whitened(inner[:, some].T, self._back(pending)))
        return torch.cat(found) if found else inner.new_zeros(0, 1)

    def _made(self, place: int) -> Mapped | Added | Bent | None:
        return next((step for step in self._steps.steps if step.out == place), None)

    def _whitened(self, found: Tensor, parts: dict[int, Tensor]) -> Tensor:
        """Coordinates in which the metric is the identity, from those of the input and of errors."""
        for i, (place, of) in enumerate(self._metrics.items()):
            if i:  # the first one is in the coordinates of the input already
                found = of.whitened(found)
            found = torch.cat([found, parts.get(place, found.new_zeros(len(found), len(of.support)))], 1)
        return found

    def _back(self, pending: dict[int, Tensor]) -> dict[int, Tensor]:
        """The coordinates of functionals that are errors of bends, by the places of these."""
        first, found = min(self._metrics, default=len(self._values)), {}
        for step in reversed(self._steps.steps):
            if step.out < first or step.out not in pending:
                continue
            rows = pending.pop(step.out)
            if step.out in self._metrics:
                found[step.out] = rows[:, self._metrics[step.out].support] * self._metrics[step.out].noise
            if step.out == first:
                continue
            if isinstance(step, Mapped):
                rows = step.backward(rows.reshape(-1, *self._steps.network.order[step.out].shape)).flatten(1)
            elif isinstance(step, Bent):
                rows = self._bends[step.out].backward(rows, len(self._values[step.inputs[0]]))
            for i in step.inputs:
                pending[i] = pending[i] + rows if i in pending else rows
        return found

    def _at_once(self) -> int:
        return max(1, AT_ONCE // max(len(value) for value in self._values))

    def _room(self, rows: int, columns: int) -> None:
        if rows * columns > ENTRIES:
            raise TooWideError
