"""Functions and modules that are written out in functions of which each has a rule: attention, recurrent layers, gates.

Recurrent layers become one layer a step, so that their bound is for the length of the input at hand, and grows with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...errors import UnsupportedModuleError
from .recorder import SAMPLES_FIRST

DO = "Write it out, or use the lower bound alone."


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`functional.scaled_dot_product_attention` in products and softmax."""
    if dropout_p or enable_gqa:
        raise UnsupportedModuleError("attention without dropout and groups", "dropout_p or enable_gqa", DO)
    scores = (query * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)) @ key.transpose(-2, -1)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return scores.softmax(-1) @ value


def gated(input: Tensor, dim: int = -1) -> Tensor:
    """`functional.glu`."""
    a, b = input.chunk(2, dim)
    return a * torch.sigmoid(b)


def _multi_head_attention(
    module: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, None]:
    if not module.batch_first:
        got = "attention with the samples in the second axis"
        raise UnsupportedModuleError("attention with batch_first=True", got, SAMPLES_FIRST)
    if module.bias_k is not None or module.add_zero_attn or key_padding_mask is not None:
        raise UnsupportedModuleError("plain attention", "attention with extra keys or a mask of padding", DO)
    if module.in_proj_weight is None:
        weights: Sequence[Any] = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    else:
        weights = module.in_proj_weight.chunk(3)
    biases: Sequence[Any] = (None,) * 3 if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
    heads = []
    for x, weight, bias in zip((query, key, value), weights, biases, strict=True):
        x = functional.linear(x, weight, bias)  # (samples, length, features)
        heads.append(x.reshape(*x.shape[:2], module.num_heads, -1).transpose(1, 2))
    mask = None if attn_mask is None else ~attn_mask if attn_mask.dtype == torch.bool else attn_mask
    attended = attention(heads[0], heads[1], heads[2], mask).transpose(1, 2).flatten(2)
    return functional.linear(attended, module.out_proj.weight, module.out_proj.bias), None


def _recurrent(module: nn.RNNBase, x: Tensor, states: Any = None) -> tuple[Tensor, list[Tensor]]:
    """The outputs, and the last states of each layer and direction: h of all, then c of all."""
    if not module.batch_first:
        got = f"{type(module).__name__} of sequences with the samples in the second axis"
        raise UnsupportedModuleError("a recurrent layer with batch_first=True", got, SAMPLES_FIRST)
    if states is not None:
        do = "Leave the states away: without them it starts at 0."
        raise UnsupportedModuleError("a recurrent layer that starts at 0", f"{type(module).__name__} with states", do)
    cell, kinds = CELLS[module.mode]
    last: list[list[Tensor]] = [[] for _ in range(kinds)]
    for layer in range(module.num_layers):
        directions = []
        for suffix in ("", "_reverse")[: 1 + module.bidirectional]:
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
            parameters = [getattr(module, f"{name}_l{layer}{suffix}", None) for name in names]
            sizes = (module.proj_size or module.hidden_size, module.hidden_size)
            now = [x.new_zeros(len(x), size) for size in sizes[:kinds]]
            outputs = []
            steps = list(x.unbind(1))
            for step in reversed(steps) if suffix else steps:
                now = cell(step, now, parameters)
                outputs.append(now[0])
            for kept, state in zip(last, now, strict=True):
                kept.append(state)
            directions.append(torch.stack(outputs[::-1] if suffix else outputs, 1))
        x = torch.cat(directions, -1) if module.bidirectional else directions[0]
    return x, [state for kept in last for state in kept]


def _gates(x: Tensor, states: list[Tensor], parameters: Sequence[Any]) -> tuple[Tensor, Tensor]:
    into, back, bias_into, bias_back = parameters[:4]
    return functional.linear(x, into, bias_into), functional.linear(states[0], back, bias_back)


def _lstm(x: Tensor, states: list[Tensor], parameters: Sequence[Any]) -> list[Tensor]:
    mine, theirs = _gates(x, states, parameters)
    i, f, g, o = (mine + theirs).chunk(4, -1)
    c = torch.sigmoid(f) * states[1] + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    return [h if parameters[4] is None else functional.linear(h, parameters[4]), c]


def _gru(x: Tensor, states: list[Tensor], parameters: Sequence[Any]) -> list[Tensor]:
    (r, z, n), (own_r, own_z, own_n) = (gates.chunk(3, -1) for gates in _gates(x, states, parameters))
    new = torch.tanh(n + torch.sigmoid(r + own_r) * own_n)
    kept = torch.sigmoid(z + own_z)
    # a mean of values in [-1, 1] is one; of its terms by themselves that could not be told
    return [((1 - kept) * new + kept * states[0]).clamp(-1, 1)]


def _tanh(x: Tensor, states: list[Tensor], parameters: Sequence[Any]) -> list[Tensor]:
    mine, theirs = _gates(x, states, parameters)
    return [torch.tanh(mine + theirs)]


def _relu(x: Tensor, states: list[Tensor], parameters: Sequence[Any]) -> list[Tensor]:
    mine, theirs = _gates(x, states, parameters)
    return [torch.relu(mine + theirs)]


Cell = Callable[[Tensor, list[Tensor], Sequence[Any]], list[Tensor]]
CELLS: dict[str, tuple[Cell, int]] = {"LSTM": (_lstm, 2), "GRU": (_gru, 1), "RNN_TANH": (_tanh, 1), "RNN_RELU": (_relu, 1)}
"""From an input, states and parameters to the next states, the output first; and how many states there are."""

DECOMPOSITIONS: dict[str, Callable[..., Tensor]] = {"scaled_dot_product_attention": attention, "glu": gated}
"""Functions by name."""
MODULE_DECOMPOSITIONS: dict[type, Callable[..., tuple[Tensor, Any]]] = {
    nn.MultiheadAttention: _multi_head_attention,
    nn.LSTM: _recurrent,
    nn.GRU: _recurrent,
    nn.RNN: _recurrent,
}
"""Modules by type: the output, and what else they return."""
