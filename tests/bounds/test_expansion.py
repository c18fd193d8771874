"""Polynomials in a box: sound at every point of it, and of second order in its width."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cheaplip.bounds import subdivision
from cheaplip.bounds.division import SUBDIVISION
from cheaplip.bounds.expansion import Expansion
from cheaplip.bounds.graph import trace
from cheaplip.bounds.jacobian import jacobian_norms
from cheaplip.bounds.layers import curvature, derivative
from cheaplip.bounds.matrix_sums import largest_norm
from cheaplip.bounds.polynomials import Polynomial, Products, slopes, values
from cheaplip.bounds.serial import serial, steps_of
from cheaplip.bounds.subdivision import TOLERANCE, subdivide
from cheaplip.bounds.upper import upper_bound
from cheaplip.inference import in_float64

SMOOTH = [
    nn.GELU(),
    nn.GELU("tanh"),
    nn.SiLU(),
    nn.Mish(),
    nn.Tanh(),
    nn.Tanhshrink(),
    nn.Sigmoid(),
    nn.LogSigmoid(),
    nn.Softplus(),
    nn.Softplus(beta=3.0),
    nn.Softplus(beta=-2.0),
]


def dense(widths, activation, scale=1.0):
    layers = [part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b), activation)][:-1]
    model = nn.Sequential(*layers).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    return model


class Skip(nn.Module):
    """A sum, which as a chain has an activation on some entries alone."""

    def __init__(self, inputs, activation):
        super().__init__()
        self.first, self.second, self.last, self.act = nn.Linear(inputs, 5), nn.Linear(5, 5), nn.Linear(5, 2), activation

    def forward(self, x):
        y = self.act(self.first(x))
        return self.last(y + self.act(self.second(y)))


def expansion(model, inputs):
    return Expansion.of(steps_of(serial(trace(model, (inputs,)))))


@pytest.mark.parametrize("act", SMOOTH, ids=str)
def test_no_slope_bends_more_than_its_curvature(act):
    z = torch.linspace(-15, 15, 30_001, dtype=torch.float64)
    slope, second = derivative(act)[0](z), curvature(act)[0]
    steps = z[1:] - z[:-1]
    bends = slope.diff() / steps
    assert second * (1 - 1e-3) <= bends.abs().max() <= second * (1 + 1e-9)
    third = curvature(act)[1]
    assert third * (1 - 1e-2) <= (bends.diff() / steps[1:]).abs().max() <= third * (1 + 1e-6)


def test_slopes_that_jump_have_no_curvature():
    assert curvature(nn.ReLU()) is None
    assert expansion(dense((2, 3, 1), nn.ReLU()), 2) is None


@given(
    act=st.sampled_from(SMOOTH),
    centre=st.floats(-8, 8),
    width=st.floats(0, 6),
    rest=st.floats(0, 1),
    error=st.floats(0, 0.5),
)
def test_activations_lie_between_their_polynomials(act, centre, width, rest, error):
    """z = centre + width (d_1 - d_2 / 2) + rest y +- error, at random d, y and error."""
    products = Products(2, torch.zeros(0).double())
    parts = torch.tensor([[width, -width / 2]]), torch.tensor([[0.0, 0.0, 0.0, rest]])
    z = Polynomial(torch.tensor([centre]).double(), *(part.double() for part in parts))
    d, other = 2 * torch.rand(2, 200, 2).double() - 1
    y = torch.stack([2 * d[:, 0] ** 2 - 1, d[:, 0] * d[:, 1], 2 * d[:, 1] ** 2 - 1, other[:, 0]], 1)
    at = z.constant + d @ z.linear[0] + y @ z.rest[0] + error * other[:, 1]
    wide = torch.tensor([error]).double()
    for function, (found, far) in (
        (derivative(act)[0], slopes(act, z, wide)),
        (act, values(act, z, wide, products)),
    ):
        near = found.constant + d @ found.linear[0] + y[:, : found.rest.shape[-1]] @ found.rest[0]
        assert (function(at) - near).abs().max() <= far


@given(seed=st.integers(0, 10**6), rows=st.integers(1, 3), columns=st.integers(1, 4), scale=st.sampled_from([1e-200, 1.0]))
def test_no_sum_of_matrices_is_larger(seed, rows, columns, scale):
    torch.manual_seed(seed)
    groups = [scale * torch.randn(3, count, rows, columns).double() for count in (4, 2)]
    bound, weights = largest_norm(*([group.permute(0, 2, 3, 1)] for group in groups))
    signs = 2.0 * torch.randint(2, (100, 1, 6, 1, 1)).double() - 1
    sums = (signs * torch.cat(groups, 1)).sum(2)
    assert (torch.linalg.matrix_norm(sums / scale, 2) * scale <= bound).all()
    assert [weight.shape for weight in weights] == [(3, 4), (3, 2)]


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    act=st.sampled_from(SMOOTH),
    hidden=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    inputs=st.integers(1, 7),
    outputs=st.integers(1, 3),
    scale=st.sampled_from([0.5, 1.0, 3.0]),
    width=st.sampled_from([1e-6, 0.1, 1.0, 5.0]),
    skip=st.booleans(),
)
def test_no_jacobian_in_a_box_is_larger_than_its_bound(seed, act, hidden, inputs, outputs, scale, width, skip):
    torch.manual_seed(seed)
    model = Skip(inputs, act).double() if skip else dense((inputs, *hidden, outputs), act, scale)
    centre = torch.randn(2, inputs).double()
    half = width * torch.rand(2, inputs).double()
    bound, parts = expansion(model, inputs)(centre, half)
    corners = 2.0 * torch.randint(2, (2, 100, inputs)).double() - 1
    d = torch.cat([corners, 2 * torch.rand(2, 100, inputs).double() - 1], 1)
    for i in range(2):
        assert jacobian_norms(model, centre[i] + half[i] * d[i]).max() <= bound[i]
    assert parts.shape == centre.shape
    assert (parts >= 0).all()


@pytest.mark.parametrize("act", [nn.GELU(), nn.SiLU(), nn.Tanh()], ids=str)
def test_in_one_dimension_it_meets_the_steepest_point_of_a_fine_grid(act):
    torch.manual_seed(1)
    model = dense((1, 20, 20, 1), act, 2.0)
    found = subdivide(trace(model, (1,)).last_chain.layers, (-3.0, 3.0))
    grid = jacobian_norms(model, torch.linspace(-3, 3, 20_001).double()[:, None]).max().item()
    assert grid * (1 - 1e-9) <= found.upper <= (1 + TOLERANCE) * grid


def test_it_meets_constants_in_closed_form():
    """Tanh entry by entry is steepest at 0; GELU(x) + GELU(-x), which is about x^2, at the ends."""
    model = dense((3, 3, 3), nn.Tanh())
    with torch.no_grad():
        model[0].weight.copy_(torch.diag(torch.tensor([2.0, -3.0, 0.5])))
        model[0].bias.zero_()
        model[2].weight.copy_(torch.diag(torch.tensor([1.0, -2.0, 4.0])))
    assert 6 <= upper_bound(model, (3,), domain=(-2.0, 2.0)).value <= 6 * (1 + TOLERANCE)
    model = dense((1, 2, 1), nn.GELU())
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        model[0].bias.zero_()
        model[2].weight.fill_(1.0)
    slope = derivative(nn.GELU())[0]
    exact = (slope(torch.tensor(0.5).double()) - slope(torch.tensor(-0.5).double())).item()
    assert upper_bound(model, (1,), domain=(-0.5, 0.5)).value == pytest.approx(exact, rel=TOLERANCE)


def test_the_excess_falls_with_the_square_of_the_width():
    torch.manual_seed(0)
    model = dense((4, 16, 16, 1), nn.GELU(), 1.5)
    centre = torch.zeros(3, 4).double()
    half = torch.tensor([0.1, 0.05, 0.025]).double()[:, None].expand(-1, 4)
    bound, _ = expansion(model, 4)(centre, half)
    corners = torch.tensor(list(itertools.product((1.0, -1.0), repeat=4))).double()
    steepest = torch.stack([jacobian_norms(model, h * corners).max() for h in half[:, 0]])
    excess = bound - steepest
    assert (excess[1:] <= excess[:-1] / 3).all()


def test_numbers_that_are_not_finite_are_no_bound():
    model = dense((2, 3, 1), nn.Tanh())
    with torch.no_grad():
        model[2].weight.fill_(1e200)
    bound, _ = expansion(model, 2)(torch.zeros(1, 2).double(), torch.full((1, 2), math.inf).double())
    assert not bound.isfinite().any()


def test_a_trained_network_of_many_inputs_has_a_narrow_bracket():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 1))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        x = 2 * torch.rand(128, 8) - 1
        loss = (model(x)[:, 0] - torch.sin(2 * x[:, 0] + x[:, 1]) - x[:, 2] * x[:, 3]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subdivision, "CELLS", 200)
        found = subdivide(trace(model, (8,)).last_chain.layers, (-0.5, 0.5))
    steepest = jacobian_norms(in_float64(model), torch.rand(2000, 8).double() - 0.5).max().item()
    assert steepest <= found.upper <= 1.5 * found.largest


def test_a_small_box_of_many_inputs_needs_no_other_method():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 16), nn.SiLU(), nn.Linear(16, 1))
    found = upper_bound(model, (20,), domain=(-0.05, 0.05))
    assert found.method == SUBDIVISION
    assert found.final
    assert jacobian_norms(in_float64(model), found.steepest).item() * (1 + TOLERANCE) >= found.value
