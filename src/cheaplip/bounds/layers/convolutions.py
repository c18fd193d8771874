"""The symbols of a convolution: small matrices, one a frequency, whose largest spectral norm bounds that of the layer.

Zero padding makes the layer a restriction of the periodic convolution on a torus that holds the padded image: inputs
are zero outside the image, and outputs outside it are discarded. The periodic one is block-diagonal in the Fourier
basis, with one (out, in) block for each frequency (Sedghi, Gupta, Long 2019). A stride s keeps every s-th output and
folds the frequencies that then look alike into one block (out, in * s^dimensions). A transposed convolution is the
adjoint of a convolution from its outputs to its inputs. So the norm is proved, and nearly attained on images.

Circular padding that keeps the size is the periodic convolution itself. Other paddings that repeat entries are a linear map
of their own before a convolution without padding.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...inference import evaluation_copy
from .linear_maps import Function, schur
from .region import Shape

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d

CHUNK = 2**24  # entries of symbols made at a time


@torch.no_grad()
def convolution_norm(module: Convolution, shape: Shape) -> float:
    """An upper bound of the spectral norm of a convolution on inputs of `shape`, (channels, *size)."""
    if not has_symbols(module, shape):
        padded, valid = _unpadded(module)
        return schur(padded, shape) * convolution_norm(
            valid, tuple(padded(torch.zeros(2, *shape, dtype=torch.float64)).shape[1:])
        )
    return max(
        float(torch.linalg.matrix_norm(part, 2).max())
        for weight in _kernels(module)
        for part in _symbols(weight, module, _torus(module, shape))
    )


def has_symbols(module: Convolution, shape: Shape) -> bool:
    """Whether the layer is a restriction of a periodic convolution."""
    return module.padding_mode == "zeros" or _is_periodic(module, shape)


def symbol_entries(module: Convolution, shape: Shape) -> int:
    """How many complex numbers `symbols` would return."""
    return math.prod(_torus(module, shape)) * module.in_channels * module.out_channels


def symbols(module: Convolution, shape: Shape) -> Tensor:
    """`(frequencies, rows, columns)`, complex; rows in runs of equal length for each output channel, columns for each input's.

    With a graph to the layer's weight. One of two conjugate frequencies is left away. Groups are blocks on the diagonal.
    """
    groups = [torch.cat(list(_symbols(weight, module, _torus(module, shape)))) for weight in _kernels(module)]
    # (frequencies, groups, rows, columns) -> block-diagonal
    stacked = torch.stack(groups, dim=1)
    blocks = torch.eye(len(groups)).to(stacked)[:, None, :, None] * stacked[:, :, :, None, :]
    full = blocks.flatten(3).flatten(1, 2)
    return full.mH if isinstance(module, nn.modules.conv._ConvTransposeNd) else full


def _is_periodic(module: Convolution, shape: Shape) -> bool:
    """Whether it is one on the image itself."""
    spans = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    total = spans if module.padding == "same" else [2 * int(p) for p in module.padding] if module.padding != "valid" else []
    fits = all(size % s == 0 for size, s in zip(shape[1:], module.stride, strict=True))
    return module.padding_mode == "circular" and total == spans and fits


def _unpadded(module: Convolution) -> tuple[Function, Convolution]:
    """The padding as a function, and the convolution without it."""
    valid: Any = evaluation_copy(module, torch.float64)
    amounts, mode = list(valid._reversed_padding_repeated_twice), module.padding_mode
    valid.padding, valid.padding_mode = (0,) * len(module.kernel_size), "zeros"

    def padded(x: Tensor) -> Tensor:
        return nn.functional.pad(x, amounts, mode)

    return padded, valid


def _kernels(module: Convolution) -> tuple[Tensor, ...]:
    # the weight of a transposed convolution is, as it stands, that of its adjoint
    return module.weight.double().chunk(module.groups)


def _torus(module: Convolution, shape: Shape) -> list[int]:
    """Sizes on which no value that is wrapped round reaches an output: the padded image; multiples of the stride."""
    spans = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    if isinstance(module.padding, str):
        total = spans if module.padding == "same" else [0] * len(spans)
    else:
        total = [2 * p for p in module.padding]
    sizes = list(shape[1:])
    if module.padding_mode == "circular":
        return sizes
    if isinstance(module, nn.modules.conv._ConvTransposeNd):  # the image of the adjoint is the output
        more = zip(sizes, module.stride, total, spans, module.output_padding, strict=True)
        sizes = [(size - 1) * s - pad + span + extra + 1 for size, s, pad, span, extra in more]
    least = [max(size + pad, span + 1) for size, pad, span in zip(sizes, total, spans, strict=True)]
    return [math.ceil(n / s) * s for n, s in zip(least, module.stride, strict=True)]


def _symbols(weight: Tensor, module: Convolution, torus: list[int]) -> Iterator[Tensor]:
    """Pieces of `(frequencies, out, in * aliases)` for one group."""
    strides, dilation = module.stride, module.dilation
    out, into, taps = weight.shape[0], weight.shape[1], weight[0, 0].numel()
    coarse = [n // s for n, s in zip(torus, strides, strict=True)]
    coarse[-1] = coarse[-1] // 2 + 1  # the others are conjugate
    frequencies = _grid(coarse)
    aliases = _grid(list(strides)) * torch.tensor([n // s for n, s in zip(torus, strides, strict=True)])
    places = _grid(list(weight.shape[2:])) * torch.tensor(dilation)  # (taps, dimensions)
    turns = places.double() / torch.tensor(torus, dtype=torch.float64)
    kernel = weight.reshape(out * into, taps).to(torch.complex128)
    for chunk in frequencies.split(max(1, CHUNK // (len(aliases) * out * into))):
        phases = -2j * math.pi * ((chunk[:, None] + aliases).double() @ turns.T)  # (chunk, aliases, taps)
        made = (phases.to(kernel.device).exp() @ kernel.T).reshape(len(chunk), len(aliases), out, into)
        yield made.permute(0, 2, 3, 1).reshape(len(chunk), out, -1) / math.sqrt(len(aliases))


def _grid(sizes: list[int]) -> Tensor:
    return torch.tensor(list(itertools.product(*map(range, sizes))))
