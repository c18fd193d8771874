"""From layers to the matrices, slopes and numbers of multipliers of a certificate (`certificate.Chain`).

Linear layers that follow one another merge where they can. A layer's differences live on (channels, *size), flattened
with the channels first. Where two weights are dense and an activation between them acts entry by entry, each entry has
its own multiplier and the slope interval is used. Elsewhere (convolutions too large for a dense matrix, pooling, other
layers with a constant c) the step is the contraction |dx| <= c |dz|, slopes in [-c, c], with one multiplier a channel,
or one alone for a layer that mixes channels: never worse than the product of the norms.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ...inference import device_of
from ..layers.activations import acts_entrywise, slope_interval
from ..layers.constants import BatchNorm, Channelwise, Linear, Reshaping, batch_norm_scale, layer_norm, linear_part, rule_type
from ..layers.convolutions import Convolution, has_symbols, symbol_entries, symbols
from ..layers.layer import Layer, Shape
from ..layers.linear_maps import Nonnegative, Scaling, Shift
from ..layers.ordering import MaxPool
from ..rounding import gamma
from .certificate import Chain, Slopes, spread

DENSE_ROWS = 1024
"""A convolution with more outputs than this is not written as a matrix."""
DENSE_COLUMNS = 2**15
"""Nor is one with more inputs."""
ENTRIES = 2**26
"""No matrix or stack of symbols has more entries than this (1 GiB of complex numbers)."""

FEW = 8
"""Operations of an entry that is no number of the layer, such as BatchNorm's scale, at most."""
COMPLEX = 24
"""Cost of a multiplication in a stack of symbols, in those of a matrix."""


@dataclass
class _Step:
    """What lies between two weights: a (product of) slope intervals, or a contraction."""

    slopes: Slopes
    exact: bool  # entry by entry, slopes to be used as they are
    groups: int  # how many groups of neighbours may have a multiplier of their own


def make_chain(layers: Sequence[Layer], *, local: bool = True) -> Chain | None:
    """The certificate's chain; None if a matrix of it would have more than `ENTRIES` entries.

    Its weights have a graph to the network's parameters where gradients are enabled, for a bound to be differentiated.

    Args:
        layers: of a network without branches, each with a rule in `layers` that allows its settings.
        local: whether activations take the slopes that they have in their regions; False: those they have anywhere, which
            hold for other weights too.

    Raises:
        UnsupportedModuleError: a layer without a rule.
    """
    weights: list[Tensor] = []
    errors: list[Tensor] = []  # of the weights, for a proof; on their device, where no step of a training waits for them
    between: list[_Step] = []  # between[i] follows weights[i]
    devices = (tensor.device for layer in layers for tensor in (*layer.module.parameters(), *layer.module.buffers()))
    device = next(devices, torch.device("cpu"))  # pooling and reshaping have none
    for layer in layers:
        module, shape, out = layer.module, layer.shape, layer.out
        if isinstance(module, Reshaping | Shift):
            continue
        if isinstance(module, Scaling) and module.factor.numel() == 1 and len(weights) > len(between):
            weights[-1] = module.factor.flatten().to(device) * weights[-1]
            errors[-1] = _scaled_error(module.factor, weights[-1], errors[-1])
            continue
        weight = linear_weight(module, shape, out)
        if weight is not None:
            if weight.numel() > ENTRIES:
                return None
            weight, error = weight.to(device), weight_error(module, weight)
            if len(weights) > len(between):  # the previous layer was linear too
                if weight.dim() == weights[-1].dim() == 2 and weight.shape[1] == weights[-1].shape[0]:
                    errors[-1] = _product_error(weight, error, weights[-1], errors[-1])
                    weights[-1] = weight @ weights[-1]
                    continue
                if isinstance(module, BatchNorm) and weight.shape[1] == shape[0]:
                    weights[-1] = spread(weight.diagonal(), weights[-1].shape[-2])[:, None] * weights[-1]
                    errors[-1] = _scaled_error(weight.diagonal(), weights[-1], errors[-1])
                    continue
                between.append(_contraction(1.0, shape))
            weights.append(weight)
            errors.append(error)
            continue
        if len(weights) == len(between):
            if weights:
                between[-1] = _after(between[-1], _step(layer, local))
                continue
            weights.append(torch.eye(shape[0] if math.prod(shape) > DENSE_ROWS else math.prod(shape)).double())
            errors.append(torch.zeros(()))
        between.append(_step(layer, local))
    last = layers[-1].out if layers else ()
    if len(weights) == len(between):
        weights.append(torch.eye(last[0] if math.prod(last) > DENSE_ROWS else math.prod(last)).double())
        errors.append(torch.zeros(()))
    weights = [(weight if torch.is_grad_enabled() else weight.detach()).to(device) for weight in weights]
    settled = [_settled(step, before, after) for step, before, after in zip(between, weights, weights[1:], strict=False)]
    slopes = [(low.to(device), high.to(device)) for (low, high), _ in settled]
    return Chain(weights, slopes, [k for _, k in settled], errors)


def work(chain: Chain) -> int:
    """Multiplications of one evaluation of its certificate, about; many small complex matrices cost far more than one."""
    return sum((COMPLEX if weight.is_complex() else 1) * weight.numel() * weight.shape[-2] for weight in chain.weights)


