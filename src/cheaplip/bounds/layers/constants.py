"""True Lipschitz constants of single layers in evaluation mode, each proved.

`layer_norm` is for the Euclidean norm, `infinity_norm` for the largest entry. Both dispatch on the module's type; a type
without a rule is refused. Register a rule for your own layer with `layer_norm.register(MyLayer)`: a function from
(module, shape of one input) to its constant, an upper bound. Norms are those of the layer in exact arithmetic, computed
in float64. What proves the upper end: a singular value decomposition (Linear), the symbols of the periodic convolution
(convolutions, see `convolutions`), the largest scale (BatchNorm), a count of overlaps (pooling), the slopes (activations).
"""

from __future__ import annotations

import math
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UnsupportedModuleError
from ...inference import device_of, evaluation_copy
from .activations import acts_entrywise, derivative, slope_interval
from .convolutions import Convolution, convolution_norm
from .layer import Shape

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
AvgPool = nn.AvgPool1d | nn.AvgPool2d | nn.AvgPool3d
MaxPool = nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d
Linear = nn.Linear | Convolution | BatchNorm | AvgPool
Reshaping = nn.Identity | nn.Flatten | nn.Unflatten | nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d

WITHOUT = {
    nn.LayerNorm: "it divides by the spread of its input, so that its slope grows without bound where the spread is small",
    nn.GroupNorm: "it divides by the spread of its input, so that its slope grows without bound where the spread is small",
    nn.MultiheadAttention: "attention multiplies its inputs with one another, so that no constant holds for all of them",
}
"""Types that have no finite or no useful global constant, and why."""
WITHOUT[nn.TransformerEncoderLayer] = WITHOUT[nn.TransformerEncoder] = WITHOUT[nn.MultiheadAttention]


@singledispatch
def layer_norm(module: nn.Module, shape: Shape) -> float:
    """An upper bound of the 2-norm Lipschitz constant of one layer on inputs of `shape` (without the batch dimension).

    Raises:
        UnsupportedModuleError: no rule for this type, or not for these settings of it.
    """
    if acts_entrywise(module):
        low, high = slope_interval(module)
        return float(torch.maximum(low.abs(), high.abs()))
    why = next((f" ({why})" for kind, why in WITHOUT.items() if isinstance(module, kind)), "")
    raise UnsupportedModuleError(
        "a layer with a known Lipschitz constant",
        f"{type(module).__name__}{why}",
        "Register a rule with cheaplip.bounds.layers.layer_norm.register, put a layer that has one (such as BatchNorm) in "
        "its place, or use the lower bound alone.",
    )


@singledispatch
def infinity_norm(module: nn.Module, shape: Shape) -> float:
    """The same for the largest-entry norm; without a rule of its own, sqrt(entries) times `layer_norm`."""
    if acts_entrywise(module):
        return layer_norm(module, shape)
    return math.sqrt(math.prod(shape)) * layer_norm(module, shape)


def has_rule(module: nn.Module) -> bool:
    """Whether this very layer, or one it is derived from, has a rule."""
    kind = type(module)
    return any(rules.dispatch(kind) is not rules.dispatch(object) for rules in (layer_norm, derivative))


def check_forward(layer: nn.Module) -> None:
    """Refuse a subclass of a supported layer that overrides `forward`."""
    kind = type(layer)
    known = next((base for base in kind.__mro__ if base in layer_norm.registry or base in derivative.registry), object)
    if known is not object and kind.forward is not getattr(known, "forward"):  # noqa: B009
        got = f"{kind.__name__}, which overrides forward"
        do = "Register a rule for it with cheaplip.bounds.layers.layer_norm.register."
        raise UnsupportedModuleError(f"a layer that computes what {known.__name__} does", got, do)


@layer_norm.register
@infinity_norm.register
def _(module: Reshaping, shape: Shape) -> float:
    return 1.0


@layer_norm.register
def _(module: nn.Linear, shape: Shape) -> float:
    return float(torch.linalg.matrix_norm(module.weight.detach().double(), 2))


@layer_norm.register
def _(module: Convolution, shape: Shape) -> float:
    return convolution_norm(module, shape)


@infinity_norm.register
def _(module: Linear, shape: Shape) -> float:
    """The largest absolute row sum: apply |W| to a vector of ones and take the maximum."""
    return float(absolute(module)(torch.ones(1, *shape, dtype=torch.float64, device=device_of(module))).max())


