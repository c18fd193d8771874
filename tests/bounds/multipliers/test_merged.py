"""Weights that are merged before the search: what is proved holds for the network's own, whatever cancels in them."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cheaplip.bounds.graph import trace
from cheaplip.bounds.multipliers.bound import certified
from cheaplip.bounds.multipliers.certificate import proved_bound
from cheaplip.bounds.multipliers.chain import make_chain
from cheaplip.bounds.multipliers.start import best_start
from cheaplip.bounds.serial import serial

NUMBERS = st.floats(0.1, 10)


def proved(model, inputs):
    with torch.no_grad():
        return certified(make_chain(serial(trace(model.eval(), (inputs,))))).value


def dense(*rows):
    layer = nn.Linear(len(rows[0]), len(rows)).double()
    layer.weight.data = torch.tensor(rows, dtype=torch.float64)
    return layer


class Skip(nn.Module):
    """c relu(a x) + d x."""

    def __init__(self, a, c, d):
        super().__init__()
        self.one, self.two, self.beside = dense([a]), dense([c]), dense([d])

    def forward(self, x):
        return self.two(torch.relu(self.one(x))) + self.beside(x)


@given(a=NUMBERS, b=NUMBERS, c=NUMBERS)
def test_two_matrices_whose_product_cancels(a, b, c):
    d = -c * a / b
    true = abs(Fraction(c) * Fraction(a) + Fraction(d) * Fraction(b))
    found = proved(nn.Sequential(dense([a], [b]), dense([c, d])), 1)
    assert Fraction(found) >= true
    assert found <= float(true) + 1e-11 * (a + b) * (c - d)


@given(a=NUMBERS, b=NUMBERS, c=NUMBERS, scale=NUMBERS, variance=NUMBERS)
def test_a_normalisation_between_them(a, b, c, scale, variance):
    norm = nn.BatchNorm1d(2, eps=0.0).double()
    norm.running_var.fill_(variance**2)  # its root is no double: the scale is rounded
    norm.weight.data.fill_(scale)
    d = -c * a / b
    true = abs(Fraction(c) * Fraction(a) + Fraction(d) * Fraction(b)) * Fraction(scale) / Fraction(variance)
    found = proved(nn.Sequential(dense([a], [b]), norm, dense([c, d]), nn.ReLU(), dense([1.0])), 1)
    assert Fraction(found) >= true * (1 - Fraction(1, 10**15))  # the root of the square of `variance`, as it is stored
    assert found <= float(true) + 1e-11 * (a + b) * (c - d) * scale / variance


@given(a=NUMBERS, c=NUMBERS)
def test_a_branch_that_cancels_the_other(a, c):
    d = -a * c
    true = max(abs(Fraction(a) * Fraction(c) + Fraction(d)), abs(Fraction(d)))
    found = proved(Skip(a, c, d), 1)
    assert Fraction(found) >= true


def test_in_a_deep_chain_the_margin_is_no_more_than_rounding():
    torch.manual_seed(0)
    blocks = [layer for _ in range(14) for layer in (nn.ReLU(), nn.BatchNorm1d(32), nn.Linear(32, 32))]
    with torch.no_grad():
        chain = make_chain(serial(trace(nn.Sequential(nn.Linear(32, 32), *blocks).eval(), (32,))))
    logs, value = best_start(chain)
    assert sum(error > 0 for error in chain.errors) == 14
    assert proved_bound(chain, logs)[0] <= value * (1 + 1e-6)


def test_what_needs_no_merging_has_no_margin():
    chain = make_chain(serial(trace(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), (3,))))
    assert chain.errors == [0, 0]


@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular", "replicate"])
def test_padding_that_repeats_pixels_sums_up_entries(mode):
    layer = nn.Conv2d(1, 1, 3, padding=1, padding_mode=mode).double().eval()
    with torch.no_grad():
        chain = make_chain(serial(trace(layer, (1, 4, 4))))
    assert (chain.errors[0] > 0) == (mode != "zeros" and not chain.weights[0].is_complex())
