"""The processes that train one network together: how many there are, which share is whose, and what they know together.

They are those of the default group of `torch.distributed`, which torchrun, Accelerate and Lightning make; without one there is
one process. `count`, `rank` and `share` ask nobody. All else is collective: every process calls it, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from .errors import InputError


def count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if count() > 1 else 0


def share(rows: Tensor) -> tuple[Tensor, bool]:
    """Every `count()`-th row, and True; where there are fewer rows than processes, some get the first one, and False.

    So every process does the same kind of work, and what is marked False is left out of a sum.
    """
    mine = rows[rank() :: count()]
    return (mine, True) if len(mine) else (rows[:1], False)


def summed(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The sums over all processes, entry by entry, of tensors whose shapes and types are the same in all.

    One collective for each type of number.
    """
    if count() == 1:
        return list(tensors)
    results = list(tensors)
    for kind in sorted({tensor.dtype for tensor in tensors}, key=str):
        places = [i for i, tensor in enumerate(tensors) if tensor.dtype == kind]
        flat = torch.cat([tensors[i].detach().reshape(-1) for i in places])
        dist.all_reduce(flat)
        parts = flat.split([tensors[i].numel() for i in places])
        for i, part in zip(places, parts, strict=True):
            results[i] = part.reshape(tensors[i].shape)
    return results


def total(values: Iterable[float]) -> list[float]:
    """The sums over all processes of some numbers, in double precision."""
    values = list(values)
    if count() == 1:
        return values
    sums = torch.tensor(values, dtype=torch.float64, device=_device())
    dist.all_reduce(sums)
    found: list[float] = sums.tolist()
    return found


def mean(value: float) -> float:
    """The mean over all processes of a number; exactly that number where all have the same."""
    if count() == 1:
        return value
    of_all = torch.zeros(count(), dtype=torch.float64, device=_device())
    of_all[rank()] = value
    dist.all_reduce(of_all)
    values = of_all.tolist()
    return value if all(other == value for other in values) else sum(values) / len(values)


def in_shares(function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
    """A function of some rows, each process with its share of them; the results of all rows, on every process."""
    if count() == 1:
        return function(*tensors)
    shares = [share(tensor) for tensor in tensors]
    results = function(*(rows for rows, _ in shares))
    return gathered(results, len(tensors[0]))


def gathered(results: Iterable[Tensor], n: int) -> tuple[Tensor, ...]:
    """The results of all n rows, from those of each process' share."""
    if count() == 1:
        return tuple(results)
    filled = []
    for result in results:
        of_all = result.new_zeros(n, *result.shape[1:])
        if rank() < n:
            of_all[rank() :: count()] = result
        filled.append(of_all)
    return tuple(summed(filled))


def require_same(tensors: Iterable[Tensor], expected: str, do: str) -> None:
    """Raise `InputError`, on every process, unless all have the same tensors."""
    if count() == 1:
        return
    mine = torch.tensor([_digest(tensor) for tensor in tensors], dtype=torch.int64, device=_device())
    digest = torch.stack([mine.new_tensor(len(mine)), (mine * torch.arange(1, len(mine) + 1, device=mine.device)).sum()])
    of_all = [torch.empty_like(digest) for _ in range(count())]
    dist.all_gather(of_all, digest)
    others = [i for i, other in enumerate(of_all) if not torch.equal(other, of_all[0])]
    if others:
        raise InputError(f"{expected} on all {count()} processes", f"others on {len(others)} of them", do)


def _digest(tensor: Tensor) -> int:
    """A number that depends on every bit, the same whatever the order in which it is computed."""
    return int(tensor.detach().reshape(-1).contiguous().view(torch.uint8).sum(dtype=torch.int64))


def _device() -> torch.device:
    """Where a number has to be for a collective."""
    if dist.get_backend() in ("nccl", "xccl", "hccl"):
        return torch.accelerator.current_accelerator() or torch.device("cpu")
    return torch.device("cpu")
