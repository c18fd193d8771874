"""Where the outputs of a layer lie while its inputs lie in a region: `image`."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..rounding import PRODUCTS, gamma
from .activations import acts_entrywise, slope_interval
from .constants import Linear, Positive, Reshaping, absolute, exact_copy
from .convolutions import Convolution
from .layer import Layer
from .normalization import Normalization, Unit, normalized_range
from .ordering import Monotone, Softmax, softmax_range
from .region import Region, limited


@torch.no_grad()
def image(layer: Layer) -> Region:
    """The region of a layer's outputs: of its box, of its centre and its constant, and of what is known of its range."""
    module, region = layer.module, layer.region
    f = exact_copy(module).cpu()
    centre = f(region.centre)
    reach = layer.constant * region.reach if math.isfinite(region.reach) else math.inf
    if isinstance(module, Reshaping):
        return Region(f(region.low), f(region.high), centre, region.reach)
    low, high = _box(f, module, region, centre)
    rounding = _rounding(f, module, region) if isinstance(module, Linear) else torch.zeros_like(centre)
    return limited(low - rounding, high + rounding, centre, reach + float(torch.linalg.vector_norm(rounding)))


def _rounding(f: nn.Module, module: nn.Module, region: Region) -> Tensor:
    """How far rounding errors take any value in the region: large terms of a sum may cancel."""
    size = region.centre.abs()
    size = torch.maximum(size, region.size()) if region.bounded else size
    terms: Tensor = absolute(module).cpu()(size) + f(torch.zeros_like(size)).abs()
    return gamma(math.prod(size.shape)) * terms


def _box(f: nn.Module, module: nn.Module, region: Region, centre: Tensor) -> tuple[Tensor, Tensor]:
    low, high = region.low, region.high
    if isinstance(module, Positive | Monotone):
        return f(low), f(high)
    if isinstance(module, Linear):
        return _of_linear(f, module, region, centre)
    if acts_entrywise(module):
        ends = f(low), f(high)
        least, most = slope_interval(module, low, high)
        steepest = torch.maximum(least.abs(), most.abs()) * (high - low)
        smaller, larger = torch.minimum(*ends), torch.maximum(*ends)
        return torch.where(least >= 0, smaller, larger - steepest), torch.where(least >= 0, larger, smaller + steepest)
    if isinstance(module, Softmax):
        return softmax_range(module, region)
    if isinstance(module, Normalization):
        size = normalized_range(module, tuple(low.shape[1:]))
        return -size, size
    if isinstance(module, Unit):
        return -torch.ones_like(centre), torch.ones_like(centre)
    return torch.full_like(centre, -math.inf), torch.full_like(centre, math.inf)


def _of_linear(f: nn.Module, module: nn.Module, region: Region, centre: Tensor) -> tuple[Tensor, Tensor]:
    low, high = torch.full_like(centre, -math.inf), torch.full_like(centre, math.inf)
    if region.bounded:
        middle, half = region.middle()
        radius = absolute(module).cpu()(half)
        low, high = f(middle) - radius, f(middle) + radius
    single = isinstance(module, nn.Linear) or (isinstance(module, Convolution) and module.padding_mode == "zeros")
    if math.isfinite(region.reach) and single:  # no entry counts twice in a sum
        lengths = absolute(module, 2).cpu()(torch.ones_like(region.centre)).sqrt()  # of the rows
        radius = region.reach * lengths * (1 + PRODUCTS)
        low, high = torch.maximum(low, centre - radius), torch.minimum(high, centre + radius)
    return low, high
