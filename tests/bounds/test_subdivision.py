"""Lip(f) on a box of few inputs: sound on random networks, and close to it where the truth is known."""

import itertools
import math
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cheaplip import Ball, difference_quotient, lipschitz_bracket
from cheaplip.bounds import branching, subdivision
from cheaplip.bounds.division import SUBDIVISION
from cheaplip.bounds.graph import trace
from cheaplip.bounds.jacobian import jacobian_norms
from cheaplip.bounds.subdivision import TOLERANCE, subdivide
from cheaplip.bounds.upper import upper_bound
from cheaplip.inference import in_float64
from support import oracles

NORMS = [(2, 2), (2, math.inf), (math.inf, 2), (math.inf, math.inf)]
ACTIVATIONS = [nn.ReLU, lambda: nn.LeakyReLU(-1.0), nn.Sigmoid, nn.Softplus, nn.GELU, nn.Hardtanh]


def divided(model, shape, domain, **options):
    return subdivide(trace(model, shape).last_chain.layers, domain, **options)


def network(inputs, outputs, activation, hidden=(8, 6), scale=2.0):
    layers = []
    for fan_in, fan_out in itertools.pairwise((inputs, *hidden)):
        layers += [nn.Linear(fan_in, fan_out), activation()]
    model = nn.Sequential(*layers, nn.Linear(hidden[-1], outputs))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    return model


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    inputs=st.integers(1, 3),
    outputs=st.integers(1, 3),
    activation=st.sampled_from(ACTIVATIONS),
    norms=st.sampled_from(NORMS),
    ball=st.booleans(),
    cells=st.sampled_from([1, 100, 3000]),
)
def test_no_pair_of_the_domain_is_steeper(seed, inputs, outputs, activation, norms, ball, cells):
    torch.manual_seed(seed)
    model = network(inputs, outputs, activation)
    low, high = -1 - torch.rand(inputs), torch.rand(inputs)
    domain = Ball(torch.rand(inputs), 0.7) if ball else (low, high)
    input_norm, output_norm = norms
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subdivision, "CELLS", cells)
        found = divided(model, (inputs,), domain, input_norm=input_norm, output_norm=output_norm)
    assert found.largest <= found.upper
    u, v = (low + (high - low) * torch.rand(2, 500, inputs)).double()
    if ball:
        u, v = (
            domain.centre + 0.7 * nn.functional.normalize(x) * torch.rand(500, 1) for x in torch.randn(2, 500, inputs).double()
        )
    v[:250] = u[:250].lerp(v[:250], 1e-4)
    quotients = difference_quotient(in_float64(model), u, v, input_norm=input_norm, output_norm=output_norm)
    assert quotients.max() <= found.upper * (1 + 1e-9)
    if norms == (2, 2):  # what is said of the steepest point is true of it
        assert jacobian_norms(in_float64(model), found.steepest[None]).item() >= found.largest * (1 - 1e-9)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("inputs", [1, 2])
def test_it_closes_in_on_the_steepest_of_many_points(activation, inputs):
    torch.manual_seed(inputs)
    model = network(inputs, 2, activation)
    found = divided(model, (inputs,), (-1.0, 1.0))
    points = 2 * torch.rand(20_000, inputs).double() - 1
    sampled = jacobian_norms(in_float64(model), points).max().item()
    assert found.close
    assert sampled / (1 + TOLERANCE) <= found.largest
    assert found.upper <= 1.02 * sampled


