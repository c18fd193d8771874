"""From layers to matrices: dense ones, symbols of convolutions, and what is too large."""

import pytest
import torch
from torch import nn

from cheaplip.bounds.graph import trace
from cheaplip.bounds.lower import lower_bound
from cheaplip.bounds.multipliers.chain import make_chain
from cheaplip.bounds.upper import product_of_norms, upper_bound
from cheaplip.models import cnn, mlp
from support.chains import ROUNDING


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"dilation": 2}, {"groups": 2}])
def test_symbols_and_matrices_of_convolutions_agree(options, monkeypatch):
    """Where the padded image is all there is, the symbols give no less than the dense matrix, and nearly the same."""
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, **options), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1), nn.MaxPool2d(2), nn.Flatten(), nn.LazyLinear(3)
    )
    model(torch.zeros(1, 2, 6, 6))
    dense = upper_bound(model, (2, 6, 6)).value
    monkeypatch.setattr("cheaplip.bounds.multipliers.chain.DENSE_ROWS", 8)
    symbols = upper_bound(model, (2, 6, 6))
    assert symbols.method == "multipliers, verified by Cholesky"
    assert dense <= symbols.value * 1.001
    assert dense >= lower_bound(model, torch.randn(20, 2, 6, 6), steps=10).value
    assert symbols.value <= product_of_norms(model, (2, 6, 6)) * ROUNDING


def test_chains_of_the_papers_networks():
    layers = trace(mlp((1, 28, 28), 10), (1, 28, 28)).last_chain.layers
    chain = make_chain(layers)
    assert [tuple(weight.shape) for weight in chain.weights] == [(64, 784), (64, 64), (10, 64)]
    assert chain.groups == [64, 64]
    layers = trace(cnn((1, 28, 28), 10, hidden=(8, 16, 256)), (1, 28, 28)).last_chain.layers  # a quarter of its widths
    chain = make_chain(layers)
    assert [tuple(weight.shape[-2:]) for weight in chain.weights] == [(8, 1), (16, 8), (256, 784), (10, 256)]
    assert chain.groups == [8, 16, 256]


def test_what_is_too_large_falls_back_to_the_product_and_says_so(monkeypatch):
    monkeypatch.setattr("cheaplip.bounds.multipliers.chain.ENTRIES", 10)
    model = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 3))
    found = upper_bound(model, (4,))
    assert found.method == "product of layer norms (too large for multipliers)"
    assert found.value == pytest.approx(product_of_norms(model, (4,)), rel=1e-11)
    assert found.value > product_of_norms(model, (4,))
