"""Constants of layers that order or weigh entries: max-pooling, sorting, the largest, softmax and its relatives."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from ...errors import UnsupportedModuleError
from ..rounding import NEXT, SLOPES
from .constants import infinity_norm, layer_norm, local_norm
from .linear_maps import Function
from .region import Region, Shape

SlidingMaxPool = nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d
AdaptiveMaxPool = nn.AdaptiveMaxPool1d | nn.AdaptiveMaxPool2d | nn.AdaptiveMaxPool3d
MaxPool = SlidingMaxPool | AdaptiveMaxPool


class Ordering(nn.Module):
    """A function that sorts along an axis, or takes the largest, the smallest or `logsumexp` of it.

    It rises with every entry, and has the constant 1 in the 2-norm and in the inf-norm: sorted sequences are never further
    apart than the sequences, and the gradient of `logsumexp` is a vector of probabilities.
    """

    def __init__(self, function: Function) -> None:
        super().__init__()
        self._function = function

    def forward(self, x: Tensor) -> Tensor:
        """`(n, *out)`."""
        return self._function(x)


Softmax = nn.Softmax | nn.Softmax2d | nn.Softmin
Monotone = MaxPool | Ordering
"""Layers that rise with every entry."""


@layer_norm.register
@infinity_norm.register
def _(module: Ordering, shape: Shape) -> float:
    """1: sorted sequences are never further apart."""
    return 1.0


@layer_norm.register
def _(module: SlidingMaxPool, shape: Shape) -> float:
    """The root of the number of windows that an entry lies in."""
    _values_alone(module)
    # |max a - max b| <= max |a - b| in each window, and an entry lies in at most so many windows: a dilated window meets an
    # entry with one of its k taps, and taps of windows `stride` apart that meet it are at most min(k, ceil(span / stride))
    kernel, stride, dilation = (_all(of, shape) for of in (module.kernel_size, module.stride, module.dilation))
    spans = zip(kernel, stride, dilation, strict=True)
    return math.sqrt(math.prod(min(k, math.ceil((d * (k - 1) + 1) / s)) for k, s, d in spans))


@layer_norm.register
def _(module: AdaptiveMaxPool, shape: Shape) -> float:
    """The root of the number of windows that an entry lies in."""
    _values_alone(module)
    overlap = 1
    for size, out in zip(shape[1:], _all(module.output_size, shape), strict=True):
        seen = [0] * size
        for i in range(out or size):
            for entry in range(math.floor(i * size / (out or size)), math.ceil((i + 1) * size / (out or size))):
                seen[entry] += 1
        overlap *= max(seen)
    return math.sqrt(overlap)


@infinity_norm.register
def _(module: MaxPool, shape: Shape) -> float:
    return min(1.0, layer_norm(module, shape))


@layer_norm.register
@infinity_norm.register
def _(module: Softmax, shape: Shape) -> float:
    """1/2: the Jacobian diag(p) - p p^T is symmetric, with absolute row sums 2 p_i (1 - p_i) (Gershgorin); less on a domain."""
    softmax_axis(module, shape)
    return 0.5


@local_norm.register
def _(module: Softmax, shape: Shape, region: Region) -> float:
    """Diag(p) - p p^T is at most diag(p)."""
    return min(0.5, float(softmax_range(module, region)[1].max()) * (1 + SLOPES))


def softmax_range(module: Softmax, region: Region) -> tuple[Tensor, Tensor]:
    """Least and largest probabilities: of an entry at one end and all others at the other end."""
    dim = softmax_axis(module, tuple(region.low.shape[1:]))
    low, high = (-region.high, -region.low) if isinstance(module, nn.Softmin) else (region.low, region.high)
    ends = []
    for own, others in ((low, high), (high, low)):
        own, others = own.movedim(dim, -1), others.movedim(dim, -1)
        n = own.shape[-1]
        rows = others[..., None, :].expand(*others.shape, n).clone()  # a row for each entry, with its own end in place
        rows.diagonal(dim1=-2, dim2=-1).copy_(own)
        ends.append(rows.softmax(-1).diagonal(dim1=-2, dim2=-1).movedim(-1, dim))
    return ends[0].nan_to_num(0.0), ends[1].nan_to_num(1.0)


@layer_norm.register
def _(module: nn.LogSoftmax, shape: Shape) -> float:
    """Sqrt(classes): the Jacobian I - 1 p^T is a projection along 1, whose norm is |1| |p|."""
    return math.sqrt(shape[softmax_axis(module, shape)]) * NEXT


@infinity_norm.register
def _(module: nn.LogSoftmax, shape: Shape) -> float:
    return 2.0


def softmax_axis(module: Softmax | nn.LogSoftmax, shape: Shape) -> int:
    """The axis of a sample's tensor, from the last."""
    dims = len(shape) + 1
    dim = -3 if isinstance(module, nn.Softmax2d) else module.dim
    if dim is None or dim % dims == 0 or not -dims <= dim < dims:
        raise UnsupportedModuleError("softmax along a stated axis of a sample", f"dim={dim}", "Give another axis.")
    return dim % dims - dims


def _values_alone(module: MaxPool) -> None:
    if module.return_indices:
        raise UnsupportedModuleError("max-pooling that returns values alone", str(module), "Use return_indices=False.")


def _all(value: Any, shape: Shape) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * (len(shape) - 1)
    return tuple(value) * (len(shape) - 1) if len(value) == 1 else tuple(value)
