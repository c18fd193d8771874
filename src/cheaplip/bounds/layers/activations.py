"""The interval of an activation's slopes, everywhere or on given intervals of its argument.

`slope_interval` dispatches on the module's type. A rule gives the derivative and the points where it jumps or turns;
between those the derivative is monotone, so that its range on an interval is the hull of a few values. Register your
own with `derivative.register(MyActivation)`; it must be continuous and act entry by entry.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import singledispatch

import torch
from torch import Tensor, nn

from ...errors import UnsupportedModuleError
from ..rounding import SLOPES
from .entrywise import Partly

Derivative = tuple[Callable[[Tensor], Tensor], dict[float, tuple[float, ...]]]
"""The derivative, exact at -inf and inf too, and its (one-sided) values at the points where it jumps or turns."""

STRAIGHT = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.Hardtanh, nn.Softshrink, nn.Threshold)
"""Activations made of straight pieces, whose slopes are numbers of their own; ReLU6 is a Hardtanh."""

THRESHOLD = 20.0
"""The least argument, times beta, from which on torch's Softplus may be the identity."""


@singledispatch
def derivative(module: nn.Module) -> Derivative:
    """What is known of an activation's derivative; see `Derivative`.

    Raises:
        UnsupportedModuleError: no rule for this type.
    """
    do = "Register one with cheaplip.bounds.layers.derivative.register."
    raise UnsupportedModuleError("an activation with known slopes", type(module).__name__, do)


@singledispatch
def jumps(module: nn.Module) -> tuple[float, float]:
    """By how much torch's values may be below, and its slopes above, those of the smooth function that is meant.

    Softplus is log(1 + exp(beta x)) / beta, and in torch x from `threshold` on: it falls by 2e-9 there, at a point at which it
    has no finite slope. Bounds are about the function without that fall, and hold for torch's slopes on both sides of it.
    """
    return 0.0, 0.0


def acts_entrywise(module: nn.Module) -> bool:
    """Whether there is a rule for this activation."""
    return derivative.dispatch(type(module)) is not derivative.dispatch(object)


