"""Lower bounds and brackets: attained, sound on random networks, exact on linear maps."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cheaplip import Ball, LipschitzBracket, PairSet, certified_radius, difference_quotient, lipschitz_bracket, perturbed_pairs
from cheaplip.bounds import climbing
from cheaplip.bounds import lower as lower_bounds
from cheaplip.bounds.climbing import climb_jacobian
from cheaplip.bounds.jacobian import jacobian_lower_bound, jacobian_norms
from cheaplip.bounds.lower import lower_bound, pair_lower_bound
from cheaplip.bounds.upper import product_of_norms, upper_bound
from cheaplip.errors import InputError, UnsupportedModuleError
from cheaplip.inference import evaluating, in_float64
from support import oracles
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


def test_its_repr_is_one_line_without_the_witness():
    bracket = LipschitzBracket(1.0, 2.5, (torch.zeros(1000),), {"lower": "pairs", "upper": "product"}, "all inputs", 0.1)
    assert repr(bracket) == "LipschitzBracket(1 <= Lip(f) <= 2.5, all inputs)"


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


def test_the_witness_of_a_jacobian_reproduces_its_value(monkeypatch):
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 3))
    monkeypatch.setattr("cheaplip.bounds.jacobian.CHUNK", 3)
    found = jacobian_lower_bound(model, torch.randn(7, 2, 3))
    (point,) = found.witness
    jacobian = torch.func.jacrev(in_float64(model))(point.detach()[None]).reshape(3, 6)
    assert found.value == pytest.approx(torch.linalg.matrix_norm(jacobian, 2).item())


@given(inputs=st.integers(1, 5), outputs=st.integers(1, 5), seed=st.integers(0, 1000))
def test_jacobian_norms_equal_those_of_automatic_differentiation(inputs, outputs, seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(inputs, 6), nn.Dropout(), nn.Tanh(), nn.Linear(6, outputs)).double()
    x = torch.randn(4, inputs, dtype=torch.float64)
    jacobians = torch.func.vmap(torch.func.jacrev(lambda x: model[3](model[2](model[0](x)))))(x)
    torch.testing.assert_close(jacobian_norms(model, x), torch.linalg.matrix_norm(jacobians, 2))
    assert model.training


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


def test_the_domain_is_the_brackets_scope():
    model = nn.Sequential(nn.Linear(2, 3), nn.Sigmoid())
    bracket = lipschitz_bracket(model, torch.rand(3, 2), domain=(0, 0.5))
    assert bracket.scope == "inputs in [0, 0.5]"
    assert 0 < bracket.lower <= bracket.upper


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
    bracket = lipschitz_bracket(model, torch.randn(50, 60), budget=1.0)
    assert bracket.budget == 1.0
    assert bracket.seconds < 10  # far less than what the searches would take
    assert 0 < bracket.lower <= bracket.upper
    assert lipschitz_bracket(nn.Linear(2, 2), torch.randn(3, 2)).budget == 60


@given(seed=st.integers(0, 1000), outputs=st.integers(65, 90))
def test_power_iteration_for_many_outputs_is_never_above_and_near(seed, outputs):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(7, 20), nn.Softplus(), nn.Linear(20, outputs)).double()
    x = torch.randn(3, 7, dtype=torch.float64)
    exact = torch.linalg.matrix_norm(torch.func.vmap(torch.func.jacrev(model))(x), 2)
    norms = jacobian_norms(model, x)
    assert (norms <= exact * ROUNDING).all()
    assert (norms >= 0.99 * exact).all()
    assert (jacobian_norms(model, x, deadline=0.0) <= norms).all()


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


@settings(max_examples=10)
@given(seed=st.integers(0, 1000), ball=st.booleans())
def test_random_steps_meet_the_exact_constant_by_regions(seed, ball):
    """In a domain so large that every region has a part in it."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    domain = Ball(torch.zeros(2), 50.0) if ball else (-50.0, 50.0)
    options = {"input_norm": 2, "output_norm": 2, "deadline": math.inf}
    found = climb_jacobian(model, torch.zeros(1, 2).double(), domain, **options)
    exact = oracles.lipschitz_by_regions(model)
    assert 0.99 * exact <= found.value <= exact * ROUNDING
    assert found.witness[0].norm() <= 50 * 2**0.5
    assert climb_jacobian(model, torch.zeros(1, 2).double(), domain, **{**options, "deadline": 0.0}).value <= found.value
