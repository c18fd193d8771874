"""How a model is called: in evaluation mode and full precision, or as a float64 copy; and checks of what it returns."""

from __future__ import annotations

import copy
import dis
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn

from .errors import InputError, one_line
from .norms import all_finite

Model = Callable[[Tensor], Tensor]
"""A network or any function from `(n, *input)` to `(n, *output)`."""


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """Evaluation mode inside, every module's own mode restored after; running statistics stay untouched.

    Where Accelerate has put mixed precision round a module's forward, that is its own inside.
    """
    modules = [module for root in modules_of(model) for module in root.modules()]
    trained = [module for module in modules if module.training]  # setting an attribute of a module takes microseconds
    recurrent = [(module, module.dropout) for module in modules if isinstance(module, nn.RNNBase)]
    patched = [(module, module.__dict__["forward"]) for module in modules if "_original_forward" in module.__dict__]
    for module in trained:
        module.training = False
    for module, _ in patched:
        module.forward = module.__dict__["_original_forward"]
    for module, _ in recurrent:
        # cuDNN differentiates recurrent layers in training mode only; without dropout that is the same function
        module.training, module.dropout = True, 0.0
    try:
        yield
    finally:
        for module, dropout in recurrent:
            module.training, module.dropout = False, dropout
        for module, around in patched:
            module.forward = around
        for module in trained:
            module.training = True


def modules_of(model: Any) -> list[nn.Module]:
    """The networks in a model: itself, the one whose method it is, or those that a function or a `partial` has hold of."""
    if isinstance(model, nn.Module):
        return [model]
    if isinstance(model, partial):
        return [module for part in (model.func, *model.args, *model.keywords.values()) for module in modules_of(part)]
    cells = [cell.cell_contents for cell in getattr(model, "__closure__", None) or ()]
    defaults = [*(getattr(model, "__defaults__", None) or ()), *(getattr(model, "__kwdefaults__", None) or {}).values()]
    known = getattr(model, "__globals__", {})
    names = [known.get(name) for name in _global_names(model.__code__)] if hasattr(model, "__code__") else []
    held = [getattr(model, "__self__", None), *cells, *defaults, *names]
    return list({id(module): module for module in held if isinstance(module, nn.Module)}.values())


def normalisations_of(model: Any) -> list[Any]:
    """The normalisations of a model that have running statistics, such as BatchNorm."""
    modules = [module for root in modules_of(model) for module in root.modules()]
    found = [module for module in modules if isinstance(module, nn.modules.batchnorm._NormBase)]
    return [module for module in found if module.running_mean is not None]


@cache
def _global_names(code: CodeType) -> list[str]:
    return sorted({found.argval for found in dis.get_instructions(code) if found.opname == "LOAD_GLOBAL"})


def parameters_of(model: Any) -> list[nn.Parameter]:
    """The parameters of all networks in a model, in order."""
    return [parameter for module in modules_of(model) for parameter in module.parameters()]


def forward(model: Model, x: Tensor) -> Tensor:
    """f(x) in evaluation mode and full precision; `InputError` unless it is one tensor with a row for each input."""
    with evaluating(model), torch.autocast(x.device.type, enabled=False):
        try:
            output = model(x)
        except TypeError as error:
            if "positional argument" not in str(error):
                raise
            do = "Wrap it: lambda x: model(x, other) with the other arguments fixed."
            raise InputError("a model of one tensor", one_line(error), do) from error
        except RuntimeError as error:
            if "'indices'" not in str(error):  # of an embedding
                raise
            do = "Regularise the network behind the embedding, with embedding_pairs(embedding, ids)."
            raise InputError("a model of floating-point inputs", one_line(error), do) from error
    if not isinstance(output, Tensor) or output.dim() == 0 or len(output) != len(x):
        got = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        do = "Wrap the model so that its forward returns that tensor alone."
        raise InputError(f"the model to return one tensor with {len(x)} rows", got, do)
    return full_precision(output)


def forward_checked(model: Model, x: Tensor) -> Tensor:
    """f(x); a shape that the model cannot take becomes an `InputError`."""
    try:
        return forward(model, x)
    except InputError:
        raise
    except (RuntimeError, ValueError, IndexError) as error:  # torch's messages for shapes that do not fit
        got = f"inputs {tuple(x.shape)}: {str(error).partition(chr(10))[0]}"
        raise InputError("a model that takes these inputs", got, "Fit one to the other.") from error


def check_classifier(model: Model, x: Tensor, y: Tensor) -> int:
    """The number of classes; `InputError` unless x is finite and the labels y fit it and the model's outputs."""
    if y.dtype != torch.int64 or y.dim() != 1 or x.dim() == 0 or len(x) != len(y) or len(y) == 0:
        got = f"x {tuple(x.shape)}, y {tuple(y.shape)} of {y.dtype}"
        do = "Give one class number a sample."
        if y.is_floating_point():
            do += " Real values have no accuracy: compare their loss with and without noise, and see lipschitz_bracket."
        raise InputError("inputs (n, *input) and int64 labels (n,), n >= 1", got, do)
    if not all_finite(x):
        raise InputError("finite inputs", "nan or inf", "Remove or impute the samples with missing values.")
    with torch.no_grad():
        outputs = forward_checked(model, x[:1])
    if outputs.dim() != 2 or outputs.shape[1] < 2 or outputs.shape[1] <= int(y.max()) or int(y.min()) < 0:
        got = f"outputs {tuple(outputs.shape)} and labels {int(y.min())} to {int(y.max())}"
        raise InputError("a model with one output for each of the classes 0, 1, ...", got, "Give the last layer more outputs.")
    return int(outputs.shape[1])


def full_precision(x: Tensor) -> Tensor:
    """At least float32: half-precision values of close inputs differ by rounding alone."""
    return x if x.dtype == torch.float64 else x.float()


def device_of(model: Model, otherwise: torch.device | str = "cpu") -> torch.device:
    """The device of the first parameter or buffer; `otherwise` for a function or a module without any."""
    tensors = (itertools.chain(module.parameters(), module.buffers()) for module in modules_of(model))
    first = next(itertools.chain.from_iterable(tensors), None)
    return torch.device(otherwise) if first is None else first.device


def like_parameters(x: Tensor, model: Model) -> Tensor:
    """The inputs x in the type of the model's floating-point parameters, if they are all of one."""
    kinds = {parameter.dtype for parameter in parameters_of(model) if parameter.is_floating_point()}
    return x.to(kinds.pop()) if len(kinds) == 1 else x


def in_float64(model: Model) -> Model:
    """A float64 copy of a network, in evaluation mode; a function that is not a module is returned as it is."""
    return evaluation_copy(model, torch.float64) if isinstance(model, nn.Module) else model


def in_float32(model: Model) -> Model | None:
    """A float32 copy of a network; None for a function, and for a network with a float64 parameter or buffer."""
    if not isinstance(model, nn.Module):
        return None
    if any(tensor.dtype == torch.float64 for tensor in model.state_dict().values() if isinstance(tensor, Tensor)):
        return None
    return evaluation_copy(model, torch.float32)


def evaluation_copy(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy in evaluation mode whose parameters need no gradient and whose layers do not work in place."""
    copied = copy.deepcopy(model).to(dtype).eval().requires_grad_(False)
    modules: list[Any] = list(copied.modules())
    for module in modules:
        if hasattr(module, "inplace"):
            module.inplace = False
    return copied