def linear_weight(module: nn.Module, shape: Shape, out: Shape) -> Tensor | None:
    """The matrix or symbols of a linear layer; None for any other, and for linear ones better taken as contractions."""
    if not isinstance(module, Linear) or (isinstance(module, nn.Linear) and rule_type(module) is not nn.Linear):
        return None
    if isinstance(module, nn.Linear) and len(shape) == 1:
        return module.weight.double()
    if isinstance(module, BatchNorm):
        scale = batch_norm_scale(module)
        return torch.diag(scale) if math.prod(shape) > DENSE_ROWS else torch.diag(spread(scale, math.prod(shape)))
    n = math.prod(shape)
    if math.prod(out) <= DENSE_ROWS and n <= DENSE_COLUMNS and math.prod(out) * n <= ENTRIES:
        part, weight = linear_part(module), getattr(module, "weight", None)
        own = {} if weight is None else {"weight": weight.double()}
        places = torch.arange(n, device=device_of(module)).split(256)  # all unit vectors at once would be n^2 numbers
        units = (nn.functional.one_hot(some, n).double().reshape(-1, *shape) for some in places)
        return torch.cat([functional_call(part, own, (some,)).flatten(1) for some in units]).T
    if isinstance(module, Convolution) and has_symbols(module, shape):
        if symbol_entries(module, shape) > ENTRIES:
            return torch.empty(0).expand(ENTRIES + 1)
        return symbols(module, shape)
    return None


@functools.singledispatch
def weight_error(module: nn.Module, weight: Tensor) -> Tensor:
    """How far the matrix of `linear_weight` can be from the layer's, in the 2-norm: entries of a few operations.

    Symbols of convolutions count as exact, as they do in `layers.convolutions`.
    """
    return gamma(FEW) * (not weight.is_complex()) * length(weight)


@weight_error.register
def _(module: nn.Linear, weight: Tensor) -> Tensor:
    return torch.zeros(())  # its entries are the layer's


@weight_error.register(nn.Conv1d)
@weight_error.register(nn.Conv2d)
@weight_error.register(nn.Conv3d)
def _(module: Convolution, weight: Tensor) -> Tensor:
    if weight.is_complex() or module.padding_mode == "zeros":
        return torch.zeros(())
    # padding may bring the same pixel to all entries of a kernel
    terms = module.weight[0, 0].numel()
    largest: Tensor = module.weight.detach().double().abs().max()
    return gamma(terms) * terms * largest * math.sqrt(weight.numel())


def _product_error(second: Tensor, its: Tensor, first: Tensor, own: Tensor) -> Tensor:
    """Of the product of two matrices with these errors."""
    lengths = length(second), length(first)
    return (lengths[0] + its) * own + its * lengths[1] + gamma(second.shape[-1]) * lengths[0] * lengths[1]


def _scaled_error(factors: Tensor, scaled: Tensor, own: Tensor) -> Tensor:
    """Of a matrix whose rows were multiplied by factors of a few operations."""
    return gamma(FEW) * length(scaled) + factors.detach().double().abs().max() * (1 + gamma(FEW)) * own


def length(weight: Tensor) -> Tensor:
    """At least the Frobenius norm, `()`."""
    norm: Tensor = torch.linalg.vector_norm(weight.detach())
    return norm * (1 + gamma(weight.numel()))


def _step(layer: Layer, local: bool) -> _Step:
    module, shape = layer.module, layer.shape
    if acts_entrywise(module):
        region = layer.region
        narrow = local and bool(region.low.isfinite().any() or region.high.isfinite().any())
        slopes = slope_interval(module, region.low, region.high) if narrow else slope_interval(module)
        low, high = (slope.flatten() if slope.dim() else slope for slope in slopes)
        return _Step((low, high), True, math.prod(shape))
    channelwise = isinstance(module, MaxPool | Channelwise) or (isinstance(module, Nonnegative) and module.channelwise)
    return _contraction(layer.constant if local else layer_norm(module, shape), shape if channelwise else (1,))


def _contraction(constant: float, shape: Shape) -> _Step:
    c = torch.tensor(constant, dtype=torch.float64)
    return _Step((-c, c), False, shape[0])


def _after(first: _Step, second: _Step) -> _Step:
    """One non-linear layer after another."""
    if first.exact and second.exact:
        ends = torch.stack(torch.broadcast_tensors(*(a * b for a in first.slopes for b in second.slopes)))
        return _Step((ends.amin(0), ends.amax(0)), True, first.groups)
    groups = min(first.groups, second.groups)
    steepest = [torch.maximum(*(end.abs() for end in step.slopes)) for step in (first, second)]
    c = _per_group(steepest[0], groups) * _per_group(steepest[1], groups)
    return _Step((-c, c), False, groups)


def _settled(step: _Step, before: Tensor, after: Tensor) -> tuple[Slopes, int]:
    """The slopes as the recursion takes them, and the number of multipliers, a divisor of the entries on both sides."""
    low, high = step.slopes
    rows, columns = before.shape[-2], after.shape[-1]
    if step.exact and before.dim() == after.dim() == 2 and rows == columns == step.groups:
        return step.slopes, rows
    groups = min(step.groups, rows, columns)
    if any(n % groups for n in (rows, columns, step.groups)):
        groups = 1
    c = _per_group(torch.maximum(low.abs(), high.abs()), groups)
    return (-c, c), groups


def _per_group(values: Tensor, groups: int) -> Tensor:
    """The largest of each of `groups` runs of neighbours; one number serves all."""
    if values.dim() == 0 or len(values) == groups:
        return values
    return values.reshape(groups, -1).amax(1) if len(values) % groups == 0 else values.amax()
