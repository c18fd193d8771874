"""Certified radii of single samples: secants from a point, and what balls of their own prove."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cheaplip import certified_radius, lipschitz_bracket
from cheaplip.bounds import centred
from cheaplip.bounds.layers.entrywise import Partly
from cheaplip.bounds.layers.secants import secant_interval
from cheaplip.errors import InputError
from cheaplip.robustness.attacks import normalized_pgd
from support.searches import short_ascents, short_searches

ACTIVATIONS = [nn.ReLU(), nn.LeakyReLU(0.1), nn.LeakyReLU(-1.0), nn.Hardtanh(), nn.ReLU6(), nn.Softplus(), nn.Tanh(), nn.GELU()]
ACTIVATIONS += [nn.SiLU(), nn.ELU(), nn.Hardswish(), nn.Mish(), nn.Softshrink(), Partly(nn.ReLU(), torch.arange(4) < 2)]


@settings(max_examples=50)
@given(seed=st.integers(0, 10_000), act=st.sampled_from(ACTIVATIONS), scale=st.sampled_from([0.1, 1.0, 10.0]))
def test_no_secant_leaves_its_interval(seed, act, scale):
    generator = torch.Generator().manual_seed(seed)
    centre = scale * torch.randn(50, 4, generator=generator, dtype=torch.float64)
    centre[:10] = centre[:10].round()  # on kinks too
    below, above = scale * torch.rand(2, 50, 4, generator=generator, dtype=torch.float64)
    least, largest = secant_interval(act, centre, centre - below, centre + above)
    z = centre - below + (below + above) * torch.rand(200, 50, 4, generator=generator, dtype=torch.float64)
    slopes = (act(z) - act(centre)) / (z - centre)
    assert (slopes >= least - 1e-9).all()
    assert (slopes <= largest + 1e-9).all()


def test_the_secants_of_a_relu_are_known():
    centre = torch.tensor([1.0, -1.0, 2.0, 0.0]).double()
    least, largest = secant_interval(nn.ReLU(), centre, centre - 4, centre + 3)
    torch.testing.assert_close(least, torch.tensor([1 / 4, 0, 1 / 2, 0]).double())
    torch.testing.assert_close(largest, torch.tensor([1, 2 / 3, 1, 1]).double())


@settings(max_examples=4)
@given(seed=st.integers(0, 1000), act=st.sampled_from([nn.ReLU, nn.GELU, nn.Tanh, nn.Softplus]))
def test_no_attack_fools_within_a_local_radius(seed, act):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), act(), nn.Linear(8, 6), act(), nn.Linear(6, 3)).double()
    for layer in model[::2]:
        layer.weight.data *= 2
    x = torch.randn(15, 4).double()
    y = model(x).argmax(1)
    with short_searches(), short_ascents():
        bracket = lipschitz_bracket(model, x, steps=1)
    radius = certified_radius(model, x, bracket, local=True)
    assert (radius >= certified_radius(model, x, bracket)).all()
    assert radius.mean() > 1.2 * certified_radius(model, x, bracket).mean()
    for i in range(len(x)):
        eps = float(radius[i]) * (1 - 1e-6)
        _, fooled = normalized_pgd(model, x[i : i + 1], y[i : i + 1], eps=eps, step=eps / 4, iterations=8)
        assert not fooled.any()
        directions = nn.functional.normalize(torch.randn(500, 4).double())
        assert (model(x[i] + eps * directions).argmax(1) == y[i]).all()


def test_a_linear_piece_is_known_to_its_end():
    """F = relu(x) - 1 against 0: from x = 3 the class changes at 1, two away, though the slope is 1 on one side alone."""
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 2)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [-5.0]]))
        model[2].weight.copy_(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
        model[2].bias.copy_(torch.tensor([-1.0, 0.0]))
    bracket = lipschitz_bracket(model, torch.zeros(1, 1).double(), steps=1)
    x = torch.tensor([[3.0]]).double()
    assert certified_radius(model, x, bracket).item() < 0.5
    assert certified_radius(model, x, bracket, local=True).item() == pytest.approx(2, rel=1e-6)


def test_samples_at_a_time_change_nothing(monkeypatch):
    model, x = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(7, 3)
    bracket = lipschitz_bracket(model, x, steps=1, budget=1.0)
    together = certified_radius(model, x, bracket, local=True)
    monkeypatch.setattr(centred, "ENTRIES", 1)
    torch.testing.assert_close(certified_radius(model, x, bracket, local=True), together)


def test_a_constant_network_has_no_boundary():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[2].weight.zero_()
        model[2].bias.copy_(torch.tensor([1.0, 0.0]))
    bracket = lipschitz_bracket(model, torch.zeros(1, 2), steps=1)
    assert certified_radius(model, torch.randn(2, 2), bracket, local=True).isinf().all()


class Attending(nn.Module):
    """Attention over tokens, a normalisation and a skip."""

    def __init__(self):
        super().__init__()
        self.attention, self.norm = nn.MultiheadAttention(4, 2, batch_first=True), nn.LayerNorm(4)

    def forward(self, x):
        y = self.norm(x)
        return (x + self.attention(y, y, y, need_weights=False)[0]).mean(1)


def pooled():
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.GroupNorm(1, 3), nn.Flatten(), nn.Linear(12, 3))


@pytest.mark.parametrize(("build", "shape"), [(Attending, (3, 4)), (pooled, (1, 6, 6))])
def test_other_networks_have_balls_of_their_own_too(build, shape):
    model, x = build().eval(), torch.randn(2, *shape)
    y = model(x).argmax(1)
    with short_searches(), short_ascents():
        bracket = lipschitz_bracket(model, x, domain=(-4.0, 4.0), steps=1)
    radius = certified_radius(model, x, bracket, local=True)
    assert (radius > 5 * certified_radius(model, x, bracket)).all()
    for i, eps in enumerate((radius * (1 - 1e-6)).tolist()):
        _, fooled = normalized_pgd(model, x[i : i + 1], y[i : i + 1], eps=eps, step=eps / 4, iterations=8)
        assert not fooled.any()


def test_refuses_local_radii_in_other_norms():
    other = lipschitz_bracket(nn.Linear(3, 2), torch.zeros(1, 3), steps=1, input_norm=torch.inf)
    with pytest.raises(InputError, match="2-norm"):
        certified_radius(nn.Linear(3, 2), torch.zeros(1, 3), other, local=True)
