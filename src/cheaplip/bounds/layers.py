"""True Lipschitz constants of single layers (2-norm, evaluation mode), each proved, and their product.

`layer_norm` dispatches on the module's type; a type without a rule is refused. Register a rule for your own layer with
`layer_norm.register(MyLayer)`: a function from (module, shape of one input) to its constant, an upper bound.
Norms are those of the layer in exact arithmetic, computed in float64.
"""

from __future__ import annotations

import itertools
import math
from functools import singledispatch

import torch
from torch import Tensor, nn

from ..errors import InputError, UnsupportedModuleError
from ..quotient import evaluating

Shape = tuple[int, ...]


@singledispatch
def layer_norm(module: nn.Module, shape: Shape) -> float:
    """An upper bound of the Lipschitz constant of one layer on inputs of `shape` (without the batch dimension).

    Raises:
        UnsupportedModuleError: no rule for this type, or not for these settings of it.
    """
    raise UnsupportedModuleError(
        "a layer with a known Lipschitz constant",
        f"{type(module).__name__}",
        "Register a rule with cheaplip.bounds.layers.layer_norm.register, or use the lower bound alone.",
    )


def product_of_norms(model: nn.Module, shape: Shape) -> float:
    """The product of the layers' constants of a chain (`nn.Sequential`, nested too): equation (4) of the CLIP paper.

    Args:
        model: an `nn.Sequential`, or a single layer with a rule.
        shape: shape of one input, without the batch dimension.

    Raises:
        UnsupportedModuleError: a layer without a rule, or a module that is not a plain chain.
        InputError: parameters that are not finite.
    """
    if not all(values.isfinite().all() for values in itertools.chain(model.parameters(), model.buffers())):
        raise InputError("finite parameters", "nan or inf", "Training may have diverged: use an earlier checkpoint.")
    product = 1.0
    x = torch.zeros(1, *shape, dtype=_dtype(model), device=_device(model))
    with torch.no_grad(), evaluating(model):
        for layer in _chain(model):
            _check_forward(layer)
            product *= layer_norm(layer, tuple(x.shape[1:]))
            x = layer(x)
    return product


def _chain(model: nn.Module) -> list[nn.Module]:
    if type(model).forward is nn.Sequential.forward:
        return [layer for child in model.children() for layer in _chain(child)]
    return [model]


def _check_forward(layer: nn.Module) -> None:
    kind = type(layer)
    known = next(base for base in kind.__mro__ if base in layer_norm.registry)
    if known is not object and kind.forward is not getattr(known, "forward"):  # noqa: B009
        got = f"{kind.__name__}, which computes something of its own"
        do = "Register a rule for it with cheaplip.bounds.layers.layer_norm.register."
        raise UnsupportedModuleError(f"a layer that computes what {known.__name__} does", got, do)


def _constant(value: float, *types: type[nn.Module]) -> None:
    for kind in types:
        layer_norm.register(kind)(lambda module, shape: value)


_constant(1.0, nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout, nn.ReLU, nn.Tanh, nn.Hardtanh)
_constant(0.25, nn.Sigmoid)


@layer_norm.register
def _(module: nn.LeakyReLU, shape: Shape) -> float:
    return max(1.0, abs(module.negative_slope))


@layer_norm.register
def _(module: nn.ELU, shape: Shape) -> float:
    return max(1.0, abs(module.alpha))


@layer_norm.register
def _(module: nn.Softplus, shape: Shape) -> float:
    if module.threshold < 20:  # it jumps there, from log(1 + exp(threshold)) / beta to threshold / beta
        raise UnsupportedModuleError("Softplus with a threshold >= 20", str(module), "Use torch's default threshold.")
    return 1.0


@layer_norm.register
def _(module: nn.Linear, shape: Shape) -> float:
    return _spectral_norm(module.weight)


@layer_norm.register
def _(module: nn.BatchNorm1d, shape: Shape) -> float:
    return _batch_norm(module)


@layer_norm.register
def _(module: nn.BatchNorm2d, shape: Shape) -> float:
    return _batch_norm(module)


@layer_norm.register
def _(module: nn.Conv2d, shape: Shape) -> float:
    """Zero padding makes the layer a restriction of the periodic convolution on the padded image, a stride one of that.

    The periodic one is block-diagonal in the Fourier basis, so its norm is the largest spectral norm of the
    channels-by-channels matrices over all frequencies (Sedghi, Gupta, Long 2019): an upper bound, nearly attained.
    """
    if module.padding_mode != "zeros":
        do = "Use zero padding, or register a rule for this layer."
        raise UnsupportedModuleError("a convolution with zero padding", f"Conv2d with {module.padding_mode!r}", do)
    spans = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    if isinstance(module.padding, str):
        total = spans if module.padding == "same" else [0, 0]
    else:
        total = [2 * p for p in module.padding]
    # a torus on which no wrapped-around value reaches an output: the padded image, at least as large as the kernel
    torus = [max(size + pad, span + 1) for size, pad, span in zip(shape[1:], total, spans, strict=True)]
    largest = 0.0
    for weight in module.weight.detach().double().chunk(module.groups):
        kernel = weight.new_zeros(*weight.shape[:2], *(span + 1 for span in spans))
        kernel[:, :, :: module.dilation[0], :: module.dilation[1]] = weight
        symbols = torch.fft.fft2(kernel, s=torus).permute(2, 3, 0, 1)  # (rows, columns, out, in)
        largest = max(largest, float(torch.linalg.matrix_norm(symbols, 2).max()))
    return largest


@layer_norm.register
def _(module: nn.MaxPool2d, shape: Shape) -> float:
    if module.return_indices:
        raise UnsupportedModuleError("max-pooling that returns values alone", str(module), "Use return_indices=False.")
    # |max a - max b| <= max |a - b| in each window, and an entry lies in at most `overlap` windows
    return math.sqrt(_overlap(module.kernel_size, module.stride, module.dilation))


@layer_norm.register
def _(module: nn.AvgPool2d, shape: Shape) -> float:
    if module.padding not in (0, (0, 0)) or module.ceil_mode or module.divisor_override:
        do = "Use plain average pooling, or register a rule for this layer."
        raise UnsupportedModuleError("average pooling without padding, ceil mode or divisor", str(module), do)
    rows, columns = _both(module.kernel_size)
    return math.sqrt(_overlap(module.kernel_size, module.stride, 1) / (rows * columns))


def _batch_norm(module: nn.BatchNorm1d | nn.BatchNorm2d) -> float:
    if module.running_var is None:
        do = "Track running statistics."
        raise UnsupportedModuleError("batch normalisation with running statistics", type(module).__name__, do)
    scale = (module.running_var.double() + module.eps).rsqrt()
    return float((scale if module.weight is None else scale * module.weight.detach().double().abs()).max())


def _overlap(kernel: int | tuple[int, ...], stride: int | tuple[int, ...], dilation: int | tuple[int, ...]) -> int:
    """In how many windows one entry can lie."""
    sizes = zip(_both(kernel), _both(stride), _both(dilation), strict=True)
    # a dilated window meets an entry with one of its k taps; taps of windows `stride` apart that meet the same entry
    # are at most min(k, ceil(span / stride)) many
    return math.prod(min(k, math.ceil((d * (k - 1) + 1) / s)) for k, s, d in sizes)


def _both(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else value


def _spectral_norm(weight: Tensor) -> float:
    return float(torch.linalg.matrix_norm(weight.detach().double(), 2))


def _dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters()), torch.float32)


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))