def slope_interval(module: nn.Module, low: Tensor | None = None, high: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """[a, b] with a <= (phi(z) - phi(z')) / (z - z') <= b for all z, z' in [low, high], entry by entry, float64.

    Args:
        module: the activation phi.
        low: lower ends, any shape; None for all reals.
        high: upper ends.

    Example:
        >>> slope_interval(nn.ReLU(), torch.tensor([-1.0, 1.0]), torch.tensor([1.0, 2.0]))
        (tensor([0., 1.], dtype=torch.float64), tensor([1., 1.], dtype=torch.float64))
    """
    if isinstance(module, Partly):
        inner = slope_interval(module.inner, low, high)
        least, largest = (torch.where(module.mask.to(end.device), end, torch.ones_like(end)) for end in inner)
        return least, largest
    slope, points = derivative(module)
    low = torch.tensor(-math.inf) if low is None else low
    high = torch.tensor(math.inf) if high is None else high
    low, high = low.double(), high.double()
    if isinstance(module, nn.PReLU) and module.num_parameters > 1:  # which entry has which slope is not known here
        low, high = torch.full_like(low, -math.inf), torch.full_like(high, math.inf)
    ends = slope(low), slope(high)
    least, largest = torch.minimum(*ends), torch.maximum(*ends)
    for point, values in points.items():
        inside = (low <= point) & (point <= high)
        least = torch.where(inside, least.clamp(max=min(values)), least)
        largest = torch.where(inside, largest.clamp(min=max(values)), largest)
    exact = torch.full_like(low, isinstance(module, STRAIGHT), dtype=torch.bool) | (low.isinf() & high.isinf())
    least = torch.where(exact & (least == least.round()), least, least - SLOPES)
    largest = torch.where(exact & (largest == largest.round()), largest, largest + SLOPES)
    if low.isinf().all() and high.isinf().all():
        return least, largest
    largest = largest + jumps(module)[1]
    everywhere = slope_interval(module)
    return torch.maximum(least, everywhere[0]), torch.minimum(largest, everywhere[1])


@derivative.register
def _(module: Partly) -> Derivative:
    return derivative(module.inner)


@jumps.register
def _(module: Partly) -> tuple[float, float]:
    return jumps(module.inner)


def _step(at: float, left: float, right: float) -> Derivative:
    return (lambda x: torch.where(x > at, x.new_tensor(right), x.new_tensor(left))), {at: (left, right)}


@derivative.register
def _(module: nn.ReLU) -> Derivative:
    return _step(0.0, 0.0, 1.0)


@derivative.register
def _(module: nn.LeakyReLU) -> Derivative:
    return _step(0.0, module.negative_slope, 1.0)


@derivative.register
def _(module: nn.PReLU) -> Derivative:
    low, high = module.weight.detach().double().aminmax()
    slope, _ = _step(0.0, float(low), 1.0)
    return slope, {-1e308: (float(low), float(high)), 0.0: (float(low), float(high), 1.0)}


@derivative.register
def _(module: nn.Hardtanh) -> Derivative:  # nn.ReLU6 too
    low, high = float(module.min_val), float(module.max_val)
    return (lambda x: ((x > low) & (x < high)).to(x)), {low: (0.0, 1.0), high: (0.0, 1.0)}


@derivative.register
def _(module: nn.RReLU) -> Derivative:
    return _step(0.0, (module.lower + module.upper) / 2, 1.0)


@derivative.register
def _(module: nn.Threshold) -> Derivative:
    if module.threshold != module.value:  # it jumps there
        raise UnsupportedModuleError("Threshold with its value at the threshold", str(module), "Make the two equal.")
    return _step(float(module.threshold), 0.0, 1.0)


@derivative.register
def _(module: nn.Softshrink) -> Derivative:
    ends = float(module.lambd)
    return (lambda x: (x.abs() > ends).to(x)), {-ends: (0.0, 1.0), ends: (0.0, 1.0)}


@derivative.register
def _(module: nn.Tanhshrink) -> Derivative:
    return (lambda x: x.tanh().square()), {0.0: (0.0,)}


@derivative.register
def _(module: nn.Hardsigmoid) -> Derivative:
    return (lambda x: (x.abs() < 3).to(x) / 6), {-3.0: (0.0, 1 / 6), 3.0: (0.0, 1 / 6)}


@derivative.register
def _(module: nn.Hardswish) -> Derivative:
    return (lambda x: torch.where(x.abs() < 3, x / 3 + 0.5, (x > 0).to(x))), {-3.0: (-0.5, 0.0), 3.0: (1.0, 1.5)}


@derivative.register
def _(module: nn.Sigmoid) -> Derivative:
    return (lambda x: x.sigmoid() * (-x).sigmoid()), {0.0: (0.25,)}


@derivative.register
def _(module: nn.LogSigmoid) -> Derivative:
    return (lambda x: (-x).sigmoid()), {}


@derivative.register
def _(module: nn.Tanh) -> Derivative:
    return (lambda x: 1 - x.tanh().square()), {0.0: (1.0,)}


@derivative.register
def _(module: nn.Softsign) -> Derivative:
    return (lambda x: (1 + x.abs()) ** -2), {0.0: (1.0,)}


@derivative.register
def _(module: nn.Softplus) -> Derivative:
    if module.threshold < THRESHOLD:  # it jumps there, from log(1 + exp(threshold)) / beta to threshold / beta
        raise UnsupportedModuleError("Softplus with a threshold >= 20", str(module), "Use torch's default threshold.")
    return (lambda x: (module.beta * x).sigmoid()), {}


@jumps.register
def _(module: nn.Softplus) -> tuple[float, float]:
    fall = math.exp(-THRESHOLD)  # at least log(1 + exp(-THRESHOLD)), and 1 - sigmoid(THRESHOLD)
    return fall / abs(module.beta), fall


@derivative.register
def _(module: nn.ELU) -> Derivative:
    return _exponential(module.alpha)


@derivative.register
def _(module: nn.SELU) -> Derivative:
    alpha, scale = 1.6732632423543772, 1.0507009873554805
    return _exponential(alpha * scale, 1.0, scale)


@derivative.register
def _(module: nn.CELU) -> Derivative:
    return _exponential(1.0, module.alpha)


@derivative.register
def _(module: nn.SiLU) -> Derivative:
    def slope(x: Tensor) -> Tensor:
        gate = x.sigmoid()
        return gate + (x * gate * (-x).sigmoid()).nan_to_num(0.0)

    turn = 2.399357280520547  # x tanh(x / 2) = 2
    return slope, {-turn: (-0.0998394,), turn: (1.0998394,)}


@derivative.register
def _(module: nn.GELU) -> Derivative:
    if module.approximate == "tanh":
        return _gelu_by_tanh, {-1.4185040087908284: (-0.1289930687,), 1.4185040087908284: (1.1289930687,)}

    def slope(x: Tensor) -> Tensor:
        density = (-x.square() / 2).exp() / math.sqrt(2 * math.pi)
        share: Tensor = torch.special.ndtr(x)
        return share + (x * density).nan_to_num(0.0)

    return slope, {-math.sqrt(2): (-0.1289050,), math.sqrt(2): (1.1289050,)}


def _gelu_by_tanh(x: Tensor) -> Tensor:
    scale = math.sqrt(2 / math.pi)
    share = (scale * (x + 0.044715 * x**3)).tanh()
    bend = (x * (1 - share.square()) * (1 + 0.134145 * x.square())).nan_to_num(0.0, 0.0, 0.0)
    return (1 + share + scale * bend) / 2


@derivative.register
def _(module: nn.Mish) -> Derivative:
    def slope(x: Tensor) -> Tensor:
        share = nn.functional.softplus(x).tanh()
        return share + (x * x.sigmoid() * (1 - share.square())).nan_to_num(0.0)

    return slope, {-2.2563763963607931: (-0.1125261224,), 1.4905711794854285: (1.0884981613,)}


def _exponential(left: float, width: float = 1.0, right: float = 1.0) -> Derivative:
    """Of left * exp(x / width) below 0, of `right` above."""
    return (lambda x: torch.where(x > 0, right, left * (x.clamp(max=0) / width).exp())), {0.0: (left, right)}
