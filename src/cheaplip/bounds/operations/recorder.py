"""What a rule for a function may ask of the recording: which values tensors hold, and to note new ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ..layers.linear_maps import Nonnegative, Reshape, keeps_samples_apart
from ..layers.region import Shape
from ..network import Value

ADVICE = (
    "Put the operation into a module and register a rule for it with cheaplip.bounds.layers.layer_norm.register, or use the "
    "lower bound alone."
)


@dataclass(frozen=True)
class Stacked:
    """Values one above the other, with the samples in the second axis: the last states of recurrent layers."""

    values: tuple[Value, ...]


SAMPLES_FIRST = (
    "Keep samples in the first axis. Recurrent layers and attention do so with batch_first=True, which needs no other weights."
)


class Recorder(ABC):
    """The recording of one forward pass."""

    pairs: dict[tuple[Value, int | Value], Value]
    """Of a value and an axis of length two, or of two values: both entries in order."""

    @abstractmethod
    def record(self, tensor: Tensor, value: Value | Stacked | None) -> None:
        """Note that the tensor holds this value, or a constant."""

    @abstractmethod
    def find(self, tensor: Tensor) -> Value | Stacked | None:
        """What it holds; None for a constant."""

    @abstractmethod
    def layer(self, module: nn.Module, value: Value, out: Shape) -> Value:
        """The value of a layer."""

    @abstractmethod
    def refuse(self, expected: str, got: str, do: str = ADVICE) -> NoReturn:
        """Raise, with the place."""

    @abstractmethod
    def watched(self) -> AbstractContextManager[None]:
        """What is computed inside is of the network."""

    @abstractmethod
    def unwatched(self) -> AbstractContextManager[None]:
        """What is computed inside is not of the network."""

    @property
    @abstractmethod
    def where(self) -> str:
        """The module that is running."""

    def chained(self, value: Value, *modules: nn.Module) -> Value:
        """The value after these, one after another, all of which keep its shape."""
        for module in modules:
            value = self.layer(module, value, value.shape)
        return value

    def linear(
        self,
        function: Callable[[Tensor], Any],
        value: Value,
        *,
        channelwise: bool = False,
        piece: tuple[int, int, int] | None = None,
    ) -> Value:
        """The value of a function that is linear without negative coefficients; it may mix no samples."""
        if not keeps_samples_apart(function, value.shape):
            self.refuse("samples that stay apart", "a function that mixes or moves them", SAMPLES_FIRST)
        zeros = torch.zeros(2, *value.shape, dtype=torch.float64)
        return self.layer(Nonnegative(function, channelwise=channelwise, piece=piece), value, tuple(function(zeros).shape[1:]))

    def expanded(self, value: Value, shape: Shape) -> Value:
        """Repeated to this shape by the rules of broadcasting."""
        if value.shape == shape:
            return value
        if len(value.shape) < len(shape):  # the sample axis is the first one of both
            self.refuse("values of as many axes", f"shapes {value.shape} and {shape}")
        return self.linear(lambda x: x.expand(len(x), *shape), value)

    def constant(self, tensor: Tensor, dims: int) -> Tensor:
        """Of a tensor that meets values `(2, *shape)` by broadcasting, what each sample gets."""
        tensor = tensor.detach().cpu()
        if tensor.dim() < dims or len(tensor) == 1:
            return tensor[0] if tensor.dim() == dims else tensor
        if len(tensor) != 2 or not tensor[0].equal(tensor[1]):
            self.refuse("samples that are treated alike", "a constant that differs between samples")
        return tensor[0]

    def reshaped(self, value: Value, out: Shape) -> Value:
        """The same entries in the same order."""
        return value if value.shape == out else self.layer(Reshape(out), value, out)


def tensors_in(values: Any) -> Iterator[Tensor]:
    """All tensors in lists, tuples and dictionaries."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)
        elif isinstance(value, dict):
            yield from tensors_in(value.values())
