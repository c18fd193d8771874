"""The rules for functions of torch, by name: in place or not, as a method, an operator or a function."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from ..network import Value
from .bicubic import interpolated
from .call import Call, name_of
from .combining import COMBINING
from .decompositions import DECOMPOSITIONS
from .modules import MODULES
from .ordering import ORDERING
from .recorder import Recorder, tensors_in

METADATA = {"size", "dim", "ndimension", "numel", "nelement", "stride", "is_contiguous", "is_floating_point", "is_complex"}
METADATA |= {"shape", "dtype", "device", "ndim", "is_cuda", "layout", "requires_grad", "is_sparse", "is_nested", "len"}
METADATA |= {"is_leaf", "grad_fn", "names", "_version", "is_quantized", "is_meta", "is_mps", "is_same_size", "get_device"}
METADATA |= {"_set_grad_enabled", "storage_offset", "element_size", "is_cpu", "is_inference", "itemsize", "is_mkldnn"}
"""What asks for no entry of a tensor."""

RESHAPES = {"view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as", "ravel"}
CASTS = {"contiguous", "clone", "detach", "to", "float", "double", "type_as", "cpu", "cuda"}
"""The same numbers."""
DROPOUTS = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "feature_dropout"}
CHANNELWISE = {"avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"}
CHANNELWISE |= {"interpolate", "pad"}
LINEAR = {"permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "adjoint", "t", "T", "mT", "H", "mH"}
LINEAR |= {"chunk", "split", "split_with_sizes", "tensor_split", "unbind", "getitem", "narrow", "select", "index_select"}
LINEAR |= {"expand", "expand_as", "repeat", "tile", "repeat_interleave", "roll", "flip", "rot90", "gather", "take_along_dim"}
LINEAR |= {"mean", "sum", "cumsum", "unfold", "fold", "diagonal", "tril", "triu", "broadcast_to", "fliplr", "flipud"}
LINEAR |= {"pixel_shuffle", "pixel_unshuffle", "channel_shuffle"} | CHANNELWISE
"""Linear without negative coefficients."""

MAKERS = {"new_zeros", "new_ones", "new_full", "new_empty", "zeros_like", "ones_like", "full_like", "empty_like"}
"""What takes only the shape and the type of a value."""

Rule = Callable[[Call], Value | list[Value] | None]


def apply_rule(recorder: Recorder, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run a function of values and constants by its rule, and note what its results hold.

    Raises:
        UnsupportedModuleError: no rule for it, or not for these arguments.
    """
    name = name_of(func)
    if name in DECOMPOSITIONS:
        with recorder.watched():
            return DECOMPOSITIONS[name](*args, **kwargs)
    with recorder.unwatched():
        given = {id(tensor): recorder.find(tensor) for tensor in tensors_in([args, kwargs])}
        before = {key: value for key, value in given.items() if value is not None}
        rule = RULES.get(name)
        call = Call(recorder, name, func, args, kwargs, before, None)
        if rule is None or kwargs.get("out") is not None:
            return call.refuse("")
        result = func(*args, **kwargs)
        values = rule(Call(recorder, name, func, args, kwargs, before, result))
        if isinstance(values, list):  # of a tuple; what follows, such as indices, must not be used
            for one, value in zip(result, values, strict=False):
                recorder.record(one, value)
        else:
            recorder.record(result, values)
        return result


def reads_no_number(func: Any) -> bool:
    """Whether it asks for no entry of a tensor: shapes, types, devices."""
    return name_of(func) in METADATA


def _linear(call: Call) -> Value | list[Value]:
    if call.stacked is not None:
        if call.name != "getitem" or not isinstance(call.args[1], int):
            call.refuse("of the states of all layers")
        return call.stacked.values[call.args[1]]
    value = call.only()
    first = call.args[1] if call.name == "getitem" else None
    chosen = isinstance(first[0] if isinstance(first, tuple) else first, Tensor | list)
    own = [one for one in tensors_in([call.args[1:], call.kwargs]) if one.dim() and len(one) == 2 and not one[0].equal(one[1])]
    if chosen or (call.name in ("gather", "take_along_dim") and own):
        call.recorder.refuse("samples that are treated alike", f"{call.name} by an index of each sample")
    if call.name == "interpolate" and call.argument(3, "mode") == "bicubic":
        return interpolated(call)
    rest = [one.cpu() if isinstance(one, Tensor) else one for one in call.args[1:]]
    named = {key: one.cpu() if isinstance(one, Tensor) else one for key, one in call.kwargs.items() if key != "dtype"}

    def function(x: Tensor) -> Any:
        return call.func(x, *rest, **named)

    if isinstance(call.result, Tensor):
        return call.recorder.linear(function, value, channelwise=call.name in CHANNELWISE)
    return [call.recorder.linear(partial(_piece, function, i), value) for i in range(len(call.result))]


def _piece(function: Callable[[Tensor], Any], index: int, x: Tensor) -> Tensor:
    piece: Tensor = function(x)[index]
    return piece


def _reshape(call: Call) -> Value:
    value = call.value(call.args[0])
    if value is None or call.result.dim() == 0 or len(call.result) != 2:
        return call.recorder.refuse("samples that stay apart", f"a value of shape {tuple(call.result.shape)}")
    return call.recorder.reshaped(value, call.out)


def _cast(call: Call) -> Value | None:
    if not isinstance(call.result, Tensor) or not call.result.is_floating_point():
        call.refuse("to whole numbers")
    return call.value(call.args[0])


def _made(call: Call) -> None:
    if any(call.value(one) for one in tensors_in([call.args[1:], call.kwargs])):
        call.refuse("of these values")


def _dropout(call: Call) -> Value:
    if call.argument(2, "train", call.kwargs.get("training", True)):
        call.refuse("that stays on in evaluation")
    return call.only()


RULES: dict[str, Rule] = {
    **dict.fromkeys(LINEAR, _linear),
    **dict.fromkeys(RESHAPES, _reshape),
    **dict.fromkeys(CASTS, _cast),
    **dict.fromkeys(DROPOUTS, _dropout),
    **dict.fromkeys(MAKERS, _made),
    **MODULES,
    **COMBINING,
    **ORDERING,
}
