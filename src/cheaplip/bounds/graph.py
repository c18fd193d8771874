"""A network's layers in order, found by torch.fx: one chain, or sums and concatenations of chains.

`Bound` is what is known of each value in the graph: its Lipschitz constant with respect to the network's input is at most
`scale` times that of the chain `layers`, which begins at the last value that is used more than once.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from ..errors import InputError, UnsupportedModuleError, one_line
from ..inference import evaluating
from .layers.constants import check_forward, has_rule, layer_norm
from .layers.layer import Layer, Shape

Certify = Callable[[Sequence[Layer]], float]
"""An upper bound of the Lipschitz constant of a chain."""

_absolute = partial(nn.LeakyReLU, -1.0)

FUNCTIONS: dict[Any, Callable[..., nn.Module]] = {
    functional.relu: nn.ReLU,
    torch.relu: nn.ReLU,
    "relu": nn.ReLU,
    functional.relu6: nn.ReLU6,
    functional.leaky_relu: nn.LeakyReLU,
    functional.elu: nn.ELU,
    functional.selu: nn.SELU,
    functional.gelu: nn.GELU,
    functional.silu: nn.SiLU,
    functional.softplus: nn.Softplus,
    functional.softsign: nn.Softsign,
    functional.sigmoid: nn.Sigmoid,
    torch.sigmoid: nn.Sigmoid,
    "sigmoid": nn.Sigmoid,
    functional.tanh: nn.Tanh,
    torch.tanh: nn.Tanh,
    "tanh": nn.Tanh,
    torch.abs: _absolute,
    operator.abs: _absolute,
    "abs": _absolute,
    functional.max_pool2d: nn.MaxPool2d,
    functional.avg_pool2d: nn.AvgPool2d,
    torch.flatten: nn.Flatten,
    "flatten": nn.Flatten,
}
"""Functions, and methods of tensors by name, that are the same as a module made with the same arguments."""
RESHAPING = {"view", "reshape", "contiguous", torch.reshape}


@dataclass(frozen=True)
class Bound:
    """See the module's text."""

    scale: float
    layers: tuple[Layer, ...] = ()
    alone: bool = False  # the value is what the chain makes of the network's input, with no constant added on the way

    def then(self, module: nn.Module, shape: Shape, out: Shape) -> Bound:
        """After one more layer."""
        return replace(self, layers=(*self.layers, Layer(module, shape, out)))

    def closed(self, certify: Certify) -> Bound:
        """The same with the chain's constant multiplied out."""
        return Bound(self.scale * certify(self.layers)) if self.layers else self


def trace(model: nn.Module) -> fx.GraphModule:
    """The graph of a network whose leaves are layers with a rule and torch's own.

    Raises:
        UnsupportedModuleError: the forward pass cannot be traced.
        InputError: parameters that are not finite.
    """
    if not all(values.isfinite().all() for values in itertools.chain(model.parameters(), model.buffers())):
        raise InputError("finite parameters", "nan or inf", "Training may have diverged: use an earlier checkpoint.")
    root = nn.Sequential(model)  # so that a network of one layer is a leaf too
    try:
        return fx.GraphModule(root, _Tracer().trace(root))
    except UnsupportedModuleError:
        raise
    except Exception as error:  # tracing runs the user's code with proxies
        do = "Write its forward without branches on values, register a rule for it, or use the lower bound alone."
        got = f"{type(model).__name__}: {one_line(error)}"
        raise UnsupportedModuleError("a network that torch.fx can trace", got, do) from None


def propagate(model: nn.Module, shape: Shape, certify: Certify, largest: bool = False) -> Bound:
    """What is known of the network's output.

    Args:
        model: the network.
        shape: of one input.
        certify: bounds the chains that end before the output; the last one is left to the caller.
        largest: values are measured by their largest entry instead of the 2-norm.

    Raises:
        UnsupportedModuleError: a layer or an operation without a rule, by name.
    """
    with torch.no_grad(), evaluating(model):
        walk = _Walk(trace(model), certify, largest, type(model).__name__)
        first = next(itertools.chain(model.parameters(), model.buffers()), torch.zeros(()))
        dtype = first.dtype if first.is_floating_point() else torch.float32
        # two samples: what mixes them up changes the first dimension
        try:
            result = walk.run(torch.zeros(2, *shape, dtype=dtype, device=first.device))
        except InputError as error:  # the interpreter has added its own state to the message
            raise type(error)(error.expected, error.got, error.do) from None
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            got = f"inputs of shape {shape}: {str(error).partition(chr(10))[0]}"
            raise InputError("a network that takes these inputs", got, "Fit one to the other.") from None
    bound = walk.bounds.get(walk.last)
    if bound is None or not isinstance(result, Tensor):
        raise UnsupportedModuleError("a network that returns one tensor", type(result).__name__, "Return that tensor alone.")
    return bound


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        own = type(m).forward is nn.Sequential.forward or not type(m).__module__.startswith("torch.nn")
        return has_rule(m) or not own


