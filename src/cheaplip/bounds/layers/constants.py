"""True Lipschitz constants of single layers in evaluation mode, each proved.

`layer_norm` is for the Euclidean norm, `infinity_norm` for the largest entry, `local_norm` for inputs in a region. They
dispatch on the module's type; a type without a rule is refused. Register a rule for your own layer with
`layer_norm.register(MyLayer)`: a function from (module, shape of one input) to its constant, an upper bound. Norms are those
of the layer in exact arithmetic, computed in float64. What proves the upper end: a singular value decomposition (Linear), the
symbols of the periodic convolution (convolutions, see `convolutions`), the largest scale (BatchNorm), Schur's test (linear
maps without negative entries, see `linear_maps`), a count of overlaps (max-pooling), the slopes (activations).
"""

from __future__ import annotations

import decimal
import math
from collections import OrderedDict
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UnsupportedModuleError
from ...inference import device_of, evaluation_copy
from ..rounding import NEXT
from .activations import acts_entrywise, derivative, slope_interval
from .convolutions import Convolution, convolution_norm
from .entrywise import Sine
from .linear_maps import Nonnegative, Reshape, Rotation, Scaling, Shift, schur
from .region import Region, Shape

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
Pads = nn.ConstantPad1d | nn.ConstantPad2d | nn.ConstantPad3d | nn.CircularPad1d | nn.CircularPad2d | nn.CircularPad3d
Pads |= nn.ReflectionPad1d | nn.ReflectionPad2d | nn.ReflectionPad3d
Pads |= nn.ReplicationPad1d | nn.ReplicationPad2d | nn.ReplicationPad3d
AvgPool = nn.AvgPool1d | nn.AvgPool2d | nn.AvgPool3d | nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d | nn.AdaptiveAvgPool3d
Channelwise = AvgPool | Pads | nn.Upsample
"""Linear without negative coefficients, channel by channel."""
Positive = Channelwise | nn.PixelShuffle | nn.PixelUnshuffle | nn.ChannelShuffle | nn.Unfold | nn.Fold | Nonnegative
Linear = nn.Linear | Convolution | BatchNorm | Positive | Scaling | Shift | Rotation
Dropout = nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d | nn.AlphaDropout | nn.FeatureAlphaDropout
Reshaping = nn.Identity | nn.Flatten | nn.Unflatten | Dropout | Reshape
DIGITS = 120
"""Of what BatchNorm adds, before it is rounded: 53 bits a factor, and squares of the terms differ by 1e-65 or not at all."""


@singledispatch
def layer_norm(module: nn.Module, shape: Shape) -> float:
    """An upper bound of the 2-norm Lipschitz constant of one layer on inputs of `shape` (without the batch dimension).

    Raises:
        UnsupportedModuleError: no rule for this type, or not for these settings of it.
    """
    if acts_entrywise(module):
        low, high = slope_interval(module)
        return float(torch.maximum(low.abs(), high.abs()).max())
    raise UnsupportedModuleError(
        "a layer with a known Lipschitz constant",
        type(module).__name__,
        "Register a rule with cheaplip.bounds.layers.layer_norm.register, put a layer that has one in its place, or use the "
        "lower bound alone.",
    )


@singledispatch
def infinity_norm(module: nn.Module, shape: Shape) -> float:
    """The same for the largest-entry norm; without a rule of its own, sqrt(entries) times `layer_norm`."""
    if acts_entrywise(module):
        return layer_norm(module, shape)
    return math.sqrt(math.prod(shape)) * layer_norm(module, shape)


@singledispatch
def local_norm(module: nn.Module, shape: Shape, region: Region) -> float:
    """The 2-norm constant on inputs in a region: slopes of activations there; without a rule of its own, `layer_norm`."""
    if acts_entrywise(module):
        low, high = slope_interval(module, region.low, region.high)
        return float(torch.maximum(low.abs(), high.abs()).max()) if low.numel() else 0.0
    return layer_norm(module, shape)


def rule_type(module: nn.Module) -> type | None:
    """The type whose rule this very layer takes: its own, or the one it is derived from without another `forward`.

    None for what is traced to the functions that it calls, such as bicubic interpolation, which has negative coefficients.
    """
    kind = type(module)
    if isinstance(module, nn.Upsample) and module.mode == "bicubic":
        return None
    known = next((base for base in kind.__mro__ if base in layer_norm.registry or base in derivative.registry), object)
    if known is object or kind.forward is not getattr(known, "forward"):  # noqa: B009
        return None
    return known


@layer_norm.register
@infinity_norm.register
def _(module: Reshaping | Shift | Sine, shape: Shape) -> float:
    """1."""
    return 1.0


@layer_norm.register
def _(module: nn.Linear, shape: Shape) -> float:
    """The largest singular value."""
    return float(torch.linalg.matrix_norm(module.weight.detach().double(), 2))


@layer_norm.register
def _(module: Convolution, shape: Shape) -> float:
    """The largest singular value of the symbols of the periodic convolution (Sedghi, Gupta, Long 2019)."""
    return convolution_norm(module, shape)


@infinity_norm.register
def _(module: Linear, shape: Shape) -> float:
    """The largest absolute row sum: apply |W| to a vector of ones and take the maximum."""
    return float(absolute(module)(torch.ones(1, *shape, dtype=torch.float64, device=device_of(module))).max())


