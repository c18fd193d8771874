"""Lower bounds: attained by pairs that do not collapse, inside the domain, near exact constants."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cheaplip import PairSet, difference_quotient
from cheaplip.bounds.jacobian import jacobian_norms
from cheaplip.bounds.lower import lower_bound, pair_lower_bound
from cheaplip.bounds.upper import product_of_norms
from cheaplip.errors import InputError
from cheaplip.inference import in_float64
from support import oracles

ROUNDING = 1 + 1e-9


def test_ascent_alone_finds_the_norm_of_a_linear_map():
    layer = nn.Linear(6, 4)
    found = pair_lower_bound(layer, torch.randn(5, 6), torch.randn(5, 6), steps=200)
    assert found.value == pytest.approx(oracles.spectral_norm(layer, (6,)), rel=1e-4)


class Bump(nn.Module):
    """x and, round 0, a bump of height 0.1 and half the width 1e-3."""

    def forward(self, x):
        return x + 0.1 * (1 - x.abs() / 1e-3).relu()


def test_no_given_pair_is_steeper_than_what_is_found():
    u = torch.cat([torch.linspace(2, 3, 40), torch.tensor([-9e-4])])[:, None]
    v = torch.cat([torch.linspace(3, 4, 40), torch.tensor([-1e-4])])[:, None]
    assert pair_lower_bound(Bump(), u, v, steps=5).value >= 100


class Double(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3).double()

    def forward(self, x):
        return self.layer(x.double())


def test_a_network_that_computes_in_float64_is_left_to_it():
    model = Double()
    found = pair_lower_bound(model, torch.randn(20, 4), torch.randn(20, 4), steps=100)
    assert found.value == pytest.approx(oracles.spectral_norm(model.layer, (4,)), rel=1e-3)


@pytest.mark.parametrize("seed", [1, 2])
def test_far_from_the_origin_pairs_do_not_collapse(seed):
    """There float32 has no digits left for differences, so that nothing of the search may be in it."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    far = 1e8 * torch.ones(3)  # exact in float32; 0.1 beside it is lost
    shifted = nn.Sequential(nn.Linear(3, 3), model)
    with torch.no_grad():
        shifted[0].weight.copy_(torch.eye(3))
        shifted[0].bias.copy_(-far)
    u = 3 * torch.randn(400, 3).double()
    near = pair_lower_bound(model, u, u + 0.1, steps=5).value
    assert pair_lower_bound(shifted, u + far, u + far + 0.1, steps=5).value == pytest.approx(near, rel=1e-4)


@given(seed=st.integers(0, 1000), box=st.booleans())
def test_the_witness_of_a_pair_reproduces_its_value_inside_the_domain(seed, box):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2))
    u, v = torch.rand(4, 3), torch.rand(4, 3)
    first = difference_quotient(in_float64(model), u.double(), v.double()).max().item()
    found = pair_lower_bound(model, u, v, steps=20, domain=(0, 1) if box else None)
    point_u, point_v = found.witness
    again = difference_quotient(in_float64(model), point_u[None], point_v[None])
    assert again.item() == pytest.approx(found.value, rel=1e-9)
    assert found.value >= first * (1 - 1e-9)
    if box:
        assert torch.stack([point_u, point_v]).min() >= 0
        assert torch.stack([point_u, point_v]).max() <= 1


def test_the_lower_bound_nearly_meets_the_exact_constant_of_a_small_network():
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False))
    exact = oracles.lipschitz_of_relu_net(model[0], model[2])
    found = lower_bound(model, 3 * torch.randn(100, 4)).value
    assert 0.999 * exact < found < exact * ROUNDING
    assert exact < product_of_norms(model, (4,)) * ROUNDING


class Nothing(nn.Module):
    """x - relu(x) + relu(-x) = 0; but at 0, where torch takes 0 for the derivative of relu, it says 1."""

    def forward(self, x):
        return x - x.relu() + (-x).relu()


