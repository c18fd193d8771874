"""How far the slopes of smooth activations bend: bounds of the second and the third derivative, everywhere.

Register your own with `curvature.register(MyActivation)`; it needs a rule of `derivative` too.
"""

from __future__ import annotations

import math
from functools import singledispatch

from torch import nn

from .entrywise import Partly

Curvature = tuple[float, float]
"""What |phi''| and |phi'''| are at most."""


@singledispatch
def curvature(module: nn.Module) -> Curvature | None:
    """Bounds of the second and the third derivative of an activation; None where its slopes jump or nothing is known.

    Example:
        >>> curvature(nn.ReLU()) is None
        True
    """
    return None


@curvature.register
def _(module: Partly) -> Curvature | None:
    return curvature(module.inner)


@curvature.register
def _(module: nn.GELU) -> Curvature:
    return math.sqrt(2 / math.pi), 0.7788  # at 0, and near 0.74


@curvature.register
def _(module: nn.SiLU) -> Curvature:
    return 0.5, 0.3082


@curvature.register
def _(module: nn.Mish) -> Curvature:
    return 0.6443, 0.5885


@curvature.register(nn.Tanh)
@curvature.register(nn.Tanhshrink)
def _(module: nn.Module) -> Curvature:
    return 4 / 3**1.5, 2.0


@curvature.register
def _(module: nn.Sigmoid) -> Curvature:
    return 1 / (6 * math.sqrt(3)), 1 / 8


@curvature.register
def _(module: nn.LogSigmoid) -> Curvature:
    return 1 / 4, 1 / (6 * math.sqrt(3))


@curvature.register
def _(module: nn.Softplus) -> Curvature:
    return abs(module.beta) / 4, module.beta**2 / (6 * math.sqrt(3))
