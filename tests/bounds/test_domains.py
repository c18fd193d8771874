"""Brackets on domains, for the networks and domains that are easy to get wrong: no pair of the domain is steeper."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cheaplip import Ball, certified_radius, difference_quotient, lipschitz_bracket
from cheaplip.bounds import subdivision
from cheaplip.bounds.layers.activations import slope_interval
from cheaplip.bounds.layers.constants import layer_norm
from cheaplip.bounds.upper import upper_bound
from cheaplip.errors import ContradictionError
from cheaplip.inference import in_float64
from support.searches import short_ascents, short_searches


class Constants(nn.Module):
    """A network with constants of its own before, between and after its layers."""

    def __init__(self, inner, kind):
        super().__init__()
        self.first, self.second, self.kind = *inner, kind
        self.register_buffer("shift", torch.randn(inner[0][0].in_features))

    def forward(self, x):
        if self.kind == "shifted":
            return self.second(self.first(x - self.shift) + 0.5) - 1
        if self.kind == "mirrored":
            return self.second(self.first(1 - x))
        if self.kind == "negative":
            return -self.second(self.first(-x))
        return self.second(self.first(x * 2) / 2)


def prelu(entries):
    layer = nn.PReLU(entries)
    with torch.no_grad():
        layer.weight.uniform_(-1, 1)
    return layer


ACTIVATIONS = [
    nn.ReLU,
    lambda: nn.LeakyReLU(0.01),
    lambda: nn.LeakyReLU(3.0, inplace=True),
    nn.Hardtanh,
    nn.ReLU6,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Softplus,
    nn.Tanh,
    nn.SiLU,
]


@settings(max_examples=12)
@given(
    seed=st.integers(0, 10**6),
    inputs=st.sampled_from([1, 2, 5]),  # by subdivision, and by intervals and multipliers
    activation=st.sampled_from([*ACTIVATIONS, "prelu"]),
    kind=st.sampled_from(["plain", "activation first", "shifted", "mirrored", "negative", "scaled"]),
    domain=st.sampled_from([(-0.7, 0.7), (0.1, 0.7), (-1.0, 1.0), (0.0, 6.0), (-3.0, 3.0), "ball", "held"]),
)
def test_no_pair_of_the_domain_is_steeper_than_the_upper_end(seed, inputs, activation, kind, domain):
    torch.manual_seed(seed)
    width = 6
    act = (lambda n: prelu(n)) if activation == "prelu" else (lambda n: activation())
    first = nn.Sequential(nn.Linear(inputs, width), act(width))
    second = nn.Sequential(nn.Linear(width, 4), act(4), nn.Linear(4, 2))
    if kind == "plain":
        model = nn.Sequential(first, second)
    elif kind == "activation first":
        model = nn.Sequential(act(inputs), first, second)
    else:
        model = Constants((first, second), kind)
    with torch.no_grad():
        for parameter in (*first[0].parameters(), *second[0].parameters()):
            parameter.mul_(3)
    if domain == "ball":
        domain = Ball(torch.randn(inputs), 0.5)
        u, v = (domain.centre + 0.5 * nn.functional.normalize(x) * torch.rand(400, 1) for x in torch.randn(2, 400, inputs))
    else:
        if domain == "held":
            domain = (torch.zeros(inputs), torch.cat([torch.ones(1), torch.zeros(inputs - 1)]))
        low, high = (torch.as_tensor(end, dtype=torch.float64) for end in domain)
        u, v = low + (high - low) * torch.rand(2, 400, inputs).double()
    v[:200] = u[:200].lerp(v[:200], 1e-4)
    with pytest.MonkeyPatch.context() as patch, short_searches(), short_ascents():
        patch.setattr(subdivision, "CELLS", 200)
        bracket = lipschitz_bracket(model, u[:3].float(), domain=domain, steps=3)
    steepest = difference_quotient(in_float64(model), u.double(), v.double()).nan_to_num(0.0).max()
    assert steepest <= bracket.upper * (1 + 1e-6)
    assert 0 <= bracket.lower <= bracket.upper


RELU_AND_MIRROR = [[1.0], [1.0], [-1.0]]


def test_a_kink_is_no_witness(monkeypatch):
    """relu(x + 10) - relu(x) + relu(-x) = 10 on [-4, 4]; at 0 torch's derivative of it is 1."""
    monkeypatch.setattr(subdivision, "CELLS", 2**15)
    model = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(RELU_AND_MIRROR))
        model[0].bias.copy_(torch.tensor([10.0, 0.0, 0.0]))
        model[2].weight.copy_(torch.tensor([[1.0, -1.0, 1.0]]))
    bracket = lipschitz_bracket(model, torch.linspace(-4, 4, 9)[:, None], domain=(-4.0, 4.0))
    assert bracket.lower <= 1e-6
    assert bracket.upper >= 0


