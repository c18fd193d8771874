"""Functions of several values: sums, concatenations and products, and what is made of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.linear_maps import Nonnegative, Scaling, Shift
from ..layers.region import Region, limited
from ..network import Applied, Concatenation, Product, Sum, Value
from ..rounding import PRODUCTS
from .call import Call

ENTRIES = 2**24
"""A matrix from unit vectors has no more."""


def _add(sign: float, call: Call) -> Value:
    """A + sign * alpha * b."""
    first, second = call.args[:2] if len(call.args) > 1 else (call.args[0], call.kwargs["other"])
    return _sum(call, first, second, sign * call.kwargs.get("alpha", 1))


def _reversed_subtraction(call: Call) -> Value:
    if call.kwargs:
        call.refuse()
    return _sum(call, call.args[1], call.args[0], -1.0)


def _sum(call: Call, first: Any, second: Any, factor: float) -> Value:
    terms = []
    for part, times in ((first, 1.0), (second, factor)):
        value = call.value(part)
        if value is None:
            continue
        value = call.recorder.expanded(value, call.out)
        terms.append(value if times == 1 else _times(call, value, times))
    if len(terms) == 2:
        a, b = (term.region for term in terms)
        region = limited(a.low + b.low, a.high + b.high, a.centre + b.centre, a.reach + b.reach)
        return Sum(region, tuple(terms))
    constant, times = (second, factor) if call.value(first) is not None else (first, 1.0)
    shift = torch.as_tensor(constant, dtype=torch.float64) if not isinstance(constant, Tensor) else constant
    return call.recorder.chained(terms[0], Shift(times * call.recorder.constant(shift, len(call.out) + 1).double()))


def _times(call: Call, value: Value, factor: float | Tensor) -> Value:
    return call.recorder.chained(value, Scaling(torch.as_tensor(factor, dtype=torch.float64)))


def _multiply(call: Call) -> Value:
    first, second = call.args[:2] if len(call.args) > 1 else (call.args[0], call.kwargs["other"])
    values = [call.value(part) for part in (first, second)]
    if values[0] is not None and values[1] is not None:
        a, b = (call.recorder.expanded(value, call.out) for value in values if value is not None)
        return product(call, a, b)
    value, constant = (values[0], second) if values[0] is not None else (values[1], first)
    assert value is not None
    factor = constant if not isinstance(constant, Tensor) else call.recorder.constant(constant, len(call.out) + 1)
    return _times(call, call.recorder.expanded(value, call.out), factor)


def product(call: Call, a: Value, b: Value) -> Value:
    """Entry by entry, of two values of one shape."""
    x, y = a.region, b.region
    ends = torch.stack([x.low * y.low, x.low * y.high, x.high * y.low, x.high * y.high])
    low, high = ends.amin(0), ends.amax(0)  # nan, of 0 times infinity, spreads and becomes infinite
    sizes = (float(x.size().max()), float(y.size().max()))
    reach = sizes[1] * x.reach + float(x.centre.abs().max()) * y.reach
    return Product(limited(low, high, x.centre * y.centre, _number(reach)), (a, b), sizes=sizes, where=call.recorder.where)


def _divide(call: Call) -> Value:
    first, second = call.args[:2]
    value = call.value(first)
    if value is None or call.value(second) is not None or call.kwargs.get("rounding_mode") is not None:
        return call.refuse("by a value of the network")
    divisor = torch.as_tensor(second, dtype=torch.float64)
    divisor = call.recorder.constant(divisor, len(call.out) + 1) if isinstance(second, Tensor) else divisor
    if not (divisor != 0).all():
        call.refuse("by 0")
    return _times(call, call.recorder.expanded(value, call.out), 1 / divisor.double())


def _negate(call: Call) -> Value:
    return _times(call, call.only(), -1.0)


def _power(call: Call) -> Value:
    value, exponent = call.value(call.args[0]), call.argument(1, "exponent", 2)
    if value is None or exponent not in (1, 2, 3):
        return call.refuse()
    result = value
    for _ in range(int(exponent) - 1):
        result = product(call, result, value)
    return result


def _concatenate(call: Call) -> Value:
    parts, dim = call.argument(0, "tensors"), call.argument(1, "dim", call.kwargs.get("axis", 0))
    dim = dim % call.result.dim()
    values = [call.value(part) for part in parts]
    if dim == 0 or "out" in call.kwargs:
        call.recorder.refuse("samples that stay apart", call.name)
    if call.name == "stack":
        shape = (*call.out[: dim - 1], 1, *call.out[dim:])
        values = [None if value is None else call.recorder.reshaped(value, shape) for value in values]
        parts = [part.unsqueeze(dim) for part in parts]
    moving = tuple(value for value in values if value is not None)
    if all(value is moving[0] for value in moving) and len(moving) == len(parts) > 1:
        return call.recorder.linear(lambda x: torch.cat([x] * len(parts), dim), moving[0])
    whole = _put_together(moving, dim)
    if whole is not None and len(moving) == len(parts):
        return whole
    regions = [
        _constant_region(call, part) if value is None else value.region for part, value in zip(parts, values, strict=True)
    ]
    return side_by_side(moving, dim - 1, regions)


def side_by_side(parts: Sequence[Value], dim: int, regions: Sequence[Region] | None = None) -> Value:
    """Along this axis of a sample.

    Args:
        parts: the values.
        dim: the axis.
        regions: of all that lies there, where constants lie between the values.
    """
    regions = [part.region for part in parts] if regions is None else regions
    low, high, centre = (
        torch.cat([getattr(region, name) for region in regions], dim + 1) for name in ("low", "high", "centre")
    )
    region = Region(low, high, centre, math.hypot(*(region.reach for region in regions)) * (1 + PRODUCTS))
    ends = list(itertools.accumulate((one.low.shape[dim + 1] for one in regions), initial=0))
    moving = {id(part.region) for part in parts}
    starts = [start for start, one in zip(ends, regions, strict=False) if id(one) in moving]
    return Concatenation(region, tuple(parts), dim=dim, starts=tuple(starts))


def _put_together(parts: tuple[Value, ...], dim: int) -> Value | None:
    """The value of which these are all pieces, in order."""
    modules = [part.layer.module for part in parts if isinstance(part, Applied)]
    pieces = [module.piece for module in modules if isinstance(module, Nonnegative)]
    same = len(pieces) == len(parts) and all(part.inputs[0] is parts[0].inputs[0] for part in parts)
    return parts[0].inputs[0] if same and pieces == [(dim, i, len(parts)) for i in range(len(parts))] else None


def _constant_region(call: Call, part: Tensor) -> Region:
    constant = call.recorder.constant(part, part.dim()).double()[None]
    return Region(constant, constant, constant, 0.0)


def _matrix_product(call: Call) -> Value:
    first, second = call.args[:2] if call.name != "rmatmul" else (call.args[1], call.args[0])
    a, b = call.value(first), call.value(second)
    if a is not None and b is None and second.dim() == 2:  # x W
        return _dense(call, a, second.detach().mT)
    if a is None or b is None or len(a.shape) < 2 or len(b.shape) != len(a.shape) or a.shape[:-2] != b.shape[:-2]:
        return call.refuse("of these shapes")
    x, y = a.region, b.region
    sizes = (_spectral(x), _spectral(y))
    centre = x.centre @ y.centre
    if x.bounded and y.bounded:
        (mx, rx), (my, ry) = x.middle(), y.middle()
        half = mx.abs() @ ry + rx @ my.abs() + rx @ ry
        low, high = mx @ my - half, mx @ my + half
    else:
        low, high = torch.full_like(centre, -math.inf), torch.full_like(centre, math.inf)
    reach = sizes[1] * x.reach + float(torch.linalg.matrix_norm(x.centre.nan_to_num(), 2).max()) * y.reach
    region = limited(low, high, centre, _number(reach))
    return Product(region, (a, b), sizes=sizes, where=call.recorder.where, matrices=True)


def _einsum(call: Call) -> Value:
    """Of one value and constants, that is linear: its matrix from unit vectors."""
    equation, *operands = call.args if len(call.args) > 2 or isinstance(call.args[1], Tensor) else (call.args[0], *call.args[1])
    moving = [i for i, one in enumerate(operands) if call.value(one) is not None]
    axes, arrow, out = equation.replace(" ", "").partition("->")
    names = axes.split(",")
    if len(moving) != 1 or not arrow or "." in equation:
        return call.refuse("but of one value and constants, with an explicit result")
    place = moving[0]
    sample = names[place][:1]
    if out[:1] != sample or axes.count(sample) != 1:
        call.recorder.refuse("samples that stay apart", f"einsum of {equation}")
    value = call.value(operands[place])
    assert value is not None
    n, size = math.prod(value.shape), math.prod(call.out)
    if n * size > ENTRIES:
        return call.refuse("of so many entries")
    constants = [one.detach().cpu().double() if isinstance(one, Tensor) else one for one in operands]
    constants[place] = torch.eye(n, dtype=torch.float64).reshape(n, *value.shape)
    weight = torch.einsum(equation, *constants).flatten(1).T
    layer = nn.Linear(n, size, bias=False, dtype=torch.float64)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return call.recorder.reshaped(call.recorder.layer(layer, call.recorder.reshaped(value, (n,)), (size,)), call.out)


def _dense(call: Call, value: Value, weight: Tensor) -> Value:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return call.recorder.layer(layer, value, call.out)


def _spectral(region: Region) -> float:
    """What the spectral norm of each of the matrices is at most: by Schur's test, or that of the centre and the reach."""
    size = region.size()
    schur = (size.sum(-1).amax(-1) * size.sum(-2).amax(-1)).sqrt().max()
    frobenius = torch.linalg.matrix_norm(size).max()
    near = float(torch.linalg.matrix_norm(region.centre.nan_to_num(), 2).max()) + region.reach
    return _number(min(float(schur.nan_to_num(math.inf)), float(frobenius.nan_to_num(math.inf)), near) * (1 + PRODUCTS))


