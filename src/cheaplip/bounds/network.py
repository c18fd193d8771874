"""A network as a tree: a chain of layers, or a sum, a concatenation or a multiple of such trees.

`graph.trace` makes the tree once; every bound folds it. A node that the network uses twice is one object in two places.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from .layers.layer import Layer, Shape


@dataclass(frozen=True)
class LayerChain:
    """Layers one after another, applied to `source`, or to the network's input where there is no source."""

    layers: tuple[Layer, ...] = ()
    source: Node | None = None
    shifted: bool = False  # constants are added on the way: they change no difference, but the intervals of values

    def append(self, layer: Layer) -> LayerChain:
        """With one more layer."""
        return replace(self, layers=(*self.layers, layer))

    @property
    def is_whole_network(self) -> bool:
        """Whether the value is exactly the chain applied to the network's input (no branch, no added constant)."""
        return self.source is None and not self.shifted


@dataclass(frozen=True)
class Sum:
    """The sum of values of one shape."""

    terms: tuple[Node, ...]


@dataclass(frozen=True)
class Concatenation:
    """Values side by side."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Multiple:
    """A number times a value."""

    factor: float
    value: Node


Node = LayerChain | Sum | Concatenation | Multiple
ChainBound = Callable[[Sequence[Layer]], float]
"""An upper bound of the Lipschitz constant of a chain of layers."""


@dataclass(frozen=True)
class Network:
    """The tree of a network, with the shapes of one input and one output."""

    root: Node
    shape: Shape
    out: Shape

    @property
    def last_chain(self) -> LayerChain:
        """The chain that ends in the output; without layers where the output is a sum, a concatenation or a multiple."""
        return self.root if isinstance(self.root, LayerChain) else LayerChain(source=self.root)


def euclidean(constants: Iterable[float]) -> float:
    """The 2-norm constant of values side by side."""
    return math.hypot(*constants)


def fold(node: Node | None, chain_bound: ChainBound, combine: Callable[[Iterable[float]], float] = euclidean) -> float:
    """An upper bound of the Lipschitz constant of a tree from those of its chains.

    Args:
        node: the tree; None for the network's input.
        chain_bound: bounds each chain.
        combine: of the constants of values side by side: `euclidean` for the 2-norm, `max` for the inf-norm.
    """
    known: dict[int, float] = {}  # a node used twice is bounded once

    def constant(node: Node | None) -> float:
        if node is None:
            return 1.0
        if id(node) not in known:
            known[id(node)] = bound(node)
        return known[id(node)]

    def bound(node: Node) -> float:
        if isinstance(node, LayerChain):
            return constant(node.source) * (chain_bound(node.layers) if node.layers else 1.0)
        if isinstance(node, Sum):
            return sum(map(constant, node.terms))
        if isinstance(node, Concatenation):
            return combine(map(constant, node.parts))
        return abs(node.factor) * constant(node.value)

    return constant(node)
