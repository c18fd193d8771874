"""A network with branches as one chain of matrices and activations, on the values side by side that are still needed.

Where x + f(x) is computed, x is carried along f's layers by an identity, and activations act on their part alone. What
holds for chains (multipliers, subdivision) then holds for sums, concatenations and skips. For small networks whose layers
are matrices or act entry by entry.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .layers.activations import acts_entrywise
from .layers.constants import Reshaping, absolute, exact_copy
from .layers.convolutions import Convolution
from .layers.entrywise import Partly, flattened
from .layers.layer import Layer
from .layers.region import Region, everywhere
from .multipliers.chain import FEW, length, linear_weight, weight_error
from .network import Applied, Concatenation, Network, Sum, Value
from .rounding import gamma

MOST = 512
"""Entries side by side."""
OFFSET = 64
"""Terms that the error of a product of two matrices may count once more: gamma(k) is of k + 64 operations."""


def serial(network: Network) -> tuple[Layer, ...] | None:
    """Layers on vectors that compute the network; None if it has a layer of another kind, or would be too wide."""
    chain = network.last_chain
    if chain.is_whole_network:
        return chain.layers
    if any(math.prod(value.shape) > MOST or _differs_by_channel(value) for value in network.order):
        return None
    inputs = math.prod(network.shape)
    state = _State([network.order[0]], [])
    last_use = {id(one): i for i, value in enumerate(network.order) for one in value.inputs}
    for i, value in enumerate(network.order):
        if not value.inputs:
            continue
        kept = [one for one in state.live if last_use.get(id(one), len(network.order)) > i]
        active = value if isinstance(value, Applied) and acts_entrywise(value.layer.module) else None
        parts = parts_of(value) if active is None else [(value.inputs[0], None)]
        if parts is None or sum(math.prod(one.shape) for one in (*kept, value)) > MOST:
            return None
        state.move([*kept, value], parts)
        if active is not None:
            state.activate(active)
    state.flush()
    return (Layer(nn.Flatten(), network.shape, (inputs,), network.order[0].region), *state.layers)


@dataclass(frozen=True)
class Affine:
    """A matrix and what is added, with the sizes of the terms that were summed up in each number.

    The true numbers differ from these by at most gamma(terms) times the sizes, whatever cancels; where terms = 0 not at all.
    """

    weight: Tensor  # (rows, columns), float64
    bias: Tensor  # (rows,)
    sizes: Tensor  # (rows, columns)
    size: Tensor  # (rows,)
    terms: int

    def after(self, first: Affine) -> Affine:
        """The other one and then this one."""
        return Affine(
            self.weight @ first.weight,
            self.weight @ first.bias + self.bias,
            self.sizes @ first.sizes,
            self.sizes @ first.size + self.size,
            first.terms + self.terms + self.weight.shape[1] + OFFSET,
        )


class Merged(nn.Linear):
    """Several affine maps as one layer."""

    def __init__(self, affine: Affine) -> None:
        rows, columns = affine.weight.shape
        super().__init__(columns, rows, dtype=torch.float64)
        self.affine = affine
        self.weight, self.bias = (nn.Parameter(part, requires_grad=False) for part in (affine.weight, affine.bias))


@weight_error.register
def _(module: Merged, weight: Tensor) -> Tensor:
    return gamma(module.affine.terms) * bool(module.affine.terms) * length(module.affine.sizes)


def steps_of(layers: Sequence[Layer]) -> list[Affine | nn.Module] | None:
    """The layers as matrices and activations; None if one is neither."""
    steps: list[Affine | nn.Module] = []
    for layer in layers:
        module, shape, out = layer.module, layer.shape, layer.out
        if isinstance(module, Reshaping):
            continue
        weight = linear_weight(module, shape, out)
        if isinstance(module, Merged):
            steps.append(module.affine)
        elif weight is not None and weight.shape == (math.prod(out), math.prod(shape)):
            bias = exact_copy(module)(torch.zeros(1, *shape).to(weight)).flatten()
            steps.append(Affine(weight, bias, _sizes(layer, weight), bias.abs(), _terms(module)))
        elif weight is None and acts_entrywise(module):
            steps.append(flattened(exact_copy(module)))
        else:
            return None
    return steps


def _sizes(layer: Layer, weight: Tensor) -> Tensor:
    """Of the terms in each entry of the matrix: the padding of an image may repeat entries of a kernel."""
    repeats = isinstance(layer.module, Convolution) and layer.module.padding_mode != "zeros"
    sizes = linear_weight(absolute(layer.module), layer.shape, layer.out) if repeats else None
    return weight.abs() if sizes is None else sizes


def _terms(module: nn.Module) -> int:
    """How many are summed up in an entry of the matrix, at most; 0 where it is a number of the layer."""
    if isinstance(module, Convolution):
        return 0 if module.padding_mode == "zeros" else module.weight[0, 0].numel()
    return 0 if isinstance(module, nn.Linear | Reshaping) else FEW


Parts = Sequence[tuple[Value, Tensor | None]]
"""A value as a sum of matrices, None for the identity, times other values."""


@dataclass
class _State:
    live: list[Value]  # side by side
    layers: list[Layer]
    pending: Affine | None = None  # what is yet to become a layer

    @property
    def width(self) -> int:
        return sum(math.prod(value.shape) for value in self.live)

    def move(self, live: list[Value], parts: Parts) -> None:
        """Other values side by side: those that are there already, and a new one, the last, made of these parts."""
        starts = dict(
            zip(map(id, self.live), itertools.accumulate((math.prod(v.shape) for v in self.live), initial=0), strict=False)
        )
        made = live[-1]
        layer = made.layer if isinstance(made, Applied) and not acts_entrywise(made.layer.module) else None
        weights, sizes = [], []
        for value in live:
            weight, size = torch.zeros(2, math.prod(value.shape), self.width, dtype=torch.float64).unbind()
            for part, matrix in parts if value is made else [(value, None)]:
                columns = slice(starts[id(part)], starts[id(part)] + math.prod(part.shape))
                block = torch.eye(len(weight)).double() if matrix is None else matrix
                weight[:, columns] += block
                size[:, columns] += block.abs() if matrix is None or layer is None else _sizes(layer, matrix).cpu()
            weights.append(weight)
            sizes.append(size)
        bias, own = torch.zeros(sum(map(len, weights))).double(), _bias(made)
        if own is not None:
            bias[len(bias) - len(own) :] = own
        terms = 0 if layer is None else _terms(layer.module)
        step = Affine(torch.cat(weights), bias, torch.cat(sizes), bias.abs(), terms)
        self.pending, self.live = step if self.pending is None else step.after(self.pending), live

    def activate(self, value: Applied) -> None:
        """Apply its activation to the last of the values."""
        self.flush()
        module: nn.Module = exact_copy(value.layer.module).cpu()
        own = torch.ones(math.prod(value.shape), dtype=torch.bool)
        if isinstance(module, Partly):
            own, module = module.mask.flatten(), module.inner
        mask = torch.cat([torch.zeros(self.width - len(own), dtype=torch.bool), own])
        region = _beside([*self.live[:-1], value.inputs[0]])
        self.layers.append(Layer(module if mask.all() else Partly(module, mask), (self.width,), (self.width,), region))

    def flush(self) -> None:
        """Make the pending matrix a layer."""
        if self.pending is None:
            return
        dense = Merged(self.pending)
        rows, columns = dense.weight.shape
        self.layers.append(Layer(dense, (columns,), (rows,), everywhere((columns,))))
        self.pending = None


def _differs_by_channel(value: Value) -> bool:
    return isinstance(value, Applied) and isinstance(value.layer.module, nn.PReLU) and value.layer.module.num_parameters > 1


def _beside(values: list[Value]) -> Region:
    """The box of values side by side."""
    regions = [value.region for value in values]
    low, high, centre = (torch.cat([getattr(one, end).flatten(1) for one in regions], 1) for end in ("low", "high", "centre"))
    return Region(low, high, centre)


def parts_of(value: Value) -> Parts | None:
    """Its inputs, in their order, each with a matrix, of which it is the sum but for constants; None if it is none."""
    if isinstance(value, Sum):
        return [(one, None) for one in value.inputs]
    if isinstance(value, Concatenation):
        places = torch.arange(math.prod(value.shape)).reshape(value.shape)
        identity = torch.eye(places.numel()).double()
        pairs = zip(value.inputs, value.starts, strict=True)
        return [(one, identity[:, places.narrow(value.dim, start, one.shape[value.dim]).flatten()]) for one, start in pairs]
    if not isinstance(value, Applied):
        return None
    module, shape, out = value.layer.module, value.layer.shape, value.layer.out
    if isinstance(module, Reshaping):
        return [(value.inputs[0], None)]
    weight = linear_weight(module, shape, out)
    full = weight is not None and weight.shape == (math.prod(out), math.prod(shape))
    return [(value.inputs[0], weight.detach().cpu())] if weight is not None and full else None


def _bias(value: Value) -> Tensor | None:
    if isinstance(value, Concatenation) and value.constants:
        places = torch.arange(math.prod(value.shape)).reshape(value.shape)
        constants: Tensor = value.region.centre.flatten().clone()
        for one, start in zip(value.inputs, value.starts, strict=True):
            constants[places.narrow(value.dim, start, one.shape[value.dim]).flatten()] = 0
        return constants
    if not isinstance(value, Applied) or isinstance(value.layer.module, Reshaping) or acts_entrywise(value.layer.module):
        return None
    f = exact_copy(value.layer.module).cpu()
    with torch.no_grad():
        bias: Tensor = f(torch.zeros(1, *value.layer.shape, dtype=torch.float64)).flatten()
    return bias
