"""A network as a graph of values: the input, layers of a value, and sums, concatenations and products of values.

`graph.trace` makes it once; every bound folds it. A value that is used twice is one object in two places.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from .layers.layer import Layer, Shape
from .layers.region import Region


@dataclass(frozen=True, eq=False)
class Value:
    """What some part of a network computes from its input; by itself the input."""

    region: Region  # where it lies while the input lies in its domain
    inputs: tuple[Value, ...] = ()

    @property
    def shape(self) -> Shape:
        """Of one sample."""
        return tuple(self.region.centre.shape[1:])


@dataclass(frozen=True, eq=False)
class Applied(Value):
    """A layer of one value."""

    layer: Layer = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class Sum(Value):
    """The sum of values of one shape."""


@dataclass(frozen=True, eq=False)
class Concatenation(Value):
    """Values side by side, or constants between them."""

    dim: int = field(kw_only=True)  # of a sample; negative ones count from the last
    starts: tuple[int, ...] = field(kw_only=True)  # of the values along that axis

    @property
    def constants(self) -> bool:
        """Whether there are any."""
        return sum(one.shape[self.dim] for one in self.inputs) < self.shape[self.dim]


@dataclass(frozen=True, eq=False)
class Product(Value):
    """A bilinear function of two values: |dz| <= sizes[1] |dx| + sizes[0] |dy|."""

    sizes: tuple[float, float] = field(kw_only=True)  # of either, as it acts on the other
    where: str = field(kw_only=True)
    matrices: bool = field(default=False, kw_only=True)  # of matrices in the last two axes, not entry by entry


ChainBound = Callable[[Sequence[Layer]], float]
"""An upper bound of the Lipschitz constant of a chain of layers."""


@dataclass(frozen=True)
class Chain:
    """Layers one after another, applied to a value; to the network's input where the chain is the whole network."""

    layers: tuple[Layer, ...]
    source: Value

    @property
    def is_whole_network(self) -> bool:
        """Whether nothing else is there."""
        return type(self.source) is Value


@dataclass(frozen=True)
class Network:
    """The graph of a network, with the shapes of one input and one output."""

    root: Value
    shape: Shape

    @property
    def out(self) -> Shape:
        """Shape of one output."""
        return self.root.shape

    @cached_property
    def order(self) -> tuple[Value, ...]:
        """All values, each after what it is made of."""
        seen: dict[int, Value] = {}
        stack = [(self.root, False)]
        while stack:
            value, done = stack.pop()
            if done:
                seen[id(value)] = value
            elif id(value) not in seen:
                stack += [(value, True), *((one, False) for one in value.inputs if id(one) not in seen)]
        return tuple(seen.values())

    @cached_property
    def _uses(self) -> Counter[int]:
        return Counter(id(one) for value in self.order for one in value.inputs)

    def chain(self, value: Value) -> Chain:
        """The longest chain of layers that ends in this value, from a value that has other uses too, or is no layer's."""
        layers: list[Layer] = []
        while isinstance(value, Applied) and (not layers or self._uses[id(value)] == 1):
            layers.append(value.layer)
            value = value.inputs[0]
        return Chain(tuple(reversed(layers)), value)

    @property
    def last_chain(self) -> Chain:
        """The chain that ends in the output; without layers where the output is a sum, a concatenation or a product."""
        return self.chain(self.root)

    def products(self) -> tuple[Product, ...]:
        """The products of values, none of whose constants need be finite."""
        return tuple(value for value in self.order if isinstance(value, Product))


def euclidean(constants: Iterable[float]) -> float:
    """The 2-norm constant of values side by side."""
    return math.hypot(*constants)


def fold(
    network: Network,
    chain_bound: ChainBound,
    combine: Callable[[Iterable[float]], float] = euclidean,
    root: Value | None = None,
) -> float:
    """An upper bound of the Lipschitz constant of a network from those of its chains.

    Args:
        network: the graph.
        chain_bound: bounds each chain.
        combine: of the constants of values side by side: `euclidean` for the 2-norm, `max` for the inf-norm.
        root: a value of the network, in place of its output.
    """
    known: dict[int, float] = {}
    pending = [network.root if root is None else root]
    while pending:
        value = pending[-1]
        chain = network.chain(value)
        parts = (chain.source,) if chain.layers else value.inputs
        missing = [part for part in parts if id(part) not in known]
        if missing:
            pending += missing
            continue
        known[id(value)] = _bound(value, chain, [known[id(part)] for part in parts], chain_bound, combine)
        pending.pop()
    return known[id(network.root if root is None else root)]


def _bound(
    value: Value,
    chain: Chain,
    constants: list[float],
    chain_bound: ChainBound,
    combine: Callable[[Iterable[float]], float],
) -> float:
    if not constants:
        return 1.0
    if chain.layers:
        return constants[0] * chain_bound(chain.layers)
    if isinstance(value, Sum):
        return sum(constants)
    if isinstance(value, Product):
        # nothing of the input moves a value of the constant 0, however large the other one
        pairs = zip(constants, reversed(value.sizes), strict=True)
        return sum(constant * size for constant, size in pairs if constant)
    return combine(constants)