def test_ends_that_float32_does_not_have_stay_where_they_are():
    layer = nn.Linear(1, 1).double()
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.bias.fill_(-0.699999995)
    model = nn.Sequential(layer, nn.ReLU())
    assert upper_bound(model, (1,), domain=(0.0, 0.7)).value >= 1


@pytest.mark.parametrize("seed", range(8))
def test_cells_leave_no_gap_at_the_ends_of_a_domain_far_out(seed):
    torch.manual_seed(seed)
    low, high = -1e6 * (1 + torch.rand(1).double()), 1 + torch.rand(1).double()
    layer = nn.Linear(1, 1).double()
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.bias.copy_(-(high - 1e-11))  # the kink is 1e-11 inside
    assert upper_bound(nn.Sequential(layer, nn.ReLU()), (1,), domain=(low, high)).value >= 1 - 1e-9


def test_numbers_too_large_or_small_for_their_squares():
    def scaled(*factors):
        layers = [nn.Linear(1, 1).double() for _ in factors]
        for layer, factor in zip(layers, factors, strict=True):
            nn.init.constant_(layer.weight, factor)
            nn.init.constant_(layer.bias, 0.0)
        return nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))

    assert upper_bound(scaled(1e200, 1e200, 1e-300), (1,), domain=(0.0, 1.0)).value >= 1e100 * (1 - 1e-6)
    assert upper_bound(scaled(1e-170), (1,), domain=(0.0, 1.0)).value >= 1e-170


@pytest.mark.parametrize("act", [nn.Hardtanh(), nn.ReLU6(), nn.Hardsigmoid(), nn.Hardswish()])
def test_an_interval_from_kink_to_kink_has_the_slopes_between(act):
    ends = {nn.ReLU6: (0.0, 6.0), nn.Hardtanh: (-1.0, 1.0)}.get(type(act), (-3.0, 3.0))
    low, high = slope_interval(act, *(torch.tensor(end) for end in ends))
    middle = torch.linspace(*ends, 101, dtype=torch.float64)
    slopes = act(middle).diff() / middle.diff()
    assert low - 1e-9 <= slopes.min()
    assert slopes.max() <= high + 1e-9


@pytest.mark.parametrize("slope", [0.01, 0.1, 1 / 3])
def test_slopes_are_those_of_float64(slope):
    low, high = slope_interval(nn.LeakyReLU(slope), torch.tensor(-2.0), torch.tensor(-1.0))
    assert low <= slope <= high


def test_classes_keep_the_radii_of_their_own_bounds_on_a_domain():
    """Outputs that move together: their difference is far less steep than each of them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))
    with torch.no_grad():
        model[2].weight[1] = model[2].weight[0] + 0.01 * torch.randn(8)
        model[2].bias.copy_(torch.tensor([1.0, 0.0]))
    x = torch.rand(5, 2)
    with short_ascents():
        inside, everywhere = (lipschitz_bracket(model, x, domain=domain) for domain in ((0.0, 1.0), None))
    assert inside.ratio <= 1.01
    assert (certified_radius(model, x, inside) >= 0.99 * certified_radius(model, x, everywhere)).all()


class Steep(nn.Module):
    def forward(self, x):
        return 3 * x


def test_a_wrong_rule_is_told_and_gives_no_bracket():
    layer_norm.register(Steep)(lambda module, shape: 1.0)
    with pytest.raises(ContradictionError, match=r"lower 3.* is above upper 1.*rules that you have registered"):
        lipschitz_bracket(nn.Sequential(Steep()), torch.randn(3, 2))
    assert math.isfinite(upper_bound(nn.Sequential(Steep()), (2,)).value)
