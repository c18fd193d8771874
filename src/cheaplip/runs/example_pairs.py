"""Pairs that a report shows: test inputs of different classes before and after ascent, as in the paper's Figure 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data.arrays import Dataset
from ..files import write_atomic
from ..inference import device_of, forward
from ..norms import sample_norm
from ..pairs.ascent import keep_valid, normalized_step, quotient_and_gradient
from ..pairs.quotient import difference_quotient

SHOWN_PAIRS = 4


def example_pairs(model: nn.Module, data: Dataset, *, steps: int = 200, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """Pairs of test inputs of different classes before and after `steps` of ascent: what the paper's Figure 1 shows.

    Returns:
        The arrays of `pairs.npz`: inputs `(k, *input)`, predicted labels, confidences and quotients `(k,)`.
    """
    device = device_of(model)
    order = torch.randperm(len(data.test_x), generator=torch.Generator().manual_seed(seed))
    x, y = data.test_x[order[:200]].to(device), data.test_y[order[:200]].to(device)
    first = [int((y == label).nonzero()[0]) for label in torch.unique(y)]
    # each class with the next but one in a ring, from the last on: of Fashion-MNIST, boot and trouser as in the paper
    ring = range(-1, min(SHOWN_PAIRS, len(first)) - 1)
    u = x[[first[i] for i in ring]]
    v = x[[first[(i + min(2, len(first) - 1)) % len(first)] for i in ring]]
    arrays = _described(model, u, v, "before")
    separation = 0.01 * float(sample_norm(u - v).median())
    points = torch.stack([u, v], dim=1)
    for _ in range(steps):
        _, gradient = quotient_and_gradient(model, points)
        points = keep_valid(normalized_step(points, gradient, 0.05), points, separation, data.domain)
    return arrays | _described(model, points[:, 0], points[:, 1], "after")


@torch.no_grad()
def _described(model: nn.Module, u: Tensor, v: Tensor, when: str) -> dict[str, np.ndarray[Any, Any]]:
    arrays = {f"quotient_{when}": difference_quotient(model, u, v)}
    for name, points in (("u", u), ("v", v)):
        confidence, label = forward(model, points).softmax(1).max(1)
        arrays |= {f"{name}_{when}": points, f"label_{name}_{when}": label, f"confidence_{name}_{when}": confidence}
    return {name: tensor.cpu().numpy() for name, tensor in arrays.items()}


def write_pairs(path: Path, arrays: dict[str, np.ndarray[Any, Any]]) -> None:
    """Write `pairs.npz`, atomically."""
    write_atomic(path, lambda stream: np.savez_compressed(stream, allow_pickle=False, **arrays))
