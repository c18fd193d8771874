"""From a module to the graph of `network`, by running it once: which layers it has, in which order and branches.

The forward pass runs as it is, on two samples of zeros, under a mode that sees every function of torch. Each function of
values of the network needs a rule in `operations`; a module with a rule of its own is one layer. What would read a number
(`if x.sum() > 0`), a value changed in place after another was made of it, and a tensor of unknown origin are refused, so
that the one run speaks for all inputs.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.overrides import TorchFunctionMode

from ..domains import Domain
from ..errors import InputError, UnsupportedModuleError, one_line
from ..inference import device_of, evaluating
from .layers.constants import Positive, exact_copy, layer_norm, rule_type
from .layers.convolutions import Convolution
from .layers.images import image
from .layers.layer import Layer, Shape
from .layers.linear_maps import keeps_samples_apart
from .layers.normalization import InstanceNorm
from .layers.ordering import MaxPool
from .layers.region import of_domain
from .network import Applied, Network, Value
from .operations.decompositions import MODULE_DECOMPOSITIONS
from .operations.recorder import ADVICE, Recorder, Stacked, tensors_in
from .operations.rules import apply_rule, reads_no_number

WEIGHT_HOOKS = ("torch.nn.utils.",)
"""Hooks from there make the weight before a forward pass; others may change inputs."""


def trace(model: nn.Module, shape: Shape, domain: Domain | None = None) -> Network:
    """The graph of a network whose layers have rules, and where its values lie.

    Args:
        model: the network, in evaluation mode as far as bounds are concerned.
        shape: of one input, without the batch dimension.
        domain: where the input lies; None: anywhere.

    Raises:
        UnsupportedModuleError: a layer or an operation without a rule, by name and place.
        InputError: parameters that are not finite, or a network that does not take inputs of this shape.
    """
    model = getattr(model, "_orig_mod", model)  # torch.compile hides what is computed
    if not all(values.isfinite().all() for values in itertools.chain(model.parameters(), model.buffers())):
        raise InputError("finite parameters", "nan or inf", "Training may have diverged: use an earlier checkpoint.")
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    x = torch.zeros(2, *shape, dtype=dtype, device=device_of(model))
    recording = _Recording(model, x, Value(of_domain(domain, shape)))
    with torch.no_grad(), evaluating(model), recording.watching():
        try:
            result = model(x)
        except InputError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            got = f"inputs of shape {shape}: {str(error).partition(chr(10))[0]}"
            raise InputError("a network that takes these inputs", got, "Fit one to the other.") from None
        except Exception as error:  # the user's code
            got = f"{type(model).__name__}: {one_line(error)}"
            raise UnsupportedModuleError("a network whose forward pass runs", got, "Use the lower bound alone.") from None
    if not isinstance(result, Tensor):
        raise UnsupportedModuleError("a network that returns one tensor", type(result).__name__, "Return that tensor alone.")
    return Network(recording.value(result), shape)


@dataclass(frozen=True)
class _Record:
    tensor: Tensor  # held, so that no other gets its id
    version: int  # of its data, when it was recorded
    value: Value | Stacked | None  # None for constants


class _Recording(TorchFunctionMode, Recorder):
    """Notes the value of each tensor on the way."""

    def __init__(self, model: nn.Module, x: Tensor, value: Value) -> None:
        super().__init__()
        self._records: dict[int, _Record] = {}
        self._names = {id(module): name for name, module in model.named_modules()}
        self._kind = type(model).__name__
        self._path: list[str] = []
        self._leaf: tuple[nn.Module, Value | Stacked | None] | None = None
        self._busy = False
        self.pairs = {}
        for module in model.modules():
            for one in tensors_in(list(vars(module).values())):
                self.record(one, None)
        for one in itertools.chain(model.parameters(), model.buffers()):
            self.record(one, None)
        self.record(x, value)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Sees functions and modules inside."""
        before = hooks.register_module_forward_pre_hook(self._enter)
        after = hooks.register_module_forward_hook(self._leave, with_kwargs=True)
        try:
            with self:
                yield
        finally:
            before.remove()
            after.remove()
            hooks._global_forward_hooks_with_kwargs.pop(after.id, None)  # torch forgets it, and warns of it in torch.compile

    def record(self, tensor: Tensor, value: Value | Stacked | None) -> None:
        """Note that the tensor holds this value, or a constant."""
        if isinstance(value, Value) and (tensor.dim() < 1 or len(tensor) != 2 or tuple(tensor.shape[1:]) != value.shape):
            self.refuse("samples that stay apart", f"one of shape {tuple(tensor.shape)}")
        self._records[id(tensor)] = _Record(tensor, tensor._version, value)

    def value(self, tensor: Tensor) -> Value:
        """What it holds; constants are refused."""
        value = self.find(tensor)
        if not isinstance(value, Value):
            self.refuse("a value that depends on the input, a sample first", "a constant or another layout")
        return value

    def find(self, tensor: Tensor) -> Value | Stacked | None:
        """What it holds; None for a constant."""
        known = self._records.get(id(tensor))
        if known is None:
            do = "Register constants as buffers, and compute values with functions of torch that have a rule."
            self.refuse("tensors made of the input, or constants", "one of unknown origin", do)
        if known.version != tensor._version:
            do = "Write it without the change in place."
            self.refuse("values that stay as they were", "one that was changed in place later", do)
        return known.value

    def layer(self, module: nn.Module, value: Value, out: Shape) -> Value:
        """The value of a layer; settings without a rule are refused."""
        self._check(module, value.shape)
        layer = Layer(module, value.shape, out, value.region)
        return Applied(image(layer), (value,), layer=layer)

    def _check(self, module: nn.Module, shape: Shape) -> None:
        kind = rule_type(module)
        axes = re.search(r"(\d)d$", "" if kind is None else kind.__name__)
        channels = isinstance(module, Convolution | MaxPool | InstanceNorm | nn.Softmax2d)
        if (axes and channels and len(shape) != int(axes[1]) + 1) or (isinstance(module, nn.Linear) and not shape):
            self.refuse("samples with an axis of channels", f"one of shape {shape} for {type(module).__name__}", "Add one.")
        if isinstance(module, Positive) and not keeps_samples_apart(exact_copy(module), shape):
            self.refuse("samples that stay apart", f"{type(module).__name__} of samples of shape {shape}")
        if isinstance(module, nn.Linear | Convolution):  # these have a constant whatever their settings, and a costly one
            return
        try:
            layer_norm(module, shape)
        except UnsupportedModuleError as error:
            raise UnsupportedModuleError(error.expected, f"{error.got} at {self.where}", error.do) from None

    @property
    def where(self) -> str:
        """The module that is running."""
        return repr(self._path[-1]) if self._path and self._path[-1] else self._kind

    def refuse(self, expected: str, got: str, do: str = ADVICE) -> NoReturn:
        """Raise, with the place."""
        raise UnsupportedModuleError(expected, f"{got} at {self.where}", do)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run it, and note what its results hold."""
        kwargs = kwargs or {}
        if self._leaf is not None or self._busy or reads_no_number(func):
            return func(*args, **kwargs)
        given = list(tensors_in([args, kwargs]))
        if any(self.find(tensor) for tensor in given):
            return apply_rule(self, func, args, kwargs)
        result = func(*args, **kwargs)
        for tensor in (*given, *tensors_in([result])):
            self.record(tensor, None)
        return result

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """What is computed inside is of the network."""
        with self:
            yield

    @contextlib.contextmanager
    def unwatched(self) -> Iterator[None]:
        """What is computed inside is not of the network."""
        self._busy, before = True, self._busy
        try:
            yield
        finally:
            self._busy = before

    def _enter(self, module: nn.Module, args: Any) -> None:
        if self._leaf is not None or self._busy:
            return
        self._path.append(self._names.get(id(module), type(module).__name__))
        foreign = [hook for hook in module._forward_pre_hooks.values() if not type(hook).__module__.startswith(WEIGHT_HOOKS)]
        if foreign or not args or not isinstance(args[0], Tensor) or not self.find(args[0]):
            return
        if type(module) in MODULE_DECOMPOSITIONS or (rule_type(module) is not None and len(args) == 1):
            self._leaf = (module, self.find(args[0]))

    def _leave(self, module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        if self._busy or (self._leaf is not None and self._leaf[0] is not module):
            return
        if self._leaf is not None:
            value, self._leaf = self._leaf[1], None
            if type(module) in MODULE_DECOMPOSITIONS:
                self._note_written_out(result, MODULE_DECOMPOSITIONS[type(module)](module, *args, **kwargs))
            else:
                with self.unwatched():
                    if not isinstance(value, Value):
                        self.refuse("samples in the first axis", "the states of all layers", "Take one of them.")
                    self._check(module, value.shape)
                    if not isinstance(result, Tensor):
                        self.refuse("a layer that returns one tensor", type(module).__name__)
                    self.record(result, self.layer(module, value, tuple(result.shape[1:])))
        self._path.pop()

    def _note_written_out(self, result: Any, written: tuple[Tensor, Any]) -> None:
        """The results of a module from those of the functions that it is written out in."""
        output, states = written
        self.record(result[0], self.find(output))
        if states is not None:
            values = [self.value(state) for state in states]
            kinds = result[1] if isinstance(result[1], tuple) else (result[1],)
            for i, kind in enumerate(kinds):
                own = values[i * len(kind) : (i + 1) * len(kind)]
                self._records[id(kind)] = _Record(kind, kind._version, Stacked(tuple(own)))