@layer_norm.register
def _(module: BatchNorm, shape: Shape) -> float:
    """The largest |weight| / sqrt(variance + eps), of the running statistics."""
    return float(batch_norm_scale(module).detach().abs().max())


@layer_norm.register
def _(module: Positive, shape: Shape) -> float:
    """The root of the largest row sum times the largest column sum (Schur's test)."""
    return schur(module, shape) * NEXT


@layer_norm.register
def _(module: Scaling, shape: Shape) -> float:
    """The largest absolute factor."""
    return float(module.factor.abs().max()) if module.factor.numel() else 0.0


@layer_norm.register
def _(module: Rotation, shape: Shape) -> float:
    """1: orthogonal."""
    return 1.0


def batch_norm_scale(module: BatchNorm) -> Tensor:
    """What each channel is multiplied by in evaluation mode, float64 `(channels,)`, with a graph to the weight."""
    if module.running_var is None:
        do = "Track running statistics."
        raise UnsupportedModuleError("batch normalisation with running statistics", type(module).__name__, do)
    scale = (module.running_var.double() + module.eps).rsqrt()
    return scale if module.weight is None else scale * module.weight.double()


def plain(module: nn.Module) -> nn.Module:
    """The same layer with its weight as it is, where that is made by a parametrisation, or by a hook before each call."""
    made = list(getattr(module, "parametrizations", ()))
    hooked = [name for name in ("weight",) if module._forward_pre_hooks and isinstance(vars(module).get(name), Tensor)]
    if not made and not hooked:
        return module
    simple: nn.Module = object.__new__(type(module).__mro__[1] if made else type(module))
    simple.__dict__ = {name: dict(one) if isinstance(one, dict) else one for name, one in vars(module).items()}
    simple._forward_pre_hooks = OrderedDict()
    simple._modules.pop("parametrizations", None)
    for name in (*made, *hooked):
        vars(simple).pop(name, None)
        simple._parameters[name] = nn.Parameter(getattr(module, name).detach(), requires_grad=False)
    return simple


class _Part(nn.Module):
    """What is left of a linear map after its value at 0."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._module = module

    def forward(self, x: Tensor) -> Tensor:
        none = self._module(torch.zeros_like(x[:1]))
        difference: Tensor = self._module(x) - none
        return difference


def linear_part(module: nn.Module) -> nn.Module:
    """A float64 copy without what it adds: bias, mean, the constant of a padding."""
    if isinstance(module, Shift):
        return nn.Identity()
    if isinstance(module, Positive):
        return _Part(module)
    part: Any = evaluation_copy(plain(module), torch.float64)
    if isinstance(module, BatchNorm):
        part.running_mean = torch.zeros_like(batch_norm_scale(module))
    if getattr(part, "bias", None) is not None:
        part.bias = nn.Parameter(torch.zeros_like(part.bias)) if isinstance(module, BatchNorm) else None
    result: nn.Module = part
    return result


def exact_copy(module: nn.Module) -> nn.Module:
    """A float64 copy in evaluation mode.

    Softplus is without its threshold, from which on torch's differs by up to `activations.jumps`. BatchNorm has no mean: what
    it adds is one number, rounded once, however far its mean and its bias cancel.
    """
    if isinstance(module, Nonnegative | Reshape):
        return module
    copied: Any = evaluation_copy(plain(module), torch.float64)
    if isinstance(copied, nn.Softplus):
        copied.threshold = 700.0  # where exp still is a number
    if isinstance(copied, BatchNorm) and copied.running_mean is not None:
        copied.bias = nn.Parameter(_added(copied), requires_grad=False)
        copied.running_mean = torch.zeros_like(copied.running_mean)
    result: nn.Module = copied
    return result


def _added(module: BatchNorm) -> Tensor:
    """What BatchNorm adds, bias - mean * weight / sqrt(variance + eps), `(channels,)`."""
    n, eps = module.num_features, decimal.Decimal(module.eps)
    given = (module.weight, module.bias, module.running_mean, module.running_var)
    weight, bias, mean, variance = (
        [decimal.Decimal(value) for value in ([default] * n if one is None else one.double().tolist())]
        for one, default in zip(given, (1.0, 0.0, 0.0, 1.0), strict=True)
    )
    with decimal.localcontext(decimal.Context(prec=DIGITS, traps=[])):  # what is not finite is refused elsewhere
        added = [float(b - m * w / (v + eps).sqrt()) for w, b, m, v in zip(weight, bias, mean, variance, strict=True)]
    return torch.tensor(added, dtype=torch.float64, device=device_of(module))


def absolute(module: nn.Module, power: int = 1) -> nn.Module:
    """A float64 copy of the linear part with the absolute values of its weights, to a power of 1 or 2."""
    if isinstance(module, Rotation):
        return _AbsoluteRotation(module)
    part: Any = linear_part(module)
    if isinstance(part, Scaling):
        part.factor = part.factor.abs() ** power
    elif getattr(part, "weight", None) is not None:
        part.weight = nn.Parameter(part.weight.detach().abs() ** power, requires_grad=False)
    result: nn.Module = part
    return result


class _AbsoluteRotation(nn.Module):
    def __init__(self, module: Rotation) -> None:
        super().__init__()
        self._module = module

    def forward(self, x: Tensor) -> Tensor:
        """Both outputs are (a + b) / sqrt 2."""
        a, b = x.unbind(self._module.dim)
        return torch.stack([a + b, a + b], self._module.dim) / math.sqrt(2)
