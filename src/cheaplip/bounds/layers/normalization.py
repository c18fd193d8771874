r"""Constants of layers that divide by the spread of their input: LayerNorm, GroupNorm, InstanceNorm, RMSNorm.

With z the n entries of a group, or what is left of them after their mean, y = z / s with s^2 = |z|^2 / n + eps. The Jacobian
(I - z z^T / (n s^2)) / s has norm at most 1 / s. So the constant is 1 / sqrt(eps) on all inputs, some hundreds, and
1 / sqrt(r^2 + eps) on a region in which |z| / sqrt(n) is at least r. No entry of y exceeds sqrt(n).

Near a centre it is near m (I - w w^T), with w = z / (sqrt(n) s) there: where z is within r, 1 / s is between two numbers with
the mean m, and w w^T has moved by the sine of an angle, at most r / (sqrt(n) s) (of z with sqrt(n eps) as one more entry).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...errors import UnsupportedModuleError
from ..rounding import INTERVALS, PRODUCTS, SLOPES
from .constants import layer_norm, local_norm
from .region import Region, Shape, everywhere

InstanceNorm = nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d
Normalization = nn.LayerNorm | nn.GroupNorm | nn.RMSNorm | InstanceNorm


class Unit(nn.Module):
    """What `functional.normalize` computes: z / max(|z|, eps) along an axis.

    Args:
        dim: the axis of a batch.
        eps: the least divisor.
    """

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.dim, self.eps = dim, eps

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape of x."""
        return nn.functional.normalize(x, dim=self.dim, eps=self.eps)


@layer_norm.register
def _(module: Unit, shape: Shape) -> float:
    """1 / eps; with the least length on a domain 1 / length: the Jacobian is a projection divided by the length."""
    return 1 / module.eps


@local_norm.register
def _(module: Unit, shape: Shape, region: Region) -> float:
    nearest = torch.zeros_like(region.low).clamp(region.low, region.high)  # of each entry to 0
    least = torch.linalg.vector_norm(nearest, dim=module.dim).min()
    centre = torch.linalg.vector_norm(region.centre, dim=module.dim).min()
    return min(1 / module.eps, 1 / max(float(least), float(centre) - region.reach, module.eps)) * (1 + PRODUCTS)


@layer_norm.register
def _(module: Normalization, shape: Shape) -> float:
    """The largest |weight| / sqrt(eps); with the least spread on a domain |weight| / sqrt(spread^2 + eps)."""
    return local_norm(module, shape, everywhere(shape))


@local_norm.register
def _(module: Normalization, shape: Shape, region: Region) -> float:
    least, eps = _least_square(module, region), _eps(module)
    if not least + eps > 0:
        return math.inf
    weight = module.weight
    steepest = 1.0 if weight is None else float(weight.detach().double().abs().max())
    return steepest / math.sqrt(least + eps) * (1 + PRODUCTS)


def near_centre(
    module: Normalization, region: Region, reach: Callable[[Tensor], float]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The Jacobian as M C and errors: C, M, the group of each entry, and |J - M C|_2 of it, times its weight.

    Args:
        module: the layer.
        region: of its input.
        reach: how far a linear map `(rows, entries)` of the input can be from the one at the centre.
    """
    shape = tuple(region.low.shape[1:])
    entries = math.prod(shape)
    centre = _groups(module, region.centre)[0]  # (groups, n)
    groups, n = centre.shape
    centring = torch.eye(n, dtype=torch.float64) - (0 if isinstance(module, nn.RMSNorm) else 1 / n)
    before = torch.block_diag(*[centring] * groups)
    z = centre @ centring
    away = torch.linalg.vector_norm(
        _groups(module, torch.maximum(region.high - region.centre, region.centre - region.low))[0], dim=1
    )
    far = torch.tensor([reach(rows) for rows in before.split(n)], dtype=torch.float64)
    r, length = torch.minimum(away, far) * (1 + INTERVALS), torch.linalg.vector_norm(z, dim=1)
    s, least, most = (((length + by).clamp(min=0).square() / n + _eps(module)).sqrt() for by in (torch.zeros_like(r), -r, r))
    least, most = least * (1 - INTERVALS), most * (1 + INTERVALS)
    w = z / (math.sqrt(n) * s)[:, None]
    mean = (1 / least + 1 / most) / 2
    size = (1 / least - 1 / most) / 2 + (r / (math.sqrt(n) * s)).clamp(max=1) / least
    far_off = size >= 1 / least  # then 0 is the better matrix
    mean, size = torch.where(far_off, 0.0, mean), torch.where(far_off, 1 / least, size) * (1 + INTERVALS) + SLOPES / least
    blocks = mean[:, None, None] * (torch.eye(n).double() - w[:, :, None] * w[:, None])
    factor = torch.ones(entries, dtype=torch.float64)
    if module.weight is not None:
        factor = _aligned(module, module.weight.detach().double().cpu(), len(shape)).expand(shape).flatten()
    group = torch.arange(groups).repeat_interleave(n)
    return before, factor[:, None] * torch.block_diag(*blocks), group, factor.abs() * size[group]


def normalized_range(module: Normalization, shape: Shape) -> Tensor:
    """What the absolute value of each entry of the output is at most, `(1, *shape)`."""
    n = _groups(module, torch.zeros(1, *shape)).shape[2]
    weight, bias = (
        None if part is None else part.detach().double().cpu() for part in (module.weight, getattr(module, "bias", None))
    )
    size = torch.full((1, *shape), math.sqrt(n) * (1 + PRODUCTS), dtype=torch.float64)
    size = size if weight is None else size * _aligned(module, weight.abs(), len(shape))
    return size if bias is None else size + _aligned(module, bias.abs(), len(shape))


def _least_square(module: Normalization, region: Region) -> float:
    """The smallest mean square of z: it is no further from 0 than that of a point, less the distance from there."""
    middle, half = region.middle()
    least = torch.zeros(())
    for point, away in ((middle, _groups(module, half).norm(dim=2)), (region.centre, region.reach)):
        groups = _groups(module, point)
        groups = groups if isinstance(module, nn.RMSNorm) else groups - groups.mean(2, keepdim=True)
        # of every group the least
        length = ((groups.norm(dim=2) - away).nan_to_num(0.0).clamp(min=0) / math.sqrt(groups.shape[2])).amin()
        least = torch.maximum(least, length)
    return float(least) ** 2 * (1 - 1e-9)


def _groups(module: Normalization, x: Tensor) -> Tensor:
    """`(n, groups, entries)`, what is normalised together side by side."""
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return x.reshape(len(x), -1, math.prod(module.normalized_shape))
    if isinstance(module, nn.GroupNorm):
        return x.reshape(len(x), module.num_groups, -1)
    return x.reshape(len(x), x.shape[1], -1)


def _eps(module: Normalization) -> float:
    if isinstance(module, InstanceNorm) and module.track_running_stats:
        do = "Use BatchNorm, which does the same in evaluation mode."
        raise UnsupportedModuleError("instance normalisation without running statistics", type(module).__name__, do)
    if module.eps is None:  # RMSNorm takes that of the dtype of its input
        dtype = torch.float32 if module.weight is None else module.weight.dtype
        return float(torch.finfo(dtype).eps)
    return module.eps


def _aligned(module: Normalization, values: Tensor, dims: int) -> Tensor:
    """Per channel, or as the last axes are."""
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return values
    return values.reshape(-1, *[1] * (dims - 1))
