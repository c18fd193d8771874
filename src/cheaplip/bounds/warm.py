"""The product of layer norms with a graph to the weights, for training: one step of power iteration a call, from where it was.

A BatchNorm right after a layer with weights is one with it, as in `upper.product_of_norms`, which is the proof. This is none: a
norm by power iteration is nearly that of the layer, from below.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ..inference import device_of
from .layers.constants import BatchNorm, batch_norm_scale, layer_norm, rule_type
from .layers.convolutions import Convolution
from .layers.joined import pairs
from .layers.layer import Layer
from .network import Applied, Network, fold

FIRST = 30
"""Steps before the first value."""


class WarmProduct:
    """Sums, concatenations and products of the norms of a network's layers.

    Args:
        network: whose layers are the modules that are trained.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._layers = [value.layer for value in network.order if isinstance(value, Applied)]
        self._vectors: dict[int, Tensor] = {}
        self._numbers = {id(layer): layer_norm(layer.module, layer.shape) for layer in self._layers if not _is_weighted(layer)}

    def bound(self) -> Tensor:
        """The value, `()`, with a graph."""
        found = fold(self._network, self._of_chain, _beside)  # type: ignore[arg-type]  # tensors go through it as numbers do
        value: Tensor = torch.as_tensor(found, dtype=torch.float64)
        return value

    def vectors(self) -> list[Tensor]:
        """Where the power iterations are, in the order of the layers."""
        return [self._vectors[id(layer)] for layer in self._layers if id(layer) in self._vectors]

    def resume(self, vectors: Sequence[Tensor]) -> None:
        """Go on from there."""
        self._vectors = {}
        iterated = [layer for layer in self._layers if _is_iterated(layer)]
        for layer, vector in zip(iterated, vectors, strict=False):
            self._vectors[id(layer)] = vector.to(device_of(layer.module))

    def _of_chain(self, layers: Sequence[Layer]) -> Tensor:
        product = torch.ones((), dtype=torch.float64)
        for layer, after in pairs(layers):
            product = product.to((norm := self._norm(layer, after)).device) * norm
        return product

    def _norm(self, layer: Layer, after: BatchNorm | None) -> Tensor:
        if id(layer) in self._numbers:
            return torch.tensor(self._numbers[id(layer)], dtype=torch.float64)
        if isinstance(layer.module, BatchNorm):
            largest: Tensor = batch_norm_scale(layer.module).abs().max()
            return largest
        v = self._vectors.get(id(layer))
        for _ in range(1 if v is not None else FIRST):
            v = self._step(layer, after, v)
        assert v is not None
        self._vectors[id(layer)] = v
        norm: Tensor = torch.linalg.vector_norm(_linear(layer, after, v))
        return norm.double()

    def _step(self, layer: Layer, after: BatchNorm | None, v: Tensor | None) -> Tensor:
        """One step of v <- W^T W v, of length 1."""
        if v is None:
            like = next(layer.module.parameters())
            v = torch.randn(1, *layer.shape, generator=torch.Generator().manual_seed(0)).to(like)
        with torch.enable_grad():
            x = v.detach().requires_grad_()
            y = _linear(layer, after, x)
            (pulled,) = torch.autograd.grad(y, x, y.detach())
        unit: Tensor = pulled / torch.linalg.vector_norm(pulled).clamp(min=torch.finfo(pulled.dtype).tiny)
        return unit


def unseen(model: nn.Module, value: Tensor) -> nn.Module | None:
    """A module with weights that are trained and on which the value does not depend; None where there is none."""
    for module in model.modules():
        named = module.named_parameters(recurse=False)
        weights = [p for name, p in named if ("weight" in name or "original" in name) and p.requires_grad]
        if not weights:
            continue
        if not value.requires_grad:
            return module
        if any(one is None for one in torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True)):
            return module
    return None


def _is_iterated(layer: Layer) -> bool:
    return isinstance(layer.module, nn.Linear | Convolution) and rule_type(layer.module) is not None


def _is_weighted(layer: Layer) -> bool:
    return _is_iterated(layer) or isinstance(layer.module, BatchNorm)


def _linear(layer: Layer, after: BatchNorm | None, x: Tensor) -> Tensor:
    """The layer without what it adds, and the scales after it."""
    two: Tensor = layer.module(torch.cat([x, torch.zeros_like(x)]))
    difference: Tensor = two[:1] - two[1:]
    if after is None:
        return difference
    scale = batch_norm_scale(after).to(difference)
    return difference * scale.reshape(-1, *[1] * (difference.dim() - 2))


def _beside(constants: Iterable[float]) -> Tensor:
    """Of values side by side."""
    return torch.stack([torch.as_tensor(constant, dtype=torch.float64) for constant in constants]).square().sum().sqrt()
