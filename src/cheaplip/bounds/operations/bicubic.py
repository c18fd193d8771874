"""Bicubic interpolation: a matrix along each of the two axes of an image, with negative coefficients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from ..network import Value
from .call import Call

CHUNK = 16
"""Images at a time."""


def interpolated(call: Call) -> Value:
    """A (x) B of matrices A along columns and B along rows: |A (x) B| = |A| |B|."""
    value = call.only()
    _, height, width = value.shape
    rest, named = call.args[1:], call.kwargs
    coefficients = partial(_coefficients, lambda x: call.func(x, *rest, **named), height, width)
    for axis in (2, 1):
        weight = coefficients(axis)
        value = call.recorder.layer(_dense(weight), value, (*value.shape[:2], len(weight)))
        value = call.recorder.linear(lambda x: x.transpose(-1, -2), value)
    return value


def _coefficients(function: Callable[[Tensor], Tensor], height: int, width: int, axis: int) -> Tensor:
    """Its matrix along the axis: an image that is constant along the other one stays so, for coefficients have the sum 1."""
    n, across = (height, width) if axis == 1 else (width, height)
    lines = torch.eye(n, dtype=torch.float64)[:, None, :].expand(-1, across, -1)
    images = (lines.mT if axis == 1 else lines)[:, None]  # (n, 1, height, width)
    found = torch.cat([function(some)[:, 0] for some in images.split(CHUNK)])
    return (found[..., 0] if axis == 1 else found[:, 0]).T


def _dense(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(1, 1, bias=False)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer
