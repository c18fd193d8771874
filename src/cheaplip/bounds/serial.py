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
from .layers.constants import BatchNorm, Reshaping, exact_copy
from .layers.entrywise import Partly, flattened
from .layers.layer import Layer
from .layers.region import Region, everywhere
from .multipliers.chain import linear_weight
from .network import Applied, Concatenation, Network, Sum, Value

MOST = 512
"""Entries side by side."""


def serial(network: Network) -> tuple[Layer, ...] | None:
    """Layers on vectors that compute the network; None if it has a layer of another kind, or would be too wide."""
    chain = network.last_chain
    if chain.is_whole_network:
        return chain.layers
    if any(math.prod(value.shape) > MOST or _differs_by_channel(value) for value in network.order):
        return None
    inputs = math.prod(network.shape)
    state = _State([network.order[0]], [], torch.eye(inputs).double(), torch.zeros(inputs).double())
    last_use = {id(one): i for i, value in enumerate(network.order) for one in value.inputs}
    for i, value in enumerate(network.order):
        if not value.inputs:
            continue
        kept = [one for one in state.live if last_use.get(id(one), len(network.order)) > i]
        active = value if isinstance(value, Applied) and acts_entrywise(value.layer.module) else None
        parts = parts_of(value) if active is None else [(value.inputs[0], None)]
        if parts is None or sum(math.prod(one.shape) for one in (*kept, value)) > MOST:
            return None
        state.move([*kept, value], parts, _bias(value) if active is None else None)
        if active is not None:
            state.activate(active)
    state.flush()
    return (Layer(nn.Flatten(), network.shape, (inputs,), network.order[0].region), *state.layers)


@dataclass(frozen=True)
class Affine:
    """A matrix and what is added, with the size of that."""

    weight: Tensor  # (rows, columns), float64
    bias: Tensor  # (rows,)
    size: Tensor  # (rows,), magnitude of the terms summed into the bias, for its rounding error


def steps_of(layers: Sequence[Layer]) -> list[Affine | nn.Module] | None:
    """The layers as matrices and activations; None if one is neither."""
    steps: list[Affine | nn.Module] = []
    for layer in layers:
        module, shape, out = layer.module, layer.shape, layer.out
        if isinstance(module, Reshaping):
            continue
        weight = linear_weight(module, shape, out)
        if weight is not None and weight.dim() == 2 and weight.shape == (math.prod(out), math.prod(shape)):
            bias = exact_copy(module)(torch.zeros(1, *shape).to(weight)).flatten()
            shift = module.bias if isinstance(module, BatchNorm) else None  # the difference of it and what the mean makes
            steps.append(Affine(weight, bias, bias.abs() + (0 if shift is None else 2 * shift.abs().max())))
        elif weight is None and acts_entrywise(module):
            steps.append(flattened(exact_copy(module)))
        else:
            return None
    return steps


Parts = Sequence[tuple[Value, Tensor | None]]
"""A value as a sum of matrices, None for the identity, times other values."""


@dataclass
class _State:
    live: list[Value]  # side by side
    layers: list[Layer]
    weight: Tensor  # of the matrix that is yet to become a layer
    bias: Tensor

    @property
    def width(self) -> int:
        return sum(math.prod(value.shape) for value in self.live)

    def move(self, live: list[Value], parts: Parts, bias: Tensor | None = None) -> None:
        """Other values side by side: those that are there already, and a new one, the last, made of these parts."""
        starts = dict(
            zip(map(id, self.live), itertools.accumulate((math.prod(v.shape) for v in self.live), initial=0), strict=False)
        )
        rows = []
        for value in live:
            block = torch.zeros(math.prod(value.shape), self.width, dtype=torch.float64)
            for part, matrix in parts if value is live[-1] else [(value, None)]:
                columns = slice(starts[id(part)], starts[id(part)] + math.prod(part.shape))
                block[:, columns] += torch.eye(len(block)).double() if matrix is None else matrix
            rows.append(block)
        step = torch.cat(rows)
        self.weight, self.bias, self.live = step @ self.weight, step @ self.bias, live
        if bias is not None:
            self.bias[len(step) - len(bias) :] += bias

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
        self.weight, self.bias = torch.eye(self.width).double(), torch.zeros(self.width).double()

    def flush(self) -> None:
        """Make the pending matrix a layer."""
        rows, columns = self.weight.shape
        dense = nn.Linear(columns, rows, dtype=torch.float64)
        dense.weight, dense.bias = (nn.Parameter(part, requires_grad=False) for part in (self.weight, self.bias))
        self.layers.append(Layer(dense, (columns,), (rows,), everywhere((columns,))))


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
    if not isinstance(value, Applied) or isinstance(value.layer.module, Reshaping):
        return None
    f = exact_copy(value.layer.module).cpu()
    with torch.no_grad():
        bias: Tensor = f(torch.zeros(1, *value.layer.shape, dtype=torch.float64)).flatten()
    return bias
