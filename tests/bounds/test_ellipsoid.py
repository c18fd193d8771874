"""The certificate of networks with whatever operations: no pair is steeper, and small balls are nearly exact."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from cheaplip import Ball
from cheaplip.bounds import ellipsoid as ellipsoids
from cheaplip.bounds.ellipsoid import ellipsoid
from cheaplip.bounds.graph import trace
from cheaplip.bounds.jacobian import jacobian_norms
from cheaplip.bounds.linearised import Reach
from cheaplip.bounds.multipliers.certificate import proved_root
from cheaplip.bounds.upper import upper_bound
from support.searches import short_searches


class Attending(nn.Module):
    """Attention over three tokens, a skip, a normalisation, a constant token, a mean."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm, self.register = nn.LayerNorm(4), nn.Parameter(torch.randn(1, 1, 4))

    def forward(self, x):
        x = torch.cat([x, self.register.expand(len(x), -1, -1)], 1)
        return self.norm(x + self.attention(x, x, x, need_weights=False)[0]).mean(1)


class Gated(nn.Module):
    """Products of entries, a square, a soft choice."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(12, 5), nn.Linear(12, 5)

    def forward(self, x):
        x = x.flatten(1)
        a, b = torch.tanh(self.first(x)), self.second(x)
        return torch.softmax(3 * b, 1) * a + b**2


class Pooled(nn.Module):
    """Convolutions, windows that do not overlap and one that do, GroupNorm, a skip."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)

    def forward(self, x):
        x = functional.silu(self.norm(self.first(x[:, None])))
        x = functional.max_pool2d(x, (1, 2)) + functional.max_pool2d(self.second(x), 3, (1, 2), 1)
        return functional.softmin(x.flatten(2), dim=1).sum(2)


class Recurrent(nn.Module):
    """The last state of an LSTM of three steps."""

    def __init__(self):
        super().__init__()
        self.memory = nn.LSTM(4, 3, batch_first=True)

    def forward(self, x):
        return self.memory(x)[1][0][-1]


def normalised():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.GELU(), nn.RMSNorm(6))


NETWORKS = [Attending, Gated, Pooled, Recurrent, normalised]


@pytest.mark.parametrize("build", NETWORKS)
@pytest.mark.parametrize("radius", [1e-4, 0.1, 1.0])
def test_no_point_and_no_pair_of_the_ball_is_steeper(build, radius):
    for seed in range(2):
        torch.manual_seed(seed)
        model, centre = build().double().eval(), torch.randn(3, 4).double()
        ball = Ball(centre, radius)
        sigma = ellipsoid(trace(model, (3, 4), ball))
        bound = proved_root(sigma)
        directions = functional.normalize(torch.randn(400, 12), dim=1).double().reshape(-1, 3, 4)
        x = centre + radius * torch.rand(400, 1, 1).double() * directions
        norms = jacobian_norms(model, x)
        assert norms.max() <= bound * (1 + 1e-9)
        difference = (model(x[:200]) - model(x[200:])).detach()
        quotients = difference.norm(dim=1) / (x[:200] - x[200:]).flatten(1).norm(dim=1)
        assert quotients.max() <= bound * (1 + 1e-9)
        contrast = torch.zeros(sigma.shape[0]).double()
        contrast[0], contrast[1] = 1.0, -1.0
        across = (difference @ contrast).abs() / (x[:200] - x[200:]).flatten(1).norm(dim=1)
        assert across.max() <= (contrast @ sigma @ contrast).sqrt() * (1 + 1e-6)
        if radius < 1e-3:
            assert bound <= 1.02 * float(jacobian_norms(model, centre[None])[0])


def test_a_later_round_is_worth_its_time(monkeypatch):
    torch.manual_seed(0)
    model, ball = Pooled().double(), Ball(torch.randn(3, 4).double(), 0.05)
    network = trace(model, (3, 4), ball)
    best = proved_root(ellipsoid(network))
    monkeypatch.setattr(ellipsoids, "ROUNDS", 1)
    assert best < 0.99 * proved_root(ellipsoid(network))
    assert ellipsoid(network, deadline=0.0) is None


def test_where_values_are_is_remembered():
    reach, sigma = Reach(2.0), torch.diag(torch.tensor([4.0, 1.0]).double())
    near = reach.within(sigma / 4).of(torch.eye(2).double())
    assert near == pytest.approx(2.0)
    assert reach.within(sigma).of(torch.eye(2).double()) == near


def test_the_upper_end_of_a_ball_takes_it():
    torch.manual_seed(0)
    model, ball = Attending(), Ball(torch.randn(3, 4), 0.01)
    with short_searches():
        found = upper_bound(model, (3, 4), domain=ball)
    assert "of all values" in found.method
    assert found.value <= 1.2 * float(jacobian_norms(model.double(), ball.centre[None].double())[0])
    assert found.pairwise.shape == (4, 4)


def test_a_normalisation_has_a_bound_on_all_inputs():
    layer = nn.LayerNorm(5, eps=0.01)
    assert proved_root(ellipsoid(trace(layer, (5,)))) == pytest.approx(10, rel=1e-3)
    assert proved_root(ellipsoid(trace(layer, (5,), Ball(torch.arange(5.0), 1e-6)))) == pytest.approx(
        float(jacobian_norms(layer.double(), torch.arange(5.0)[None].double())[0]), rel=1e-4
    )


def test_wide_networks_are_left_to_other_methods(monkeypatch):
    network = trace(Gated(), (3, 4), (0.0, 1.0))
    assert ellipsoid(network) is not None
    monkeypatch.setattr(ellipsoids, "MOST", 16)
    assert ellipsoid(network) is None
    assert ellipsoid(trace(Gated(), (3, 4))) is None  # a square is unbounded
