"""Small networks, pairs and regularizers for the tests of the regularizer."""

import torch
from torch import nn

from cheaplip import LipschitzRegularizer, matched_pairs


def network():
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def made(model, pairs, *, interval=1, **options):
    """A regularizer with a penalty at every step."""
    return LipschitzRegularizer(model, pairs, interval=interval, **options)


def some_pairs(n=12, shape=(4,)):
    return matched_pairs(torch.randn(n, *shape, generator=torch.Generator().manual_seed(5)))
