"""Functions that compute what a module of torch does: the module, made of their arguments, is the layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.convolutions import Convolution
from ..layers.entrywise import Sine
from ..layers.normalization import Unit
from ..network import Value
from .call import Call

Make = Callable[..., nn.Module]


def _softmax(kind: type[nn.Module]) -> Make:
    return lambda dim=None, *rest, **named: kind(dim=dim)


def _clamp(min: float | None = None, max: float | None = None) -> nn.Module:
    low, high = (-torch.inf if min is None else float(min), torch.inf if max is None else float(max))
    return nn.Hardtanh(low, high)


def _pool(kind: type[nn.Module]) -> Make:
    """`return_indices` comes before `ceil_mode` in the modules and after it in the functions."""
    return lambda size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False: kind(
        size, stride, padding, dilation, return_indices, ceil_mode
    )


MAKERS: dict[str, Make] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "celu": nn.CELU,
    "gelu": lambda approximate="none": nn.GELU(approximate),
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "softplus": nn.Softplus,
    "softsign": nn.Softsign,
    "softshrink": nn.Softshrink,
    "tanhshrink": nn.Tanhshrink,
    **dict.fromkeys(("threshold", "_threshold"), nn.Threshold),
    "rrelu": lambda lower=1 / 8, upper=1 / 3, training=False: nn.RReLU(lower, upper),
    "sigmoid": nn.Sigmoid,
    "logsigmoid": nn.LogSigmoid,
    "hardsigmoid": nn.Hardsigmoid,
    "hardswish": nn.Hardswish,
    "hardtanh": nn.Hardtanh,
    "clamp": _clamp,
    "clip": _clamp,
    "clamp_min": lambda min: _clamp(min),
    "clamp_max": lambda max: _clamp(None, max),
    "tanh": nn.Tanh,
    "sin": Sine,
    "cos": Sine,
    "abs": partial(nn.LeakyReLU, -1.0),
    "absolute": partial(nn.LeakyReLU, -1.0),
    "softmax": _softmax(nn.Softmax),
    "softmin": _softmax(nn.Softmin),
    "log_softmax": _softmax(nn.LogSoftmax),
    **{f"max_pool{d}d": _pool(kind) for d, kind in ((1, nn.MaxPool1d), (2, nn.MaxPool2d), (3, nn.MaxPool3d))},
    "adaptive_max_pool1d": nn.AdaptiveMaxPool1d,
    "adaptive_max_pool2d": nn.AdaptiveMaxPool2d,
    "adaptive_max_pool3d": nn.AdaptiveMaxPool3d,
}


def _made(call: Call) -> Value:
    value = call.only()
    options = {name: option for name, option in call.kwargs.items() if name not in ("inplace", "dtype", "_stacklevel")}
    try:
        module = MAKERS[call.name](*call.args[1:], **options)
    except (TypeError, ValueError, AssertionError):
        return call.refuse()
    if call.name == "cos":
        module = Sine(cosine=True)
    return call.recorder.layer(module, value, call.out)


def _weighted(call: Call, module: Any, weight: Tensor, bias: Tensor | None) -> Value:
    """A module with these constants; they may not depend on the input."""
    value = call.only()
    module.weight = nn.Parameter(weight.detach(), requires_grad=False)
    module.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
    return call.recorder.layer(module, value, call.out)


def _prelu(call: Call) -> Value:
    weight = call.argument(1, "weight")
    return _weighted(call, nn.PReLU(weight.numel(), dtype=weight.dtype), weight, None)


def _linear(call: Call) -> Value:
    weight, bias = call.argument(1, "weight"), call.argument(2, "bias")
    return _weighted(call, nn.Linear(1, 1, dtype=weight.dtype), weight, bias)


def _convolution(kind: type[Convolution], transposed: bool, call: Call) -> Value:
    weight, bias = call.argument(1, "weight"), call.argument(2, "bias")
    names = ["stride", "padding", *(["output_padding", "groups", "dilation"] if transposed else ["dilation", "groups"])]
    defaults = {"stride": 1, "padding": 0, "output_padding": 0, "groups": 1, "dilation": 1}
    options = {name: call.argument(3 + i, name, defaults[name]) for i, name in enumerate(names)}
    options = {name: tuple(one) if isinstance(one, list) else one for name, one in options.items()}
    groups = options["groups"]
    into, out = (weight.shape[0], weight.shape[1] * groups) if transposed else (weight.shape[1] * groups, weight.shape[0])
    module = kind(into, out, tuple(weight.shape[2:]), **options, dtype=weight.dtype)
    return _weighted(call, module, weight, bias)


def _batch_norm(call: Call) -> Value:
    mean, variance = call.argument(1, "running_mean"), call.argument(2, "running_var")
    if call.argument(5, "training", False) or mean is None:
        call.refuse("without running statistics")
    module: Any = nn.BatchNorm1d(len(mean), eps=call.argument(7, "eps", 1e-5), dtype=mean.dtype)
    module.running_mean, module.running_var = mean.detach().clone(), variance.detach().clone()
    weight, bias = call.argument(3, "weight"), call.argument(4, "bias")
    kinds = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    module.__class__ = kinds[call.args[0].dim()]
    return _weighted(call, module.eval(), torch.ones_like(mean) if weight is None else weight, bias)


def _layer_norm(call: Call) -> Value:
    shape, weight, bias = (call.argument(i, name) for i, name in ((1, "normalized_shape"), (2, "weight"), (3, "bias")))
    module: Any = nn.LayerNorm(shape, eps=call.argument(4, "eps", 1e-5), elementwise_affine=False)
    return _normalised(call, module, weight, bias)


def _rms_norm(call: Call) -> Value:
    module: Any = nn.RMSNorm(call.argument(1, "normalized_shape"), eps=call.argument(3, "eps"), elementwise_affine=False)
    return _normalised(call, module, call.argument(2, "weight"), None)


def _group_norm(call: Call) -> Value:
    groups, weight, bias = (call.argument(i, name) for i, name in ((1, "num_groups"), (2, "weight"), (3, "bias")))
    module: Any = nn.GroupNorm(groups, call.args[0].shape[1], eps=call.argument(4, "eps", 1e-5), affine=False)
    return _normalised(call, module, weight, bias)


def _normalised(call: Call, module: Any, weight: Tensor | None, bias: Tensor | None) -> Value:
    for name, part in (("weight", weight), ("bias", bias)):
        setattr(module, name, None if part is None else nn.Parameter(part.detach(), requires_grad=False))
    return call.recorder.layer(module, call.only(), call.out)


def _normalize(call: Call) -> Value:
    dim, value = call.argument(2, "dim", 1), call.only()
    if call.argument(1, "p", 2.0) != 2 or not isinstance(dim, int) or dim % (len(value.shape) + 1) == 0:
        return call.refuse("but along one axis of a sample, in the 2-norm")
    return call.recorder.layer(Unit(dim % (len(value.shape) + 1), call.argument(3, "eps", 1e-12)), value, call.out)


KINDS: tuple[tuple[int, type[Convolution], type[Convolution]], ...] = (
    (1, nn.Conv1d, nn.ConvTranspose1d),
    (2, nn.Conv2d, nn.ConvTranspose2d),
    (3, nn.Conv3d, nn.ConvTranspose3d),
)
MODULES: dict[str, Callable[[Call], Value]] = {
    **dict.fromkeys(MAKERS, _made),
    "prelu": _prelu,
    "linear": _linear,
    **{f"conv{d}d": partial(_convolution, kind, False) for d, kind, _ in KINDS},
    **{f"conv_transpose{d}d": partial(_convolution, kind, True) for d, _, kind in KINDS},
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "normalize": _normalize,
}
