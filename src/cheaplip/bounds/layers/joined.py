"""A BatchNorm right after a layer with weights is one linear map with it, of a norm at most the product of the two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...inference import evaluation_copy
from .constants import BatchNorm, Dropout, batch_norm_scale, plain, rule_type
from .convolutions import Convolution
from .layer import Layer
from .linear_maps import Shift


def pairs(layers: Sequence[Layer]) -> list[tuple[Layer, BatchNorm | None]]:
    """Each layer with the BatchNorm that scales the channels it makes, where one follows it; that one does not come again."""
    found: list[tuple[Layer, BatchNorm | None]] = []
    for layer in layers:
        module = layer.module
        if found and isinstance(module, BatchNorm) and found[-1][1] is None and _makes_channels(found[-1][0]):
            found[-1] = found[-1][0], module
        elif not isinstance(module, Shift | Dropout | nn.Identity):  # as they change no difference
            found.append((layer, None))
    return found


def joined(layers: Sequence[Layer]) -> list[Layer]:
    """The layers with those BatchNorms in the weights before them, in float64."""
    return [
        layer if norm is None else Layer(_scaled(layer.module, norm), layer.shape, layer.out, layer.region)
        for layer, norm in pairs(layers)
    ]


def _makes_channels(layer: Layer) -> bool:
    module = layer.module
    return rule_type(module) is not None and (
        isinstance(module, Convolution) or (isinstance(module, nn.Linear) and len(layer.shape) == 1)
    )


def _scaled(module: nn.Module, norm: BatchNorm) -> nn.Module:
    copied: Any = evaluation_copy(plain(module), torch.float64)
    scale: Tensor = batch_norm_scale(norm).detach().to(copied.weight)
    weight = copied.weight
    if isinstance(module, nn.modules.conv._ConvTransposeNd):  # (in, out / groups, *kernel)
        runs = scale.reshape(module.groups, 1, -1).expand(-1, len(weight) // module.groups, -1).flatten(0, 1)
    else:
        runs = scale[:, None]
    copied.weight = nn.Parameter(weight * runs.reshape(*runs.shape, *[1] * (weight.dim() - 2)), requires_grad=False)
    result: nn.Module = copied
    return result
