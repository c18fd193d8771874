"""Probabilities that mean what they say: the temperature of a softmax."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

TEMPERATURES = torch.logspace(-3, 3, 401, dtype=torch.float64)
"""Those that are tried: 3.5 % from one to the next."""


def temperature_of(logits: Tensor, y: Tensor) -> float:
    """The T > 0 for which softmax(logits / T) is most likely, on samples that the network was not fitted to.

    A small Lipschitz constant makes logits small, and their softmax far too cautious; a temperature below 1 undoes that and
    changes no answer. The labels are smoothed by 1 / (n + 2), without which a few samples that are all right would have
    T = 0.

    Args:
        logits: `(n, classes)`.
        y: labels `(n,)`, int64.

    Source: Guo et al., On calibration of modern neural networks, 2017; the smoothing is Platt's, 1999.
    """
    smoothing = 1 / (len(y) + 2)
    losses = [float(cross_entropy(logits.double() / t, y, label_smoothing=smoothing)) for t in TEMPERATURES]
    return float(TEMPERATURES[torch.tensor(losses).argmin()])
