"""Norms of the Jacobian, their gradients, and the search for the largest."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cheaplip import Ball
from cheaplip.bounds.climbing import climb_jacobian
from cheaplip.bounds.jacobian import JACOBIAN_NORMS, jacobian_gradients, jacobian_lower_bound, jacobian_norms
from cheaplip.inference import in_float64
from support import oracles

ROUNDING = 1 + 1e-9


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


@given(seed=st.integers(0, 1000), outputs=st.integers(1, 4), norms=st.sampled_from(sorted(JACOBIAN_NORMS)))
def test_gradients_are_the_differences_of_norms(seed, outputs, norms):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 9), nn.GELU(), nn.Linear(9, outputs)).double()
    input_norm, output_norm = norms
    x, step = torch.randn(5, 3).double(), 1e-6
    found = jacobian_gradients(model, x, input_norm=input_norm, output_norm=output_norm)
    for i in range(3):
        moved = (x + sign * step * torch.eye(3)[i] for sign in (1, -1))
        ahead, back = (jacobian_norms(model, y, input_norm=input_norm, output_norm=output_norm) for y in moved)
        torch.testing.assert_close(found[:, i], (ahead - back) / (2 * step), rtol=1e-4, atol=1e-6)


class Once(torch.autograd.Function):
    """The identity, to be differentiated once."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient


@pytest.mark.parametrize("model", [nn.Linear(3, 2), nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), Once.apply])
def test_there_are_none_without_a_second_derivative(model):
    assert not jacobian_gradients(model, torch.randn(4, 3)).any()


def test_the_gradient_leads_to_the_corner_of_many_inputs():
    """The Jacobian of |x|^2 / 2 is x."""
    options = {"input_norm": 2, "output_norm": 2, "deadline": math.inf}
    found = climb_jacobian(lambda x: x.square().sum(1) / 2, torch.zeros(1, 30).double(), (-1.0, 1.0), **options)
    assert found.value == pytest.approx(30**0.5, rel=1e-5)
