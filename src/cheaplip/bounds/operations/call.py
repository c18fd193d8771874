"""One call of a function of torch, as its rule sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

from torch import Tensor

from ..network import Value
from .recorder import Recorder, Stacked, tensors_in

EXPECTED = "an operation with a known Lipschitz constant"

OPERATORS = {"abs", "add", "getitem", "len", "matmul", "mul", "neg", "pow", "sub", "truediv"}
OPERATORS |= {f"{side}{name}" for name in ("add", "sub", "mul", "truediv", "matmul", "pow") for side in "ri"}


def name_of(func: Any) -> str:
    """`add` for `torch.add`, `x.add_` and `x + y`, `iadd` for `x += y`; of an attribute its own name."""
    name = str(func.__self__.__name__ if func.__name__ == "__get__" else func.__name__)
    if name.startswith("__"):
        return name.strip("_") if name.strip("_") in OPERATORS else name  # `__float__` is not `float`
    return name.rstrip("_")


@dataclass(frozen=True)
class Call:
    """A function, its arguments, what they held before and what came out."""

    recorder: Recorder
    name: str
    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    before: dict[int, Value | Stacked]
    result: Any

    def value(self, tensor: Any) -> Value | None:
        """What an argument held; None for a constant and for what is no tensor."""
        value = self.before.get(id(tensor)) if isinstance(tensor, Tensor) else None
        if isinstance(value, Stacked):
            self.recorder.refuse("samples in the first axis", f"{self.name} of the states of all layers", "Take one of them.")
        return value

    @property
    def stacked(self) -> Stacked | None:
        """What the first argument held, where it is that."""
        value = self.before.get(id(self.args[0])) if self.args else None
        return value if isinstance(value, Stacked) else None

    def only(self) -> Value:
        """The value of the first argument; no other may depend on the input."""
        value = self.value(self.args[0]) if self.args else None
        if value is None or any(self.value(one) for one in tensors_in([self.args[1:], self.kwargs])):
            self.recorder.refuse(EXPECTED, f"{self.name} of these values")
        return value

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """By place or by name."""
        return self.kwargs.get(name, self.args[place] if len(self.args) > place else default)

    @property
    def out(self) -> tuple[int, ...]:
        """Shape of a sample of the result, or of its first part."""
        first = self.result if isinstance(self.result, Tensor) else self.result[0]
        return tuple(first.shape[1:])

    def refuse(self, what: str = "with these arguments") -> NoReturn:
        """Raise, with the function's name."""
        self.recorder.refuse(EXPECTED, f"{self.name} {what}".strip())