@pytest.mark.parametrize("domain", [None, (0.0, 1.0)])
def test_kinks_do_not_count(domain):
    assert jacobian_norms(Nothing(), torch.zeros(1, 2)).item() == 1
    assert lower_bound(Nothing(), torch.zeros(3, 2), domain=domain).value == 0


@pytest.mark.parametrize("gap", [0.0, 1e-14, 1e-11])
def test_rounding_between_close_pairs_is_no_slope(gap):
    """Of x + 1e6 the sums are rounded to 1e-10: pairs nearer than that have no quotient worth the name."""
    u = torch.linspace(0.5, 1, 200, dtype=torch.float64)[:, None]
    v = u + (gap or 1e-15)
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    with torch.no_grad():
        for layer, shift in zip(model, (1e6, -1e6), strict=True):
            layer.weight.fill_(1)
            layer.bias.fill_(shift)
    assert pair_lower_bound(model, u, v, steps=100, domain=(0.0, 1.0)).value < 3
    # at a corner of the domain that rounds up, pairs cannot part, and all but the corner rounds down
    corner = 0.75 + 2**-34 + 2**-51
    end = torch.full_like(u, corner)
    assert gap == 0 or difference_quotient(in_float64(model), end, end - gap * u).max() > 10
    assert pair_lower_bound(model, end, end - gap * u, steps=5, domain=(0.0, corner)).value < 3
    assert lower_bound(model, u, domain=(0.0, 1.0), pairs=PairSet(u, v)).value == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("corner", [0.0, 1.0])
def test_inputs_in_a_corner_of_the_domain_move_inwards(corner):
    found = lower_bound(nn.Linear(3, 2), torch.full((2, 3), corner), domain=(0.0, 1.0), steps=5)
    assert found.value > 0
    steep = lower_bound(SquareOf(), torch.full((2, 1), corner), domain=(0.0, 1.0), steps=100)
    assert 1.99 < steep.value <= 2 * ROUNDING  # the largest slope of x^2 on [0, 1], at 1


class SquareOf(nn.Module):
    def forward(self, x):
        return x.square()


def test_large_inputs_close_together_and_whole_numbers_serve():
    layer = nn.Linear(2, 2)
    norm = oracles.spectral_norm(nn.Linear(2, 2).requires_grad_(False), (2,))
    assert norm > 0
    exact = np.linalg.norm(layer.weight.detach().double().numpy(), 2)
    for inputs in (torch.full((2, 2), 1e6), torch.tensor([[1, 2], [3, 4]])):
        assert lower_bound(layer, inputs, steps=5).value == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize("inputs", [torch.zeros(0, 2), torch.tensor([[math.nan, 0.0]]), torch.tensor([[math.inf, 0.0]])])
def test_refuses_inputs_to_start_from_that_are_none(inputs):
    with pytest.raises(InputError, match="at least one finite input"):
        lower_bound(nn.Linear(2, 2), inputs)


@settings(max_examples=2)
@given(seed=st.integers(0, 1000))
def test_all_inputs_have_no_smaller_lower_end_than_those_of_a_box(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Linear(8, 2))
    inputs = torch.rand(4, 5)
    box = (float(inputs.min()), float(inputs.max()))
    everywhere, inside = (lower_bound(model, inputs, domain=domain, steps=15).value for domain in (None, box))
    assert everywhere >= 0.999 * inside


@pytest.mark.slow
@pytest.mark.parametrize("seed", [9, 18, 22])
def test_nor_than_those_of_a_wider_box(seed):
    torch.manual_seed(seed)
    inputs, act = (6 if seed == 9 else 12), [nn.ReLU, nn.GELU][seed % 3]
    model = nn.Sequential(nn.Linear(inputs, 24), act(), nn.Linear(24, 24), act(), nn.Linear(24, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    x = torch.rand(20, inputs)
    everywhere, *inside = (lower_bound(model, x, domain=box).value for box in (None, (-1.0, 1.0), (-3.0, 3.0)))
    assert everywhere >= max(inside)
