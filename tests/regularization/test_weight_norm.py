"""Equation (6): the norm of the parameters."""

import pytest
import torch
from torch import nn

from cheaplip.regularization.weight_norm import WeightNorm, weight_norm


def vector(model):
    return torch.cat([parameter.detach().ravel() for parameter in model.parameters() if parameter.requires_grad])


@pytest.mark.parametrize("squared", [False, True])
def test_is_the_norm_of_all_parameters_as_one_vector(squared):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    norm = vector(model).norm()
    value = weight_norm(model, squared=squared)
    torch.testing.assert_close(value.detach(), norm.square() if squared else norm)
    value.backward()
    gradient = torch.cat([parameter.grad.ravel() for parameter in model.parameters()])
    torch.testing.assert_close(gradient, 2 * vector(model) if squared else vector(model) / norm)


def test_frozen_parameters_do_not_count():
    model = nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    torch.testing.assert_close(weight_norm(model).detach(), model.bias.detach().norm())
    model.bias.requires_grad_(False)
    assert weight_norm(model).item() == 0


@pytest.mark.parametrize("squared", [False, True])
def test_gradient_at_0_is_0(squared):
    model = nn.Linear(2, 2)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    weight_norm(model, squared=squared).backward()
    assert model.weight.grad.abs().sum() == 0


def test_a_descent_step_shrinks_the_weights():
    model = nn.Linear(4, 4)
    penalty = WeightNorm(model, squared=True)
    before = penalty().item()
    torch.optim.SGD(model.parameters(), lr=0.1).zero_grad()
    penalty().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert penalty().item() == pytest.approx(before * 0.8**2)


def test_it_has_no_state_and_knows_nothing_of_the_constant():
    penalty = WeightNorm(nn.Linear(2, 2))
    before = penalty().item()
    penalty.step()
    penalty.load_state_dict(penalty.state_dict())
    assert penalty().item() == before
    assert penalty.metrics() == {}
