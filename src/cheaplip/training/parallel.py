"""One run on several processes: what accelerate needs to know, and what the processes have to share besides gradients."""

from __future__ import annotations

import torch
import torch.distributed as dist
from accelerate import Accelerator, DataLoaderConfiguration, DistributedDataParallelKwargs
from torch import Tensor, nn

from .. import processes
from ..errors import InputError
from ..inference import forward, normalisations_of
from ..regularization.held import leaves


def this_process() -> Accelerator:
    """The device to train on and the processes beside this one; without accelerators, those of torchrun on the CPU."""
    of_all = DataLoaderConfiguration(split_batches=True)  # a loader's batch is that of all processes
    return Accelerator(cpu=not torch.accelerator.is_available(), dataloader_config=of_all)


def wrapped(model: nn.Module, example: Tensor, accelerator: Accelerator, *, penalises_all: bool) -> nn.Module:
    """The network whose backward pass averages the gradients of all processes.

    It is a shell round the model: what accelerate wraps and patches is not the user's module, which the penalty evaluates.
    Parameters on which no output depends are looked for at every step, if there are any, because they get no gradient to wait
    for.

    Args:
        model: in evaluation or training mode, which stays.
        example: an input, `(1, *input)`.
        accelerator: of this process.
        penalises_all: whether the penalty depends on every parameter.

    Raises:
        InputError: a penalty of parameters on which no output depends.
    """
    if dist.is_available() and dist.is_initialized():  # by torchrun for a single process, too
        with torch.enable_grad():
            used = {id(parameter) for parameter in leaves(forward(model, example))}
        unused = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in used]
        if unused and penalises_all:
            do = "Remove it from the network, or train on one process without torchrun."
            raise InputError("outputs that depend on every parameter whose norm is penalised", f"none on {unused[0]}", do)
        if unused:
            accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=True)
    shell: nn.Module = accelerator.prepare(nn.Sequential(model))
    return shell


def running_statistics(model: nn.Module) -> list[Tensor]:
    """Those of the normalisations, which each process updates by its own share of a batch."""
    return [tensor for module in normalisations_of(model) for tensor in (module.running_mean, module.running_var)]


@torch.no_grad()
def average(tensors: list[Tensor]) -> None:
    """The mean of all processes takes the place of each one's, in place."""
    if tensors and processes.count() > 1:
        for tensor, of_all in zip(tensors, processes.summed(tensors), strict=True):
            tensor.copy_(of_all / processes.count())
