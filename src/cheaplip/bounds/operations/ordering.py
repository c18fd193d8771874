"""Functions that order entries: sorting, the largest and the smallest, along an axis or of two values."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..layers.entrywise import Partly
from ..layers.linear_maps import Rotation, Shift, keeps_samples_apart
from ..layers.ordering import Ordering
from ..network import Value
from .call import Call
from .combining import side_by_side

LARGEST, SMALLEST = {"max", "amax", "maximum", "fmax"}, {"min", "amin", "minimum", "fmin"}


def _ordered(call: Call) -> Value | list[Value]:
    if len(call.args) > 1 and isinstance(call.args[1], Tensor):
        return _of_two(call)
    value, several = call.only(), not isinstance(call.result, Tensor)

    def function(x: Tensor) -> Tensor:
        out = call.func(x, *call.args[1:], **call.kwargs)
        found: Tensor = out[0] if several else out
        return found

    if not keeps_samples_apart(function, value.shape):
        call.recorder.refuse("samples that stay apart", call.name)
    found = _of_neighbours(call, value)
    if found is None:
        found = call.recorder.layer(Ordering(function), value, call.out)
    return [found] if several else found


def _of_neighbours(call: Call, value: Value) -> Value | None:
    """Along an axis of length two, where all is linear but the size of the difference; None along others."""
    dim = call.argument(1, "dim", -1 if call.name == "sort" else None)
    if not isinstance(dim, int):
        return None
    dim = dim % (len(value.shape) + 1)
    if value.shape[dim - 1] != 2 or call.name not in {"sort"} | LARGEST | SMALLEST:
        return None
    ordered = _pairs(call, value, dim)  # the smaller, the larger
    if call.name == "sort":
        return call.recorder.linear(lambda x: x.flip(dim), ordered) if call.argument(2, "descending", False) else ordered
    index = 1 if call.name in LARGEST else 0
    piece = call.recorder.linear(lambda x: x.narrow(dim, index, 1), ordered, piece=(dim, index, 2))
    return piece if call.argument(2, "keepdim", False) else call.recorder.reshaped(piece, call.out)


def _pairs(call: Call, value: Value, dim: int) -> Value:
    """(min, max) of neighbours; the same value for the same neighbours, however often it is asked for."""
    key = (value, dim)
    if key not in call.recorder.pairs:
        second = torch.zeros(2, dtype=torch.bool)
        second[1] = True
        mask = second.reshape([2 if i == dim else 1 for i in range(1, len(value.shape) + 1)]).expand(value.shape)
        turned = call.recorder.chained(value, Rotation(dim), Partly(nn.LeakyReLU(-1.0), mask), Rotation(dim))
        # ((a + b) + |a - b|) / 2 first
        call.recorder.pairs[key] = call.recorder.linear(lambda x: x.flip(dim), turned)
    return call.recorder.pairs[key]


def _of_two(call: Call) -> Value:
    """The larger or the smaller of two values, entry by entry; one of them may be a constant."""
    sides = [call.value(part) for part in call.args[:2]]
    if sides[0] is not None and sides[1] is not None:
        key = (sides[0], sides[1])
        if key not in call.recorder.pairs:
            two = [call.recorder.reshaped(call.recorder.expanded(side, call.out), (1, *call.out)) for side in sides if side]
            call.recorder.pairs[key] = _pairs(call, side_by_side(two, 0), 1)
        ordered = call.recorder.pairs[key]
        index = 1 if call.name in LARGEST else 0
        return call.recorder.reshaped(call.recorder.linear(lambda x: x.narrow(1, index, 1), ordered), call.out)
    value, constant = (sides[0], call.args[1]) if sides[0] is not None else (sides[1], call.args[0])
    assert value is not None
    shift = call.recorder.constant(constant, len(call.out) + 1).double()
    act = nn.ReLU() if call.name in LARGEST else nn.Hardtanh(-torch.inf, 0.0)
    return call.recorder.chained(call.recorder.expanded(value, call.out), Shift(-shift), act, Shift(shift))


ORDERING: dict[str, Callable[[Call], Value | list[Value]]] = dict.fromkeys(
    {"sort", "msort", "topk", "logsumexp"} | LARGEST | SMALLEST, _ordered
)
