"""How many threads of the CPU a training takes: one, where its steps are too small for more."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..inference import evaluating, forward
from ..progress import tell

SMALL = 1e8
"""Operations in a forward pass of a batch, multiplications and additions: some milliseconds of one thread."""
USUAL = torch.get_num_threads()
"""Of torch, unless somebody sets another number."""
SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@contextmanager
def suited_threads(model: nn.Module, example: Tensor, batch_size: int, *, told: bool) -> Iterator[None]:
    """One thread inside, where a step is small; else, and where the user has set a number, as it was.

    Threads wait for one another in every operation. On a busy machine that takes a hundred times as long as small operations
    themselves. What decides is arithmetic, not a measurement: a run is repeated with the same number, to the last bit.

    Args:
        model: the network, on its device.
        example: an input, `(1, *input)`.
        batch_size: samples in a step.
        told: say on standard error that one thread is taken.
    """
    threads = torch.get_num_threads()
    chosen = threads != USUAL or any(name in os.environ for name in SETTINGS)
    if threads == 1 or chosen or example.device.type != "cpu" or not 0 < batch_size * _operations(model, example) <= SMALL:
        yield
        return
    if told:
        tell("One thread, because the network is small; OMP_NUM_THREADS in the environment sets another number.")
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _operations(model: nn.Module, example: Tensor) -> int:
    """Of a forward pass; 0 where torch has no formula, as for recurrent layers."""
    with evaluating(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        forward(model, example)
    operations: int = counter.get_total_flops()
    return operations