class _Walk(fx.Interpreter):
    def __init__(self, graph: fx.GraphModule, certify: Certify, largest: bool, name: str) -> None:
        super().__init__(graph)
        self.bounds: dict[Any, Bound] = {}
        self.last: Any = None
        self._certify, self._largest, self._name = certify, largest, name

    def run_node(self, n: Any) -> Any:
        if n.op == "call_module" and isinstance(n.args[0], fx.Node) and n.args[0] in self.bounds:
            self._check(n, self.fetch_attr(str(n.target)), tuple(self.env[n.args[0]].shape[1:]))
        result = super().run_node(n)
        bound = self._bound(n, result)
        if bound is not None:
            if isinstance(result, Tensor) and (result.dim() < 2 or len(result) != 2):
                raise UnsupportedModuleError(
                    "samples that stay apart", f"{self._named(n)} of shape {tuple(result.shape)}", ADVICE
                )
            uses = [user for user in n.users if user.target not in ("size", "dim", getattr)]
            self.bounds[n] = bound.closed(self._certify) if len(uses) > 1 else bound
        return result

    def _bound(self, n: Any, result: Any) -> Bound | None:
        if n.op == "placeholder":
            return Bound(1.0, alone=True)
        if n.op == "output":
            self.last = n.args[0]
            return None
        inputs = [self.bounds[node] for node in n.all_input_nodes if node in self.bounds]
        if not inputs or isinstance(result, (int, torch.Size)):
            return None  # parameters, and sizes of tensors
        args: list[Any] = [self.env.get(arg) if isinstance(arg, fx.Node) else arg for arg in n.args]
        if n.op == "call_module":
            return inputs[0].then(self.fetch_attr(str(n.target)), tuple(args[0].shape[1:]), tuple(result.shape[1:]))
        return self._operation(n, args, inputs, result)

    def _named(self, n: Any) -> str:
        path = str(n.target) if n.op == "call_module" else next(reversed((n.meta.get("nn_module_stack") or {"": 0}).keys()))
        return repr(path.removeprefix("0.")) if path not in ("", "0") else self._name

    def _check(self, n: Any, module: nn.Module, shape: Shape) -> None:
        try:
            check_forward(module)
            layer_norm(module, shape)
        except UnsupportedModuleError as error:
            raise UnsupportedModuleError(error.expected, f"{error.got} at {self._named(n)}", error.do) from None

    def _operation(self, n: Any, args: list[Any], inputs: list[Bound], result: Any) -> Bound:
        kind = getattr(n.target, "__name__", n.target)
        moving = [arg for arg in n.args if isinstance(arg, fx.Node) and arg in self.bounds]
        env: dict[Any, Any] = self.env
        shapes = [tuple(env[arg].shape[1:]) for arg in moving]
        out = tuple(result.shape[1:]) if isinstance(result, Tensor) else None
        if out is None:
            pass
        elif n.target in RESHAPING or (n.target is functional.dropout and n.kwargs.get("training") is False):
            return inputs[0].then(nn.Identity(), shapes[0], out)
        elif n.target in FUNCTIONS and len(inputs) == 1:
            options = {name: value for name, value in n.kwargs.items() if name != "inplace"}
            module = FUNCTIONS[n.target](*args[1:], **options)
            self._check(n, module, shapes[0])
            return inputs[0].then(module, shapes[0], out)
        elif kind in ("add", "sub", "iadd", "isub") and not n.kwargs and all(shape == out for shape in shapes):
            if len(moving) == 1:
                return replace(inputs[0], alone=False)  # a constant moves no difference
            return Bound(sum(self.bounds[arg].closed(self._certify).scale for arg in moving))
        elif kind in ("mul", "truediv", "neg") and len(moving) == 1 and n.args[0] in self.bounds:
            factor = -1.0 if kind == "neg" else args[1]
            if isinstance(factor, (int, float)) and (factor or kind == "mul"):
                scale = 1 / abs(factor) if kind == "truediv" else abs(factor)
                return Bound(scale * inputs[0].closed(self._certify).scale)
        elif kind in ("cat", "concat") and all(part in self.bounds for part in n.args[0]):
            scales = [self.bounds[part].closed(self._certify).scale for part in n.args[0]]
            if (args[1] if len(args) > 1 else n.kwargs.get("dim", 0)) % result.dim() != 0:
                return Bound(max(scales) if self._largest else math.hypot(*scales))
        raise UnsupportedModuleError("an operation with a known Lipschitz constant", f"{kind} at {self._named(n)}", ADVICE)


ADVICE = (
    "Products, divisions and attention of inputs have none on all inputs. Put the operation into a module and register a "
    "rule for it with cheaplip.bounds.layers.layer_norm.register, or use the lower bound alone."
)
