"""Running variances with a graph to the weights, for the gradient of a bound.

In evaluation a running variance is a constant, and the gradient of a bound turns the weights before it to where nothing is
won: the variance follows, training turns the weights further, and the network in evaluation mode is no longer the one that
is trained. How a variance changes with the weights is therefore taken from some samples.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..inference import evaluating, normalisations_of

SMALLEST = 1e-12
"""Variance of a channel that is constant on the samples, which would have no gradient."""


@contextlib.contextmanager
def following_variances(model: nn.Module, x: Tensor) -> Iterator[None]:
    """Inside, running variances have the gradient by the weights that their logarithms have on the samples x; not other values.

    Args:
        model: in any mode; it is evaluated in evaluation mode.
        x: `(n, *input)`; two at least.
    """
    found: dict[nn.Module, Tensor] = {}

    def measure(module: nn.Module, inputs: tuple[Tensor]) -> None:
        given = inputs[0].transpose(0, 1).flatten(1)
        found[module] = given.var(1, correction=0).clamp(min=SMALLEST)

    normalisations = normalisations_of(model)
    handles = [module.register_forward_pre_hook(measure, prepend=True) for module in normalisations]
    before = [module.running_var for module in normalisations]
    try:
        if normalisations:
            with evaluating(model), torch.enable_grad():
                model(x)
        for handle in handles:
            handle.remove()
        for module, variance in zip(normalisations, before, strict=True):
            if module in found:
                module._buffers["running_var"] = variance * found[module] / found[module].detach()
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, variance in zip(normalisations, before, strict=True):
            module._buffers["running_var"] = variance
