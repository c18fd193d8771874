"""Brackets: sound on random networks, exact on linear maps, and what they tell."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cheaplip import LipschitzBracket, certified_radius, lipschitz_bracket, perturbed_pairs
from cheaplip.bounds import climbing
from cheaplip.bounds import lower as lower_bounds
from cheaplip.bounds.jacobian import jacobian_lower_bound
from cheaplip.bounds.lower import lower_bound
from cheaplip.bounds.upper import product_of_norms, upper_bound
from cheaplip.errors import InputError, UnsupportedModuleError
from cheaplip.inference import evaluating
from support.searches import short_ascents, short_searches

ROUNDING = 1 + 1e-9
ACTIVATIONS = [
    nn.ReLU,
    nn.Sigmoid,
    nn.Tanh,
    nn.Softplus,
    nn.ELU,
    nn.Hardtanh,
    nn.ReLU6,
    nn.Identity,
    nn.Dropout,
    lambda: nn.LeakyReLU(1.5),
    lambda: nn.ELU(2.0),
]


@st.composite
def networks(draw):
    """A random chain of all kinds of layers, and one input's shape."""
    pick = lambda *options: draw(st.sampled_from(options))  # noqa: E731
    torch.manual_seed(draw(st.integers(0, 10_000)))
    layers = []
    if draw(st.booleans()):
        channels, size = draw(st.integers(1, 3)), draw(st.integers(4, 7))
        shape = (channels, size, size)
        for _ in range(draw(st.integers(1, 2))):
            groups = channels if pick(False, True) else 1
            out = groups * draw(st.integers(1, 2))
            stride, padding, dilation = pick((1, "same", 1), (1, 1, 1), (2, 2, 1), (1, 2, 2))
            layers.append(nn.Conv2d(channels, out, 3, stride, padding, dilation, groups))
            channels = out
            extra = [nn.BatchNorm2d(out), nn.MaxPool2d(2, 1), nn.AvgPool2d(2, 1), nn.MaxPool2d(3, 2, 1)]
            layers += [pick(*ACTIVATIONS)(), pick(*extra)]
        layers.append(nn.Flatten())
    else:
        shape = (draw(st.integers(1, 6)),)
        layers.append(nn.Sequential(nn.Linear(shape[0], 5), nn.BatchNorm1d(5), pick(*ACTIVATIONS)()))
    with evaluating(nn.Sequential(*layers)):
        width = nn.Sequential(*layers)(torch.zeros(1, *shape)).shape[1]
    layers += [nn.Linear(width, 4), pick(*ACTIVATIONS)(), nn.Linear(4, draw(st.integers(1, 3)))]
    model = nn.Sequential(*layers)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.running_var.uniform_(0.1, 3)
                module.weight.normal_()
    return model, shape


@settings(max_examples=10)
@given(network=networks(), scale=st.sampled_from([0.1, 1.0, 10.0]))
def test_lower_is_below_upper_on_random_networks(network, scale):
    model, shape = network
    inputs = scale * torch.randn(3, *shape)
    pairs = perturbed_pairs(inputs, noise=scale * 1e-3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lower_bounds, "RESTARTS", 15)
        patch.setattr(lower_bounds, "BOXES", lower_bounds.BOXES[:1])
        patch.setattr(climbing, "ROUNDS", 5)
        lower = lower_bound(model, inputs, pairs=pairs, steps=3)
    assert all(module.training for module in model.modules())
    with short_searches():
        upper = upper_bound(model, shape).value
    assert 0 <= lower.value <= upper * (1 + 1e-6)  # quotients of near pairs are rounded
    assert upper <= product_of_norms(model, shape) * ROUNDING


