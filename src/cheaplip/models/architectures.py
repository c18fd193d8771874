"""The paper's two networks, with widths, activation and output activation as options."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import nn

from ..arguments import checked
from ..errors import InputError, require_known

LARGEST = 2**28
"""Width: with it, one layer hardly fits into a memory."""

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "elu": nn.ELU,
    "abs": partial(nn.LeakyReLU, -1.0),
}


@checked
def mlp(
    input_shape: Sequence[int],
    outputs: int,
    *,
    hidden: Sequence[int] = (64, 64),
    activation: str = "softplus",
    output_activation: str | None = None,
) -> nn.Sequential:
    """Fully connected network: flatten, then dense layers with an activation after each but the last.

    Args:
        input_shape: shape of one input; flattened.
        outputs: number of outputs.
        hidden: widths of the hidden layers; the paper's are 64, 64 (images) and 500, 200, 100 (regression).
        activation: `softplus`, `relu`, `sigmoid` (the paper's), `tanh`, `elu`, `abs`. Smooth ones are more
            accurate under attack; `abs`, |x|, is norm-preserving and gets the largest certified radii with `certify`.
        output_activation: one after the last layer too; the authors' code has one, which caps the accuracy.

    Raises:
        InputError: an unknown activation, a width < 1.
    """
    widths = [math.prod(input_shape), *hidden, outputs]
    if min(widths) < 1 or max(widths) > LARGEST:
        raise InputError(f"widths >= 1 and <= {LARGEST}", widths, "Give positive layer widths that fit the memory.")
    layers: list[nn.Module] = [nn.Flatten()]
    for i, (fan_in, fan_out) in enumerate(pairwise(widths), start=1):
        last = i == len(widths) - 1
        layers.append(nn.Linear(fan_in, fan_out))
        layers += _activation(output_activation if last else activation)
    return nn.Sequential(*layers)


@checked
def cnn(
    input_shape: Sequence[int],
    outputs: int,
    *,
    hidden: Sequence[int] = (32, 64, 1024),
    activation: str = "relu",
    output_activation: str | None = None,
) -> nn.Sequential:
    """Convolution 5x5, 2x2 max-pool, convolution 5x5, 2x2 max-pool, dense, dense: the simple CNN of Madry et al. 2018.

    Args:
        input_shape: (channels, height, width).
        outputs: number of outputs.
        hidden: channels of the two convolutions and width of the dense layer.
        activation: as in `mlp`; the default is Madry et al.'s.
        output_activation: as in `mlp`; the default is Madry et al.'s.

    Its weights lie channels last, which is faster, in bfloat16 on a CPU by a third; `torch.nn.utils.parameters_to_vector`
    and LBFGS want `.to(memory_format=torch.contiguous_format)` first.

    Raises:
        InputError: an input that is not an image of at least 4x4, not three widths, an unknown activation.
    """
    if len(input_shape) != 3 or min(input_shape[1:]) < 4 or input_shape[0] < 1:
        raise InputError("images (channels, height, width) of at least 1x4x4", tuple(input_shape), "Use the mlp instead.")
    if len(hidden) != 3 or min(*hidden, outputs) < 1 or max(*hidden, outputs) > LARGEST:
        do = "Give two numbers of channels, one dense width and the outputs."
        raise InputError("three widths and a number of outputs >= 1", f"{tuple(hidden)} and {outputs}", do)
    channels, height, width = input_shape
    first, second, dense = hidden
    network = nn.Sequential(
        nn.Conv2d(channels, first, 5, padding=2),
        *_activation(activation),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 5, padding=2),
        *_activation(activation),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(second * (height // 4) * (width // 4), dense),
        *_activation(activation),
        nn.Linear(dense, outputs),
        *_activation(output_activation),
    )
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # which its annotation does not know
    return network


MODELS = {"mlp": mlp, "cnn": cnn}


def _activation(name: str | None) -> list[nn.Module]:
    if name is None:
        return []
    require_known("activation", name, ACTIVATIONS)
    return [ACTIVATIONS[name]()]
