"""A network as steps between its values: linear maps, sums, and bends, which are activations, maxima of windows or both.

A rising activation and a max-pooling beside it, in either order, are one bend: the activation of the largest entry.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from ..layers.activations import acts_entrywise, slope_interval
from ..layers.constants import BatchNorm, Linear, Reshaping, absolute, batch_norm_scale, exact_copy, linear_part
from ..layers.ordering import SlidingMaxPool
from ..layers.region import Shape
from ..network import Applied, Network, Sum, Value


@dataclass(frozen=True, eq=False)
class Mapped:
    """A linear map of a value."""

    inputs: tuple[int]  # places in the order of values
    out: int
    part: nn.Module  # without what it adds
    shape: Shape  # of the input
    size: float  # at least the 2-norm of the matrix of absolute values
    terms: int  # of a sum, in either direction, at most
    squares: nn.Module | None  # the map with its coefficients squared

    def forward(self, columns: Tensor) -> Tensor:
        """Of differences of the input, `(n, *shape)`."""
        result: Tensor = self.part(columns)
        return result

    def backward(self, rows: Tensor) -> Tensor:
        """Functionals of the result as functionals of the input, `(n, *shape)`."""
        part: Any = self.part
        if isinstance(part, nn.Linear):
            product: Tensor = rows @ part.weight
            return product
        if isinstance(part, nn.Conv2d) and part.padding_mode == "zeros" and not isinstance(part.padding, str):
            where = (len(rows), *self.shape)
            found: Tensor = conv2d_input(where, part.weight, rows, part.stride, part.padding, part.dilation, part.groups)
            return found
        inputs = rows.new_zeros(len(rows), *self.shape, requires_grad=True)
        with torch.enable_grad():
            found = torch.autograd.grad(part(inputs), inputs, rows)[0]
        return found

    def units(self, entries: Tensor, out: Shape) -> Tensor:
        """The same of single entries of the result, `(n, *shape)`: a convolution's weights in their places, not multiplied."""
        part: Any = self.part
        if not isinstance(part, nn.Conv2d) or self.squares is None or part.groups > 1 or isinstance(part.padding, str):
            rows = torch.zeros(len(entries), math.prod(out), dtype=_type(part)).scatter_(1, entries[:, None], 1.0)
            return self.backward(rows.reshape(-1, *out))
        n, size = math.prod(self.shape), math.prod(out[1:])
        counted = torch.arange(1, n + 1, dtype=torch.float64).reshape(1, *self.shape)  # 0: outside
        columns = nn.functional.unfold(counted, part.kernel_size, part.dilation, part.padding, part.stride)[0].long()
        rows = torch.zeros(len(entries), n + 1, dtype=part.weight.dtype)
        rows.scatter_(1, columns[:, entries % size].T, part.weight.flatten(1)[entries // size])
        return rows[:, 1:].reshape(-1, *self.shape)


@dataclass(frozen=True, eq=False)
class Added:
    """The sum of values, or one of them in another shape."""

    inputs: tuple[int, ...]
    out: int
    shape: Shape  # of the result


@dataclass(frozen=True, eq=False)
class Bent:
    """An activation of the largest entry of each window."""

    inputs: tuple[int]
    out: int
    act: nn.Module | None  # float64; None: the identity
    windows: Tensor  # (entries of the result, places), entries of the input, -1 for none
    shape: Shape  # of the result
    overlap: float  # root of the number of windows of an entry


Step = Mapped | Added | Bent


@dataclass(frozen=True, eq=False)
class Steps:
    """All steps, in order, with what is needed for the values at a point."""

    network: Network
    steps: tuple[Step, ...]
    dtype: torch.dtype = torch.float64

    @cached_property
    def place(self) -> int:
        """Of the outputs."""
        return len(self.network.order) - 1

    def at(self, x: Tensor) -> list[Tensor]:
        """The values of one input `(*shape)`, float64, flat."""
        found: list[Tensor] = []
        places = {id(value): i for i, value in enumerate(self.network.order)}
        for value in self.network.order:
            given = [found[places[id(one)]] for one in value.inputs]
            if isinstance(value, Applied):
                found.append(_exact(value)(given[0]))
            else:
                found.append(sum(given[1:], given[0]) if given else x[None].double())
        return [one.flatten() for one in found]

    def to(self, dtype: torch.dtype) -> Steps:
        """With linear maps in another floating-point type."""
        steps = [_mapped_to(step, dtype) if isinstance(step, Mapped) else step for step in self.steps]
        return Steps(self.network, tuple(steps), dtype)


def steps_of(network: Network) -> Steps | Value:
    """The steps of a network; the first value that no step is for."""
    order = network.order
    places = {id(value): i for i, value in enumerate(order)}
    uses = Counter(id(one) for value in order for one in value.inputs)
    steps: list[Step] = []
    for i, value in enumerate(order):
        if not value.inputs:
            continue
        inputs = tuple(places[id(one)] for one in value.inputs)
        step = _step(value, inputs, i)
        if step is None:
            return value
        last = steps[-1] if steps and steps[-1].out == inputs[0] and uses[id(order[inputs[0]])] == 1 else None
        joined = _joined(last, step, value) if last is not None else None
        if joined is not None:
            steps[-1] = joined
        else:
            steps.append(step)
    return Steps(network, tuple(steps))


def _step(value: Value, inputs: tuple[int, ...], out: int) -> Step | None:
    if isinstance(value, Sum):
        return Added(inputs, out, value.shape)
    if not isinstance(value, Applied):
        return None
    module, shape = value.layer.module, value.layer.shape
    if isinstance(module, Reshaping):
        return Added(inputs, out, value.shape)
    if isinstance(module, Linear):
        single = isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.padding_mode == "zeros")
        return _mapped((inputs[0],), out, linear_part(module), absolute(module), shape, single)
    n = math.prod(shape)
    if acts_entrywise(module):
        return Bent((inputs[0],), out, exact_copy(module).cpu(), torch.arange(n)[:, None], value.shape, 1.0)
    if isinstance(module, SlidingMaxPool):
        return Bent((inputs[0],), out, None, windows(module, shape, value.shape), value.shape, value.layer.constant)
    return None


def _mapped(inputs: tuple[int], out: int, part: nn.Module, sizes: nn.Module, shape: Shape, single: bool) -> Mapped:
    part, sizes = part.cpu(), sizes.cpu()
    ones = torch.ones(1, *shape, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        rows = sizes(ones)
        (columns,) = torch.autograd.grad(rows.sum(), ones)
    rows = rows.detach()
    squares: Any = copy.deepcopy(part) if single else None
    if single:
        squares.weight = nn.Parameter(squares.weight.square(), requires_grad=False)
    weight = getattr(part, "weight", None)
    terms = max(rows.numel(), columns.numel())
    if single and weight is not None:
        terms = weight.numel() // min(weight.shape[:2])
    return Mapped(inputs, out, part, shape, math.sqrt(float(rows.max()) * float(columns.max())), terms, squares)


def _joined(last: Step, step: Step, value: Value) -> Step | None:
    """Both as one step: convolutions or matrices with a batch normalisation, a rising activation with a max-pooling."""
    if isinstance(last, Mapped) and isinstance(step, Mapped) and isinstance(value, Applied) and last.squares is not None:
        part: Any = copy.deepcopy(last.part)
        if not isinstance(value.layer.module, BatchNorm) or (isinstance(part, nn.Linear) and len(last.shape) > 1):
            return None
        scale = batch_norm_scale(value.layer.module).detach().cpu()
        part.weight = nn.Parameter(scale.reshape(-1, *[1] * (part.weight.dim() - 1)) * part.weight, requires_grad=False)
        sizes = copy.deepcopy(part)
        sizes.weight = nn.Parameter(part.weight.abs(), requires_grad=False)
        return _mapped(last.inputs, step.out, part, sizes, last.shape, single=True)
    if not isinstance(last, Bent) or not isinstance(step, Bent) or (last.act is not None and step.act is not None):
        return None
    act, pooled = (last, step) if last.act is not None else (step, last)
    if act.act is None or act.windows.shape[1] > 1 or float(slope_interval(act.act)[0]) < 0:
        return None
    return Bent(last.inputs, step.out, act.act, pooled.windows, step.shape, pooled.overlap)


def windows(module: SlidingMaxPool, shape: Shape, out: Shape) -> Tensor:
    """The entries of the input in each window, `(entries of the output, places)`, -1 where there are none."""
    axes = len(shape) - 1
    kernel, stride, padding, dilation = (
        (of,) * axes if isinstance(of, int) else tuple(of)
        for of in (module.kernel_size, module.stride, module.padding, module.dilation)
    )
    entries = torch.arange(math.prod(shape)).reshape(shape)
    for axis in range(axes):  # beyond the end as far as the last window reaches
        last = (out[axis + 1] - 1) * stride[axis] + dilation[axis] * (kernel[axis] - 1) + 1
        after = max(0, last - padding[axis] - shape[axis + 1])
        ends = [0, 0] * (axes - axis - 1) + [padding[axis], after]
        entries = nn.functional.pad(entries, ends, value=-1)
    found = []
    for offset in itertools.product(*map(range, kernel)):
        part = entries
        for axis in range(axes):
            first = offset[axis] * dilation[axis]
            part = part.narrow(axis + 1, first, (out[axis + 1] - 1) * stride[axis] + 1)
            part = part.index_select(axis + 1, torch.arange(0, part.shape[axis + 1], stride[axis]))
        found.append(part.flatten())
    return torch.stack(found, 1)


def _exact(value: Applied) -> nn.Module:
    return exact_copy(value.layer.module).cpu()


def _mapped_to(step: Mapped, dtype: torch.dtype) -> Mapped:
    part, squares = (None if one is None else copy.deepcopy(one).to(dtype) for one in (step.part, step.squares))
    assert part is not None
    return Mapped(step.inputs, step.out, part, step.shape, step.size, step.terms, squares)


def _type(part: nn.Module) -> torch.dtype:
    return next((of.dtype for of in part.parameters()), torch.float64)
