"""Zonotopes and branches of neurons: sound on random networks, and exact where that can be told."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cheaplip import Ball
from cheaplip.bounds.branching import branch
from cheaplip.bounds.graph import trace
from cheaplip.bounds.jacobian import jacobian_norms
from cheaplip.bounds.serial import serial
from cheaplip.bounds.upper import upper_bound
from cheaplip.bounds.zonotope import Limit, chord, is_empty, narrowed, propagate
from support import oracles
from support.searches import short_searches

ACTIVATIONS = [nn.ReLU, nn.GELU, nn.Tanh, nn.Hardtanh, nn.Softshrink, nn.Mish, lambda: nn.LeakyReLU(-1.0)]


class Skips(nn.Module):
    """Sums, concatenations and constants in which values are used twice."""

    def __init__(self, inputs, activation):
        super().__init__()
        self.first, self.second, self.act = nn.Linear(inputs, 6), nn.Linear(6, 6), activation()
        self.last = nn.Linear(6 + inputs, 2)

    def forward(self, x):
        y = self.act(self.first(2 * x - 0.5))
        y = y - self.act(self.second(y)) / 2
        return self.last(torch.cat([y, x], 1))


def points_of(domain, inputs, n=500):
    x = 2 * torch.rand(n, inputs).double() - 1
    if not isinstance(domain, Ball):
        return domain[0] + (domain[1] - domain[0]) * (x + 1) / 2
    return domain.centre.double() + domain.radius * nn.functional.normalize(x) * torch.rand(n, 1).double()


cases = given(
    seed=st.integers(0, 10**6),
    inputs=st.integers(1, 7),
    activation=st.sampled_from(ACTIVATIONS),
    ball=st.booleans(),
)


def random_case(seed, inputs, activation, ball):
    torch.manual_seed(seed)
    model = Skips(inputs, activation).double()
    return model, Ball(torch.randn(inputs), 0.8) if ball else (-0.5, 1.0)


@cases
def test_values_stay_in_their_regions_and_a_network_is_what_its_chain_is(seed, inputs, activation, ball):
    model, domain = random_case(seed, inputs, activation, ball)
    network = trace(model, (inputs,), domain)
    layers = serial(network)
    smaller, limits = propagate(layers, domain)
    x = points_of(domain, inputs)
    z = x
    with torch.no_grad():
        for before, layer in zip(layers, smaller, strict=True):
            if not isinstance(layer.module, nn.Linear):
                assert (layer.region.low <= z).all()
                assert (z <= layer.region.high).all()
                assert (layer.region.low >= before.region.low).all()
            z = layer.module.double()(z)
        torch.testing.assert_close(z, model(x))
        root = network.root.region
        assert (root.low <= z).all()
        assert (z <= root.high).all()
        assert ((z - root.centre).norm(dim=1) <= root.reach).all()
    assert not is_empty(limits, domain, (inputs,))


@given(seed=st.integers(0, 10**6), activation=st.sampled_from(ACTIVATIONS))
def test_activations_are_within_their_chord_and_what_surrounds_it(seed, activation):
    torch.manual_seed(seed)
    low = 6 * torch.rand(20).double() - 4
    high = low + 3 * torch.rand(20).double()
    m, least, most = chord(activation(), low, high)
    z = low + (high - low) * torch.linspace(0, 1, 999).double()[:, None]
    away = activation()(z) - m * z
    assert (least <= away).all()
    assert (away <= most).all()
    assert (most - least <= 1.25 * (away.amax(0) - away.amin(0)) + 1e-3).all()


def test_contradicting_limits_hold_nothing():
    x = torch.eye(2).double()
    none = torch.zeros(2, 0).double()
    both = [Limit(x, none, torch.tensor([-1.5, -1.5]).double()), Limit(-x.sum(0)[None], none[:1], torch.tensor([2.9]).double())]
    assert is_empty(both, (0.0, 2.0), (2,))  # x >= 1.5, y >= 1.5, x + y <= 2.9
    assert not is_empty(both[:1], (0.0, 2.0), (2,))
    assert not is_empty([], (0.0, 2.0), (2,))


@settings(max_examples=8)
@cases
def test_no_jacobian_of_the_domain_is_larger_than_the_bound_of_branches(seed, inputs, activation, ball):
    model, domain = random_case(seed, inputs, activation, ball)
    with short_searches(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("cheaplip.bounds.climbing.ROUNDS", 5)
        patch.setattr("cheaplip.bounds.branching.PATIENCE", 3)
        found = branch(narrowed(serial(trace(model, (inputs,), domain)), domain), domain)
    norms = jacobian_norms(model, points_of(domain, inputs))
    assert norms.max() <= found.upper * (1 + 1e-9)
    assert found.largest <= found.upper * (1 + 1e-9)
    assert jacobian_norms(model, found.steepest).item() >= found.largest * (1 - 1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_branches_meet_the_exact_constant_by_regions(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 2)).double()
    exact = oracles.lipschitz_by_regions(model)
    domain = (-100.0, 100.0)
    found = branch(narrowed(serial(trace(model, (2,), domain)), domain), domain)
    assert exact * (1 - 1e-9) <= found.upper <= 1.02 * exact


class Controlled(nn.Module):
    """X + dt (A x + B pi(x))."""

    def __init__(self):
        super().__init__()
        self.policy = nn.Sequential(nn.Linear(3, 12), nn.Tanh(), nn.Linear(12, 1))
        self.register_buffer("a", torch.randn(3, 3))
        self.register_buffer("b", torch.randn(3, 1))

    def forward(self, x):
        return x + 0.1 * (x @ self.a.T + self.policy(x) @ self.b.T)


def test_a_loop_of_a_policy_and_a_linear_system_is_subdivided_with_its_skip():
    torch.manual_seed(0)
    model = Controlled()
    bound = upper_bound(model, (3,), domain=(-1.0, 1.0))
    sampled = jacobian_norms(model.double(), 2 * torch.rand(20_000, 3).double() - 1).max().item()
    assert sampled <= bound.value <= 1.05 * sampled


def test_wide_networks_and_other_layers_are_left_to_others():
    assert branch(serial(trace(nn.Linear(2000, 2), (2000,), (0.0, 1.0))), (0.0, 1.0)) is None
    pooled = nn.Sequential(nn.Unflatten(1, (1, 4)), nn.MaxPool1d(2), nn.Flatten())
    assert branch(serial(trace(pooled, (4,), (0.0, 1.0))), (0.0, 1.0), deadline=math.inf) is None
    # whose steps are one contraction, as many as there are activations
    with_norm = nn.Sequential(nn.Conv1d(1, 3, 3), nn.ReLU(), nn.MaxPool1d(2), nn.GroupNorm(1, 3), nn.Flatten(), nn.Linear(9, 2))
    assert branch(serial(trace(with_norm, (1, 8), (0.0, 1.0))), (0.0, 1.0), deadline=math.inf) is None
