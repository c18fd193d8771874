"""Running variances that follow the weights in a gradient.

A network in training normalises by the variance of the batch: a convolution before a BatchNorm can be scaled without any
change. In evaluation the running variance is a constant, and the gradient of a bound would shrink that convolution, step by
step, while the variance shrinks after it and nothing is won: in the end each step of training turns its weights over. With
the variance as it grows with the weights, channel by channel, the bound has no gradient along such a scaling either.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .layers.constants import BatchNorm, Channelwise, Dropout
from .layers.convolutions import Convolution
from .layers.linear_maps import Shift
from .layers.ordering import MaxPool
from .network import Applied, Network, Sum, Value

Passing = nn.ReLU | nn.LeakyReLU | nn.PReLU | nn.Identity | MaxPool | Channelwise | Dropout | Shift
"""Channel by channel, and larger in proportion to what comes in, nearly."""


class FollowingVariances:
    """The BatchNorms of a network, each with the layers that make the size of what it normalises.

    Args:
        network: whose layers are the modules that are trained.
    """

    def __init__(self, network: Network) -> None:
        found = [(value.layer.module, _sources(value.inputs[0])) for value in network.order if isinstance(value, Applied)]
        self._sources = [(module, sources) for module, sources in found if isinstance(module, BatchNorm) and sources]

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Inside, running variances have a graph to the weights before them; their values are as they are."""
        before = [module.running_var for module, _ in self._sources]
        try:
            for (module, sources), variance in zip(self._sources, before, strict=True):
                squares = sum(_squares(source) for source in sources)
                if variance is not None and isinstance(squares, Tensor) and squares.shape == variance.shape:
                    tiny = torch.finfo(squares.dtype).tiny
                    module._buffers["running_var"] = variance * squares / squares.detach().clamp(min=tiny)
            yield
        finally:
            for (module, _), variance in zip(self._sources, before, strict=True):
                module._buffers["running_var"] = variance


def _sources(value: Value) -> list[nn.Module]:
    """Layers with weights whose channels become, one by one, those of this value; none where others mix or bend them."""
    if isinstance(value, Sum):
        return [source for one in value.inputs for source in _sources(one)]
    if not isinstance(value, Applied):
        return []
    module = value.layer.module
    if isinstance(module, Convolution | BatchNorm) or (isinstance(module, nn.Linear) and len(value.shape) == 1):
        return [module] if isinstance(module.weight, Tensor) else []
    return _sources(value.inputs[0]) if isinstance(module, Passing) else []


def _squares(module: nn.Module) -> Tensor:
    """Of the weights of each channel that the layer makes, `(channels,)`."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    if isinstance(module, nn.modules.conv._ConvTransposeNd):  # (in, out / groups, *kernel)
        return weight.unflatten(0, (module.groups, -1)).transpose(1, 2).flatten(2).square().sum(2).flatten()
    return weight.reshape(len(weight), -1).square().sum(1)
