"""Networks that are no plain chain: sums, concatenations, functions, and what is refused."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from cheaplip import lipschitz_bracket
from cheaplip.bounds.lower import lower_bound
from cheaplip.bounds.upper import product_of_norms, upper_bound
from cheaplip.errors import InputError, UnsupportedModuleError
from support.searches import short_ascents


class Net(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self._forward = forward

    def forward(self, x):
        return self._forward(self, x)


def norm(layer):
    return float(torch.linalg.matrix_norm(layer.weight.detach().double(), 2))


SUPPORTED = {
    "residual": (lambda net, x: x + net.first(x).relu(), lambda a, b: 1 + a),
    "twice": (lambda net, x: net.first(x) - net.second(functional.relu(x)), lambda a, b: a + b),
    "same value twice": (lambda net, x: (y := net.first(x)) + y, lambda a, b: 2 * a),
    "concatenation": (lambda net, x: torch.cat([net.first(x), net.second(x)], dim=1), lambda a, b: math.hypot(a, b)),
    "number": (lambda net, x: 3 * (net.first(x) / 2) + 1, lambda a, b: 1.5 * a),
    "one part": (lambda net, x: torch.cat([net.first(x)], dim=1), lambda a, b: a),
    "scaled": (lambda net, x: -(net.first(x) * 3) / 2 + 1, lambda a, b: 1.5 * a),
    "shape": (lambda net, x: net.second(net.first(x).view(x.size(0), 2, 2).tanh().flatten(1)), lambda a, b: a * b),
    "absolute values": (lambda net, x: torch.abs(abs(net.second(net.first(x).abs()))), lambda a, b: a * b),
    "dropout": (lambda net, x: functional.dropout(net.first(x), 0.5, training=net.training), lambda a, b: a),
}


@pytest.mark.parametrize("name", SUPPORTED)
def test_the_product_of_a_graph(name):
    forward, expected = SUPPORTED[name]
    net = Net(forward)
    assert product_of_norms(net, (4,)) == pytest.approx(expected(norm(net.first), norm(net.second)))
    bracket = lipschitz_bracket(net, torch.randn(5, 4), steps=5)
    assert 0 < bracket.lower <= bracket.upper <= product_of_norms(net, (4,)) * (1 + 1e-9)
    assert net.training


REFUSED = {
    "product of inputs": (lambda net, x: x * net.first(x), "products of values at Net.*domain="),
    "division": (lambda net, x: net.first(x) / x, "div"),
    "attention": (lambda net, x: torch.softmax(x[:, None] @ x[:, :, None], 1)[:, 0], "domain="),
    "branch on values": (lambda net, x: x if (x.amax(1) > 0).all() else -x, "gt"),
    "mixed samples": (lambda net, x: torch.cat([x, x]), "cat"),
    "dropout that stays on": (lambda net, x: functional.dropout(x, 0.5), "dropout"),
    "two outputs": (lambda net, x: (x, net.first(x)), "one tensor"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_has_no_constant(name):
    forward, match = REFUSED[name]
    with pytest.raises(UnsupportedModuleError, match=match):
        upper_bound(Net(forward), (4,))


def test_a_transformer_is_refused_by_the_layers_name_and_still_has_a_lower_bound():
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    model = nn.Sequential(nn.Unflatten(1, (2, 4)), layer, nn.Flatten(), nn.LayerNorm(8))
    with pytest.raises(UnsupportedModuleError, match=r"products of values at '1.self_attn'.*domain="):
        upper_bound(model, (8,))
    with short_ascents():
        assert lower_bound(model, torch.randn(3, 8), steps=2).value > 0


def test_refuses_inputs_that_do_not_fit():
    with pytest.raises(InputError, match="a network that takes these inputs"):
        upper_bound(nn.Linear(3, 2), (4,))


@settings(max_examples=12)
@given(seed=st.integers(0, 1000), p=st.sampled_from([2, math.inf]), q=st.sampled_from([2, math.inf]))
def test_brackets_in_other_norms(seed, p, q):
    torch.manual_seed(seed)
    layer = nn.Linear(3, 2)
    bracket = lipschitz_bracket(layer, torch.randn(5, 3), input_norm=p, output_norm=q, steps=5)
    matrix = layer.weight.detach().double()
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0]).double()] * 3)
    exact = {
        (2, 2): torch.linalg.matrix_norm(matrix, 2),
        (2, math.inf): matrix.norm(dim=1).max(),
        (math.inf, math.inf): matrix.abs().sum(1).max(),
        (math.inf, 2): (corners @ matrix.T).norm(dim=1).max(),
    }[p, q].item()
    assert 0.8 * exact <= bracket.lower <= exact * (1 + 1e-9)
    assert exact <= bracket.upper * (1 + 1e-9)
    if q == math.inf:
        assert bracket.upper == pytest.approx(exact)


def test_refuses_other_norms():
    with pytest.raises(InputError, match="norms 2 or inf"):
        upper_bound(nn.Linear(3, 2), (3,), input_norm=1)


def test_no_hook_is_left_behind():
    lipschitz_bracket(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(4, 3), budget=1)
    assert not torch.nn.modules.module._has_any_global_hook()
