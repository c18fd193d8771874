"""What a caller may give a public function: its annotations, held before anything is computed."""

from __future__ import annotations

import functools
import inspect
import numbers
import re
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any, ParamSpec, TypeVar, get_type_hints

import numpy as np
import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor

from .errors import InputError
from .records import plain_number

Given = ParamSpec("Given")
Returned = TypeVar("Returned")
LONGEST = 2**63 - 1
"""Of the integers that torch knows; a longer one counts as a float."""


def checked(function: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """Refuse arguments of other types than the annotations say, by name, with an `InputError`.

    Where a tensor may be given, a numpy array is one; numpy's numbers are numbers, and a list is a tuple. Unknown and missing
    names stay `TypeError`s: they are mistakes in the caller's code, which Python itself tells. What may be `ArrayLike` is left
    to the function.
    """
    signature = inspect.signature(function)

    @functools.cache
    def types() -> dict[str, tuple[str, TypeAdapter[Any]]]:
        config = ConfigDict(arbitrary_types_allowed=True, strict=True)
        hints, parameters = get_type_hints(function), signature.parameters.values()
        one = [
            p for p in parameters if p.name in hints and p.kind is not p.VAR_KEYWORD and "ArrayLike" not in str(p.annotation)
        ]
        return {p.name: (_words(hints[p.name]), TypeAdapter(_instances(hints[p.name]), config=config)) for p in one}

    @functools.wraps(function)
    def call(*given: Given.args, **named: Given.kwargs) -> Returned:
        bound = signature.bind(*given, **named)
        for name, (words, adapter) in types().items():
            if name not in bound.arguments:
                continue
            value = bound.arguments[name]
            bound.arguments[name] = plain = _plain(name, value, words)
            try:
                adapter.validate_python(plain)
            except ValidationError as error:
                raise InputError(f"{name} to be {words}", _shown(value), f"{error.errors()[0]['msg']}.") from None
        return function(*bound.args, **bound.kwargs)

    return call


def _instances(hint: Any) -> Any:
    """The type; of a record, pydantic takes the settings of strictness in a union alone."""
    return hint | _Nobody if is_dataclass(hint) else hint


class _Nobody:
    """Of which there is no instance."""


def _words(hint: Any) -> str:
    """The type without the modules of its parts."""
    return re.sub(r"\w[\w.]*\.(?=\w)", "", hint.__name__ if isinstance(hint, type) else str(hint))


def _plain(name: str, value: Any, words: str) -> Any:
    """The value with numpy's types, and lists, as the types that the annotation, in words, names."""
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple, torch.Size):
        return tuple(_plain(name, item, words) for item in value)
    if isinstance(value, np.ma.MaskedArray):
        raise InputError(f"{name} without a mask", "a masked array", "Fill or leave out the masked samples.")
    if isinstance(value, np.ndarray) and "Tensor" in words:
        return as_tensor(name, value)
    if isinstance(value, np.ndarray) and value.ndim <= 1:
        return tuple(value.tolist()) if value.ndim else value.item()
    value = plain_number(value)
    if isinstance(value, int) and abs(value) > LONGEST and "float" in words:
        try:
            return float(value)
        except OverflowError:
            raise InputError(f"{name} to be a number of at most 1e308", _shown(value), "Give a smaller one.") from None
    return value


def as_tensor(name: str, array: np.ndarray[Any, Any]) -> Tensor:
    """The array as a tensor: of floats in single precision unless they are, of integers in int64; `InputError` for others."""
    if array.dtype.kind == "f":
        return torch.tensor(array.astype(np.float32))
    if array.dtype.kind in "iu":
        return torch.tensor(array.astype(np.int64))
    raise InputError(f"{name} to be an array of numbers", f"one of {array.dtype}", "Convert it.")


def _shown(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} of {value.dtype}"
    text = repr(value) if isinstance(value, (str, bytes, numbers.Number, type(None), tuple, list)) else type(value).__name__
    return text if len(text) <= 80 else f"{text[:77]}..."
