"""Chains of random weights for the certificate, and their slow bounds."""

import math
from itertools import pairwise

import torch
from hypothesis import strategies as st

from cheaplip.bounds.multipliers.certificate import Chain, output_gram

INTERVALS = st.sampled_from([(0.0, 1.0), (0.0, 0.25), (0.1, 1.0), (-0.13, 1.13), (-1.0, 1.0), (-1.0, 0.5), (1.0, 1.0)])
ROUNDING = 1 + 1e-9


def random_chain(widths, low=0.0, high=1.0):
    weights = [torch.randn(o, i, dtype=torch.float64) / i**0.5 for i, o in pairwise(widths)]
    slopes = (torch.tensor(low, dtype=torch.float64), torch.tensor(high, dtype=torch.float64))
    return Chain(weights, [slopes] * (len(weights) - 1), list(widths[1:-1]))


def narrowed(chain, least=0.0):
    """Slopes, entry by entry: a third as before, a third narrower, a third of the least width, 0 for one slope alone."""
    slopes = []
    for (low, high), weight in zip(chain.slopes, chain.weights, strict=False):
        ends = low + (high - low) * torch.rand(2, weight.shape[0]).double().sort(0).values
        kind = torch.arange(weight.shape[0]) % 3
        slopes.append(
            (torch.where(kind == 0, low, ends[0]), torch.where(kind == 0, high, ends[1].where(kind == 2, ends[0] + least)))
        )
    return Chain(chain.weights, slopes, chain.groups)


def product(chain):
    norms = math.prod(float(torch.linalg.matrix_norm(weight, 2)) for weight in chain.weights)
    return norms * math.prod(max(abs(float(low)), abs(float(high))) for low, high in chain.slopes)


def by_matrices(weights, logs, slopes):
    """The bound as the module's text has it, from the matrices alone; inf where a factorisation fails."""
    gram = output_gram(Chain(weights, slopes, []), logs)
    return weights[0].new_tensor(math.inf) if gram is None else torch.linalg.eigvalsh(gram).amax().clamp(min=0).sqrt()
