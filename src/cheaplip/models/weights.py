"""The weights of a network in a file, `model.safetensors`, and the multipliers of its certificate in another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ..errors import InputError, one_line
from ..files import read_bytes, write_atomic


def save_weights(path: Path, model: nn.Module) -> str:
    """Write every tensor of the state once, under the first of its names; returns the sha256 of the file."""
    state, first = model.state_dict(), _first_names(model)
    # copies: what safetensors writes must be contiguous and share no memory
    weights = {name: state[name].contiguous().clone() for name in state if first[name] == name}
    return write_atomic(path, lambda stream: stream.write(safetensors.torch.save(weights)))


def load_weights(path: Path, model: nn.Module) -> None:
    """Put the weights in the file into the network; `InputError` if they cannot be read or are another network's."""
    try:
        weights = safetensors.torch.load(read_bytes(path))
        tied = {name: weights[first] for name, first in _first_names(model).items() if first in weights}
        model.load_state_dict({**weights, **tied})
    except (OSError, ValueError, SafetensorError, RuntimeError) as error:
        raise InputError(f"the run's weights in {path}", one_line(error), "Train the run again.") from None


def save_multipliers(path: Path, logs: Sequence[Tensor]) -> str:
    """Write the logarithms of a certificate's multipliers; returns the sha256 of the file."""
    named = {str(i): log.contiguous() for i, log in enumerate(logs)}
    return write_atomic(path, lambda stream: stream.write(safetensors.torch.save(named)))


def load_multipliers(path: Path) -> list[Tensor]:
    """The logarithms in the file, none where there is no file; `InputError` if it cannot be read."""
    try:
        named = safetensors.torch.load(read_bytes(path))
        return [named[str(i)] for i in range(len(named))]
    except FileNotFoundError:
        return []
    except (OSError, LookupError, SafetensorError) as error:
        do = "Remove it: the search for an upper bound then starts afresh."
        raise InputError(f"the multipliers of the run's certificate in {path}", one_line(error), do) from None


def require_savable(model: nn.Module) -> None:
    """Raise `InputError` for a state that `save_weights` cannot write, before an hour is spent on it."""
    for name, value in model.state_dict().items():
        try:
            if not isinstance(value, Tensor):
                raise TypeError(type(value).__name__)
            safetensors.torch.save({name: torch.empty_like(value[:0] if value.dim() else value)})
        except (TypeError, ValueError, LookupError, RuntimeError, SafetensorError) as error:
            do = "Leave it out of the state (a buffer with persistent=False), or train without `out`."
            raise InputError(f"a network whose state {name} can be saved", one_line(error), do) from None


def _first_names(model: nn.Module) -> dict[str, str]:
    """For every tensor of the state, the first name of one that is the same memory: tied weights have several."""
    seen: dict[object, str] = {}
    return {
        name: seen.setdefault((value.data_ptr() or name, value.shape, value.stride(), value.dtype), name)
        for name, value in model.state_dict().items()
    }