@settings(max_examples=10)
@given(seed=st.integers(0, 1000), sizes=st.tuples(st.integers(1, 6), st.integers(1, 6)))
def test_the_bracket_of_a_linear_map_is_its_spectral_norm(seed, sizes):
    torch.manual_seed(seed)
    layer = nn.Linear(*sizes)
    with short_ascents():
        bracket = lipschitz_bracket(layer, torch.randn(2, sizes[0]), steps=2)
    norm = np.linalg.norm(layer.weight.detach().double().numpy(), 2)
    assert bracket.lower == pytest.approx(norm, rel=1e-7)
    assert bracket.upper == pytest.approx(norm, rel=1e-7)
    assert bracket.lower <= bracket.upper


def test_its_repr_is_one_line_without_the_witness():
    bracket = LipschitzBracket(1.0, 2.5, (torch.zeros(1000),), {"lower": "pairs", "upper": "product"}, "all inputs", 0.1)
    assert repr(bracket) == "LipschitzBracket(1 <= Lip(f) <= 2.5, all inputs)"


def test_the_papers_example_1():
    """|x| as a network with ReLU: the constant is 1, the product of the layers' norms 2; multipliers see through it."""
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        model[2].weight.copy_(torch.tensor([[1.0, 1.0]]))
    bracket = lipschitz_bracket(model, torch.linspace(-1, 1, 5)[:, None])
    assert bracket.lower == pytest.approx(1, rel=1e-7)
    assert product_of_norms(model, (1,)) == pytest.approx(2, rel=1e-7)
    assert bracket.upper == pytest.approx(1, rel=1e-3)
    assert bracket.ratio == bracket.upper / bracket.lower
    assert bracket.methods["upper"] == "multipliers, verified by Cholesky"
    assert bracket.scope == "all inputs"


def test_the_domain_is_the_brackets_scope():
    model = nn.Sequential(nn.Linear(2, 3), nn.Sigmoid())
    bracket = lipschitz_bracket(model, torch.rand(3, 2), domain=(0, 0.5))
    assert bracket.scope == "inputs in [0, 0.5]"
    assert 0 < bracket.lower <= bracket.upper


def test_refuses_networks_that_are_not_finite():
    layer = nn.Linear(2, 2)
    nn.init.constant_(layer.weight, math.nan)
    with pytest.raises(InputError, match="finite outputs"):
        lower_bound(layer, torch.zeros(1, 2))
    with pytest.raises(InputError, match="finite outputs"):
        jacobian_lower_bound(layer, torch.zeros(1, 2))
    with pytest.raises(InputError, match="finite parameters"):
        lipschitz_bracket(layer, torch.zeros(1, 2))


@pytest.mark.usefixtures("quick_bounds")
def test_without_an_upper_bound_the_lower_one_still_works():
    model = nn.Sequential(nn.Linear(2, 2), nn.Hardshrink())
    bracket = lipschitz_bracket(model, torch.randn(3, 2))
    assert bracket.upper == bracket.ratio == math.inf
    assert "hardshrink" in bracket.reason
    assert "nothing is proved" in bracket.methods["upper"]
    assert bracket.lower == lower_bound(model, torch.randn(3, 2)).value or bracket.lower > 0
    assert (certified_radius(nn.Sequential(*model), torch.randn(3, 2), bracket) == 0).all()
    with pytest.raises(UnsupportedModuleError, match="hardshrink"):
        lipschitz_bracket(model, torch.randn(3, 2), require_upper=True)
    with pytest.raises(UnsupportedModuleError, match="hardshrink"):
        certified_radius(model, torch.randn(3, 2))


def test_the_bracket_tells_its_budget_and_keeps_it():
    model = nn.Sequential(*[part for _ in range(12) for part in (nn.Linear(60, 60), nn.Tanh())], nn.Linear(60, 60))
    bracket = lipschitz_bracket(model, torch.randn(50, 60), budget=0.5)
    assert bracket.budget == 0.5
    assert bracket.seconds < 10  # far less than what the searches would take
    assert 0 < bracket.lower <= bracket.upper
    assert lipschitz_bracket(nn.Linear(2, 2), torch.randn(3, 2)).budget == 60
