r"""Each operation of a network as a matrix and errors in blocks: dz = M C dx + q, \|q_i\| <= sum_k size_ik \|(C dx)_{b_ik}\|.

M is about the Jacobian at the centre of the domain, and the sizes say how far the Jacobian is from M on it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .blocks import Linearised
from .layers.activations import acts_entrywise, slope_interval
from .layers.constants import exact_copy
from .layers.layer import Layer
from .layers.normalization import Normalization, near_centre
from .layers.ordering import Softmax, softmax_axis, softmax_range
from .layers.region import Region
from .multipliers.chain import linear_weight
from .network import Applied, Product, Value
from .rounding import INTERVALS, NEXT, SLOPES
from .serial import Parts, parts_of


class Reach:
    """How far the arguments of an operation can be from where they are at the centre: the least of what was found.

    Args:
        radius: of the domain.
    """

    def __init__(self, radius: float) -> None:
        self._radius = radius
        self._sigma = torch.zeros(0)
        self._regions: dict[int, Region] = {}
        self._least: dict[int, float] = {}
        self._asked = 0

    def within(self, sigma: Tensor) -> Reach:
        """In one more ellipsoid of the arguments; the same questions follow in the same order."""
        self._sigma, self._asked = sigma, 0
        return self

    def region(self, value: Value, start: int = 0) -> Region:
        """Of one of them, which starts there."""
        region = self._regions.get(start, value.region)
        if not math.isfinite(self._radius):
            return region
        n = math.prod(value.shape)
        away = self._radius * self._sigma.diagonal()[start : start + n].clamp(min=0).sqrt() * NEXT
        away = away.reshape(region.centre.shape)
        away = away + INTERVALS * (region.centre.abs().max() + away.max())
        low, high = torch.maximum(region.low, region.centre - away), torch.minimum(region.high, region.centre + away)
        self._regions[start] = Region(low, high, region.centre, region.reach)
        return self._regions[start]

    def of(self, matrix: Tensor) -> float:
        """Of a linear map of the arguments, in the 2-norm."""
        if not math.isfinite(self._radius):
            return math.inf
        gram = matrix @ self._sigma @ matrix.T
        far = self._radius * float(torch.linalg.eigvalsh(gram)[-1].clamp(min=0).sqrt()) * (1 + INTERVALS)
        self._least[self._asked] = min(far, self._least.get(self._asked, math.inf))
        self._asked += 1
        return self._least[self._asked - 1]


def linearised(value: Value, reach: Reach) -> Linearised | None:
    """The step from its inputs, side by side, to this value; None where its change is unbounded."""
    if isinstance(value, Product):
        return _matrices(value, reach) if value.matrices else _product(value, reach)
    parts = parts_of(value)
    if parts is not None:
        return Linearised(_side_by_side(value, parts))
    if not isinstance(value, Applied):
        return None
    module, region = value.layer.module, reach.region(value.inputs[0])
    n, out = math.prod(value.layer.shape), math.prod(value.layer.out)
    if acts_entrywise(module):
        low, high = (end.flatten().expand(n) for end in slope_interval(module, region.low, region.high))
        each = torch.arange(n)
        return Linearised(torch.diag((low + high) / 2), None, each, ((each, (high - low) / 2 * (1 + SLOPES)),))
    if isinstance(module, Normalization):
        before, matrix, group, size = near_centre(module, region, reach.of)
        return Linearised(matrix, before, group, ((group, size),))
    if isinstance(module, Softmax):
        return _softmax(module, region)
    if isinstance(module, nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d) and (pooled := _max_pooled(module, value.layer, region)):
        return pooled
    if not math.isfinite(value.layer.constant):
        return None
    one = torch.zeros(out, dtype=torch.long)
    none = torch.zeros(out, n, dtype=torch.float64)
    return Linearised(none, None, torch.zeros(n, dtype=torch.long), ((one, torch.full((out,), value.layer.constant).double()),))


def _product(value: Product, reach: Reach) -> Linearised | None:
    """Y dx + x dy."""
    n = math.prod(value.shape)
    x, y = reach.region(value.inputs[0]), reach.region(value.inputs[1], n)
    if not (x.bounded and y.bounded):
        return None
    (mx, rx), (my, ry) = ((part.flatten() for part in one.middle()) for one in (x, y))
    first, second = torch.arange(n), n + torch.arange(n)
    errors = ((first, ry * (1 + SLOPES)), (second, rx * (1 + SLOPES)))
    return Linearised(torch.cat([torch.diag(my), torch.diag(mx)], 1), None, torch.arange(2 * n), errors)


def _matrices(value: Product, reach: Reach) -> Linearised | None:
    """DX Y + X dY: the errors are dX times the change of Y, row by row, and the change of X times dY, column by column."""
    a, b = value.inputs
    n, m = math.prod(a.shape), math.prod(b.shape)
    x, y = reach.region(a), reach.region(b, n)
    if not (x.bounded and y.bounded):
        return None
    by_x = (torch.eye(n).double().reshape(n, *a.shape) @ y.centre).reshape(n, -1).T
    by_y = (x.centre @ torch.eye(m).double().reshape(m, *b.shape)).reshape(m, -1).T
    rows, columns = (
        torch.arange(math.prod(a.shape[:-1])).reshape(*a.shape[:-1], 1),
        torch.arange(math.prod(b.shape) // b.shape[-2]),
    )
    columns = rows.numel() + columns.reshape(*b.shape[:-2], 1, b.shape[-1])
    block = torch.cat([rows.expand(a.shape).flatten(), columns.expand(b.shape).flatten()])
    sizes = []
    for one, start in ((x, 0), (y, n)):
        away = torch.maximum(one.high - one.centre, one.centre - one.low)[0]
        per = math.prod(away.shape[-2:])
        whole = torch.eye(n + m).double()[start : start + away.numel()].split(per)
        far = torch.tensor([reach.of(part) for part in whole], dtype=torch.float64).reshape(*away.shape[:-2], 1, 1)
        sizes.append(torch.minimum(torch.linalg.matrix_norm(away, keepdim=True), far) * (1 + INTERVALS))
    out = value.shape
    first = rows.expand(out).flatten(), sizes[1].expand(out).flatten()
    second = columns.expand(out).flatten(), sizes[0].expand(out).flatten()
    return Linearised(torch.cat([by_x, by_y], 1), None, block, (first, second))


def _softmax(module: Softmax, region: Region) -> Linearised:
    """Diag(p) - p p^T: the change is at most the largest of the p_i, and that of p times the lengths of both."""
    shape = tuple(region.low.shape[1:])
    dim, n = softmax_axis(module, shape), math.prod(shape)
    low, high = softmax_range(module, region)
    p = exact_copy(module).cpu()(region.centre).clamp(low, high)
    away = torch.maximum(high - p, p - low)
    lengths = torch.linalg.vector_norm(p, dim=dim, keepdim=True) + torch.linalg.vector_norm(high, dim=dim, keepdim=True).clamp(
        max=1
    )
    size = away.amax(dim, keepdim=True) + torch.linalg.vector_norm(away, dim=dim, keepdim=True) * lengths
    most = high.amax(dim, keepdim=True).clamp(max=0.5)
    far_off = size >= most  # then 0 is the better matrix
    unit = torch.eye(n).double().reshape(n, *shape)
    matrix = torch.where(far_off, 0.0, p * (unit - (p * unit).sum(dim, keepdim=True))).reshape(n, n).T
    others = torch.ones(shape).sum(dim, keepdim=True)
    block = torch.arange(others.numel()).reshape(others.shape).expand(shape).flatten()
    sizes = torch.where(far_off, most, size).expand(1, *shape).flatten() * (1 + INTERVALS) + SLOPES
    return Linearised(-matrix if isinstance(module, nn.Softmin) else matrix, None, block, ((block, sizes),))


def _max_pooled(module: nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d, layer: Layer, region: Region) -> Linearised | None:
    """The mean of those entries of a window that can be the largest; no one of c is further from it than sqrt(1 - 1/c)."""
    kind = {nn.MaxPool1d: nn.AvgPool1d, nn.MaxPool2d: nn.AvgPool2d, nn.MaxPool3d: nn.AvgPool3d}[type(module)]
    if module.dilation not in (1, (1, 1), (1, 1, 1)):
        return None
    mean = kind(module.kernel_size, module.stride, module.padding, module.ceil_mode)
    weight = linear_weight(mean, layer.shape, layer.out)
    if weight is None:
        return None
    inside, low, high = weight > 0, region.low.flatten(), region.high.flatten()
    least = torch.where(inside, low, -math.inf).amax(1, keepdim=True)
    possible = inside & (high >= least)
    window, entry = possible.nonzero(as_tuple=True)
    count = possible.sum(1).double()
    matrix = (torch.arange(len(count))[:, None] == window) / count[:, None]
    size = (1 - 1 / count).sqrt() * NEXT
    return Linearised(matrix, torch.eye(possible.shape[1]).double()[entry], window, ((torch.arange(len(count)), size),))


def _side_by_side(value: Value, parts: Parts) -> Tensor:
    """The matrix of a sum of matrices times values, on the inputs of the value in their order."""
    widths = [math.prod(one.shape) for one in value.inputs]
    starts = [sum(widths[:i]) for i in range(len(widths))]
    matrix = torch.zeros(math.prod(value.shape), sum(widths), dtype=torch.float64)
    for i, (part, block) in enumerate(parts):
        assert part is value.inputs[i]
        matrix[:, starts[i] : starts[i] + widths[i]] += torch.eye(widths[i]).double() if block is None else block
    return matrix
