"""From a module to the tree of `network`, by torch.fx: which layers a network has, in which order and branches."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from ..errors import InputError, UnsupportedModuleError, one_line
from ..inference import device_of, evaluating
from .layers.constants import check_forward, has_rule, layer_norm
from .layers.layer import Layer, Shape
from .network import Concatenation, LayerChain, Multiple, Network, Node, Sum

ADVICE = (
    "Products, divisions and attention of inputs have none on all inputs. Put the operation into a module and register a "
    "rule for it with cheaplip.bounds.layers.layer_norm.register, or use the lower bound alone."
)

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


def trace(model: nn.Module, shape: Shape) -> Network:
    """The tree of a network whose leaves are layers with a rule.

    Args:
        model: the network, in evaluation mode as far as bounds are concerned.
        shape: of one input, without the batch dimension.

    Raises:
        UnsupportedModuleError: a forward pass that cannot be traced, a layer or an operation without a rule, by name.
        InputError: parameters that are not finite, or a network that does not take inputs of this shape.
    """
    with torch.no_grad(), evaluating(model):
        walk = _Walk(_graph(model), type(model).__name__)
        dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        # two samples: what mixes them up changes the first dimension
        try:
            result = walk.run(torch.zeros(2, *shape, dtype=dtype, device=device_of(model)))
        except InputError as error:  # the interpreter has added its own state to the message
            raise type(error)(error.expected, error.got, error.do) from None
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            got = f"inputs of shape {shape}: {str(error).partition(chr(10))[0]}"
            raise InputError("a network that takes these inputs", got, "Fit one to the other.") from None
    root = walk.nodes.get(walk.last)
    if root is None or not isinstance(result, Tensor):
        raise UnsupportedModuleError("a network that returns one tensor", type(result).__name__, "Return that tensor alone.")
    return Network(root, shape, tuple(result.shape[1:]))


def _graph(model: nn.Module) -> fx.GraphModule:
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


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        own = type(m).forward is nn.Sequential.forward or not type(m).__module__.startswith("torch.nn")
        return has_rule(m) or not own


class _Walk(fx.Interpreter):
    """Runs the graph on two samples and notes the tree of each value on the way."""

    def __init__(self, graph: fx.GraphModule, name: str) -> None:
        super().__init__(graph)
        self.nodes: dict[Any, Node] = {}
        self.last: Any = None
        self._name = name

    def run_node(self, n: Any) -> Any:
        if n.op == "call_module" and isinstance(n.args[0], fx.Node) and n.args[0] in self.nodes:
            self._check(n, self.fetch_attr(str(n.target)), tuple(self.env[n.args[0]].shape[1:]))
        result = super().run_node(n)
        node = self._node(n, result)
        if node is not None:
            if isinstance(result, Tensor) and (result.dim() < 2 or len(result) != 2):
                got = f"{self._described(n)} of shape {tuple(result.shape)}"
                raise UnsupportedModuleError("samples that stay apart", got, ADVICE)
            uses = [user for user in n.users if user.target not in ("size", "dim", getattr)]
            branches = len(uses) > 1 and (not isinstance(node, LayerChain) or node.layers)
            self.nodes[n] = LayerChain(source=node) if branches else node  # what follows a branch is a chain of its own
        return result

    def _node(self, n: Any, result: Any) -> Node | None:
        if n.op == "placeholder":
            return LayerChain()
        if n.op == "output":
            self.last = n.args[0]
            return None
        inputs = [self.nodes[node] for node in n.all_input_nodes if node in self.nodes]
        if not inputs or isinstance(result, (int, torch.Size)):
            return None  # parameters, and sizes of tensors
        args: list[Any] = [self.env.get(arg) if isinstance(arg, fx.Node) else arg for arg in n.args]
        if n.op == "call_module":
            layer = Layer(self.fetch_attr(str(n.target)), tuple(args[0].shape[1:]), tuple(result.shape[1:]))
            return _chain(inputs[0]).append(layer)
        return self._operation(n, args, inputs, result)

    def _described(self, n: Any) -> str:
        path = str(n.target) if n.op == "call_module" else next(reversed((n.meta.get("nn_module_stack") or {"": 0}).keys()))
        return repr(path.removeprefix("0.")) if path not in ("", "0") else self._name

    def _check(self, n: Any, module: nn.Module, shape: Shape) -> None:
        try:
            check_forward(module)
            layer_norm(module, shape)
        except UnsupportedModuleError as error:
            raise UnsupportedModuleError(error.expected, f"{error.got} at {self._described(n)}", error.do) from None

    def _operation(self, n: Any, args: list[Any], inputs: list[Node], result: Any) -> Node:
        kind = getattr(n.target, "__name__", n.target)
        moving = [arg for arg in n.args if isinstance(arg, fx.Node) and arg in self.nodes]
        env: dict[Any, Any] = self.env
        shapes = [tuple(env[arg].shape[1:]) for arg in moving]
        out = tuple(result.shape[1:]) if isinstance(result, Tensor) else None
        if out is None:
            pass
        elif n.target in RESHAPING or (n.target is functional.dropout and n.kwargs.get("training") is False):
            return _chain(inputs[0]).append(Layer(nn.Identity(), shapes[0], out))
        elif n.target in FUNCTIONS and len(inputs) == 1:
            options = {name: value for name, value in n.kwargs.items() if name != "inplace"}
            module = FUNCTIONS[n.target](*args[1:], **options)
            self._check(n, module, shapes[0])
            return _chain(inputs[0]).append(Layer(module, shapes[0], out))
        elif kind in ("add", "sub", "iadd", "isub") and not n.kwargs and all(shape == out for shape in shapes):
            if len(moving) == 1:
                return replace(_chain(inputs[0]), shifted=True)
            return Sum(tuple(self.nodes[arg] for arg in moving))
        elif kind in ("mul", "truediv", "neg") and len(moving) == 1 and (kind == "mul" or n.args[0] in self.nodes):
            factor = -1.0 if kind == "neg" else args[1] if n.args[0] in self.nodes else args[0]
            if isinstance(factor, (int, float)) and (factor or kind == "mul"):
                return Multiple(1 / factor if kind == "truediv" else factor, inputs[0])
        elif kind in ("cat", "concat") and all(part in self.nodes for part in n.args[0]):
            dim = args[1] if len(args) > 1 else n.kwargs.get("dim", 0)
            if dim % result.dim() != 0:  # not along the samples
                return Concatenation(tuple(self.nodes[part] for part in n.args[0]))
        raise UnsupportedModuleError("an operation with a known Lipschitz constant", f"{kind} at {self._described(n)}", ADVICE)


def _chain(node: Node) -> LayerChain:
    """The chain to continue: the node itself, or one that begins at it."""
    return node if isinstance(node, LayerChain) else LayerChain(source=node)