def _number(value: float) -> float:
    """Infinite where it is none: 0 times infinity."""
    return math.inf if math.isnan(value) else value


def _masked_fill(call: Call) -> Value:
    mask, fill = call.args[1], call.args[2]
    value = call.only()
    return _chosen(call, call.recorder.constant(~mask, len(call.out) + 1), value, fill)


def _where(call: Call) -> Value:
    mask, first, second = call.args
    mask = call.recorder.constant(mask, len(call.out) + 1)
    a, b = call.value(first), call.value(second)
    if call.value(call.args[0]) is not None or (a is not None and b is not None):
        return call.refuse("of two values")
    value = a if a is not None else b
    assert value is not None
    return _chosen(call, mask if a is not None else ~mask, value, second if a is not None else first)


def _chosen(call: Call, kept: Tensor, value: Value, fill: Any) -> Value:
    """The value where it is kept, a constant elsewhere."""
    fill = call.recorder.constant(torch.as_tensor(fill, dtype=torch.float64), len(call.out) + 1)
    value = _times(call, call.recorder.expanded(value, call.out), kept.double())
    return call.recorder.chained(value, Shift(torch.where(kept, torch.zeros((), dtype=torch.float64), fill.double())))


COMBINING: dict[str, Callable[[Call], Value | list[Value]]] = {
    **dict.fromkeys(("add", "radd", "iadd"), partial(_add, 1.0)),
    **dict.fromkeys(("sub", "isub", "subtract"), partial(_add, -1.0)),
    "rsub": _reversed_subtraction,
    **dict.fromkeys(("mul", "rmul", "imul", "multiply"), _multiply),
    **dict.fromkeys(("div", "truediv", "itruediv", "true_divide", "divide"), _divide),
    **dict.fromkeys(("neg", "negative"), _negate),
    **dict.fromkeys(("pow", "ipow", "square"), _power),
    **dict.fromkeys(("cat", "concat", "concatenate", "stack"), _concatenate),
    **dict.fromkeys(("matmul", "bmm", "mm", "rmatmul"), _matrix_product),
    "einsum": _einsum,
    "masked_fill": _masked_fill,
    "where": _where,
}