@pytest.mark.parametrize("seed", range(10))
def test_it_meets_the_exact_constant_by_regions(seed):
    """In a box so large that every region has a part in it."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 2))
    exact = oracles.lipschitz_by_regions(model)
    found = divided(model, (2,), (-100.0, 100.0))
    assert exact * (1 - 1e-9) <= found.upper <= exact * (1 + TOLERANCE) * (1 + 1e-6)


def test_layers_that_are_matrices_and_settings_that_reshape_are_read():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Dropout(), nn.BatchNorm1d(4), nn.Linear(4, 2)
    ).eval()
    model[5].running_mean.normal_()
    model[5].running_var.uniform_(0.5, 2)
    found = divided(model, (3,), (-1.0, 1.0))
    assert found.close
    sampled = jacobian_norms(in_float64(model), 2 * torch.rand(20_000, 3).double() - 1).max().item()
    assert sampled / (1 + TOLERANCE) <= found.largest <= found.upper


def test_too_many_inputs_and_layers_that_mix_are_left_to_others():
    assert divided(nn.Linear(7, 2), (7,), (0.0, 1.0)) is None
    assert divided(nn.Sequential(nn.Unflatten(1, (1, 4)), nn.MaxPool1d(2), nn.Flatten()), (4,), (0.0, 1.0)) is None


def test_the_bracket_on_a_domain_of_few_inputs_is_close_and_its_witness_attains_it():
    torch.manual_seed(3)
    model = network(2, 2, nn.ReLU, (20, 20))
    bracket = lipschitz_bracket(model, torch.rand(1, 2), domain=(-1.0, 1.0), steps=1)
    assert bracket.ratio <= 1 + TOLERANCE
    assert bracket.methods["upper"] == SUBDIVISION
    assert bracket.scope == "inputs in [-1, 1]"
    if len(bracket.witness) == 1:
        assert jacobian_norms(in_float64(model), bracket.witness[0][None]).item() == pytest.approx(bracket.lower)


def test_time_that_is_up_leaves_the_smaller_bound_of_the_two():
    torch.manual_seed(0)
    model = network(4, 3, nn.ReLU, (30, 30))
    everywhere = upper_bound(model, (4,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subdivision, "CELLS", 1)
        patch.setattr(branching, "PATIENCE", 2)
        inside = upper_bound(model, (4,), domain=(-10.0, 10.0))
    assert inside.value <= everywhere.value * (1 + 1e-6)
    assert inside.method != SUBDIVISION
    assert inside.steepest.shape == (1, 4)


def wide_network():
    torch.manual_seed(0)
    return network(8, 1, nn.GELU, (30, 30), scale=3.0)


@pytest.mark.parametrize(("proved", "asked"), [(1e-3, 2), (1e9, 1)])
def test_others_are_asked_where_it_would_end_above_what_they_prove(proved, asked):
    calls = []
    options = {name: lambda name=name: calls.append(name) or proved for name in ("quick", "slow")}
    begun = time.monotonic()
    found = divided(wide_network(), (8,), (-1.0, 1.0), deadline=begun + 0.5, **options)
    assert calls == ["quick", "slow"][:asked]
    assert found.upper > steepest(wide_network())
    assert (time.monotonic() - begun >= 0.5) == (asked == 1)  # what others prove is near a lower end: nothing is left to do


def steepest(model):
    return jacobian_norms(in_float64(model), 2 * torch.rand(500, 8).double() - 1).max().item()


def test_cells_whose_bound_is_near_a_known_lower_end_are_left():
    torch.manual_seed(0)
    model = network(3, 1, nn.GELU)
    exact = divided(model, (3,), (-1.0, 1.0))
    above = divided(model, (3,), (-1.0, 1.0), reached=1.2 * exact.largest)
    assert above.close
    assert exact.largest <= above.upper <= 1.2 * exact.largest * (1 + TOLERANCE)


def test_pairs_of_classes_keep_their_own_bounds():
    torch.manual_seed(0)
    model = network(2, 3, nn.Tanh)
    bound = upper_bound(model, (2,), domain=(-1.0, 1.0), pairwise=True)
    assert bound.method == SUBDIVISION
    u, v = 2 * torch.rand(2, 500, 2).double() - 1
    rises = in_float64(model)(u) - in_float64(model)(v)
    for i, j in itertools.combinations(range(3), 2):
        quotients = (rises[:, i] - rises[:, j]).abs() / (u - v).norm(dim=1)
        assert quotients.max() <= bound.pairwise[i, j] <= math.sqrt(2) * upper_bound(model, (2,)).value * (1 + 1e-6)


def test_a_kink_at_a_centre_is_no_derivative():
    """x - relu(x) + relu(-x) = 0, whose derivative at 0 is 1 by torch's conventions; 0 is the centre of a cell."""
    model = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [1.0], [-1.0]]))
        model[0].bias.copy_(torch.tensor([10.0, 0.0, 0.0]))
        model[2].weight.copy_(torch.tensor([[1.0, -1.0, 1.0]]))
    assert jacobian_norms(model, torch.zeros(1, 1)).item() == 1
    found = divided(model, (1,), (-4.0, 4.0))
    assert found.largest <= 1e-9
    assert found.upper <= 1 + 1e-9  # two kinks at one point: that they cancel is not seen