@layer_norm.register
def _(module: BatchNorm, shape: Shape) -> float:
    return float(batch_norm_scale(module).detach().abs().max())


@layer_norm.register
def _(module: MaxPool, shape: Shape) -> float:
    if module.return_indices:
        raise UnsupportedModuleError("max-pooling that returns values alone", str(module), "Use return_indices=False.")
    # |max a - max b| <= max |a - b| in each window, and an entry lies in at most `overlap` windows
    return math.sqrt(_overlap(module, shape)[0])


@infinity_norm.register
def _(module: MaxPool, shape: Shape) -> float:
    return min(1.0, layer_norm(module, shape))


@layer_norm.register
def _(module: AvgPool, shape: Shape) -> float:
    if max(_all(module.padding, shape)) or module.ceil_mode or getattr(module, "divisor_override", None):
        do = "Use plain average pooling, or register a rule for this layer."
        raise UnsupportedModuleError("average pooling without padding, ceil mode or divisor", str(module), do)
    overlap, window = _overlap(module, shape)
    return math.sqrt(overlap / window)


@layer_norm.register
def _(module: nn.AdaptiveAvgPool2d, shape: Shape) -> float:
    sizes = module.output_size if isinstance(module.output_size, tuple) else (module.output_size,) * 2
    if any(size is None or n % size for n, size in zip(shape[1:], sizes, strict=True)):
        do = "Choose an output size that divides the input's."
        raise UnsupportedModuleError("adaptive pooling into equal windows", f"{module} on {shape}", do)
    return math.sqrt(math.prod(size or 1 for size in sizes) / math.prod(shape[1:]))


@infinity_norm.register
def _(module: nn.AdaptiveAvgPool2d, shape: Shape) -> float:
    return 1.0


def batch_norm_scale(module: BatchNorm) -> Tensor:
    """What each channel is multiplied by in evaluation mode, float64 `(channels,)`, with a graph to the weight."""
    if module.running_var is None:
        do = "Track running statistics."
        raise UnsupportedModuleError("batch normalisation with running statistics", type(module).__name__, do)
    scale = (module.running_var.double() + module.eps).rsqrt()
    return scale if module.weight is None else scale * module.weight.double()


def linear_part(module: nn.Module) -> nn.Module:
    """A float64 copy without what it adds: bias and mean."""
    part: Any = evaluation_copy(module, torch.float64)
    if isinstance(module, BatchNorm):
        part.running_mean = torch.zeros_like(batch_norm_scale(module))
    if getattr(part, "bias", None) is not None:
        part.bias = nn.Parameter(torch.zeros_like(part.bias)) if isinstance(module, BatchNorm) else None
    result: nn.Module = part
    return result


def exact_copy(module: nn.Module) -> nn.Module:
    """A float64 copy in evaluation mode, with Softplus as it is meant: without its threshold."""
    copied: Any = evaluation_copy(module, torch.float64)
    if isinstance(copied, nn.Softplus):
        copied.threshold = 700.0  # where exp still is a number; at torch's 20 the values jump by 2e-9
    result: nn.Module = copied
    return result


def absolute(module: nn.Module) -> nn.Module:
    """A float64 copy of the linear part with the absolute values of its weights."""
    part: Any = linear_part(module)
    if getattr(part, "weight", None) is not None:
        part.weight.abs_() if not nn.utils.parametrize.is_parametrized(part) else _freeze(part)
    result: nn.Module = part
    return result


def _freeze(part: Any) -> None:
    nn.utils.parametrize.remove_parametrizations(part, "weight")
    part.requires_grad_(False).weight.abs_()


def _overlap(module: AvgPool | MaxPool, shape: Shape) -> tuple[int, int]:
    """In how many windows one entry can lie, and how many entries a window has."""
    kernel, stride = _all(module.kernel_size, shape), _all(module.stride, shape)
    dilation = _all(getattr(module, "dilation", 1), shape)
    # a dilated window meets an entry with one of its k taps; taps of windows `stride` apart that meet the same entry
    # are at most min(k, ceil(span / stride)) many
    sizes = zip(kernel, stride, dilation, strict=True)
    return math.prod(min(k, math.ceil((d * (k - 1) + 1) / s)) for k, s, d in sizes), math.prod(kernel)


def _all(value: int | tuple[int, ...], shape: Shape) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * (len(shape) - 1)
    return value * (len(shape) - 1) if len(value) == 1 else value
