"""`StiefelMuon`: matrices stay orthonormal, vectors take Adam's steps, and a network has the constant that was asked for."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cheaplip import StiefelMuon, certified_radius, fit, lipschitz_bracket
from cheaplip.data import load
from cheaplip.errors import InputError
from cheaplip.models import mlp
from cheaplip.training.stiefel_muon import nearest_orthonormal, newton_schulz

SHAPES = st.lists(st.integers(1, 6), min_size=2, max_size=4)


def parameter(shape, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    p = nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype))
    p.grad = torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)
    return p


def singular_values(p):
    return torch.linalg.svdvals(p.detach().flatten(1).double())


@given(shape=SHAPES, seed=st.integers(0, 100), lipschitz=st.floats(0.1, 10), lr=st.floats(0.001, 0.2))
def test_matrices_keep_their_norm_up_to_the_square_of_the_step(shape, seed, lipschitz, lr):
    p = parameter(shape, seed)
    optimizer = StiefelMuon([p], lr, lipschitz=lipschitz)
    torch.testing.assert_close(singular_values(p), torch.full((min(len(p), p[0].numel()),), lipschitz).double())
    for _ in range(3):
        optimizer.step()
    assert (singular_values(p) / lipschitz - 1).abs().max() <= 3 * lr**2


@given(shape=SHAPES, seed=st.integers(0, 100))
def test_no_orthonormal_matrix_is_nearer_than_the_one_it_starts_from(shape, seed):
    p = parameter(shape, seed)
    near = nearest_orthonormal(p)
    other = nearest_orthonormal(parameter(shape, seed + 1))
    assert (p - near).norm() <= (p - other).norm() + 1e-12


@given(rows=st.integers(1, 5), more=st.integers(0, 5), seed=st.integers(0, 100), scale=st.floats(1e-6, 1e6))
def test_a_gradient_counts_by_its_directions_alone(rows, more, seed, scale):
    matrix = torch.randn(rows, rows + more, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    matrix = (u * (0.3 + s / s.max())) @ v  # no direction is lost
    turned = newton_schulz(scale * matrix)
    assert ((u.T @ turned @ v.T).diagonal() > 0.5).all()
    torch.testing.assert_close(turned, newton_schulz(matrix), atol=1e-5, rtol=0)
    assert singular_values(turned).max() < 1.3


def test_a_step_is_the_formula():
    p = parameter((3, 5), 0)
    optimizer = StiefelMuon([p], 0.1, lipschitz=2.0, momentum=0.9)
    w, mean = p.detach().clone() / 2, torch.zeros(3, 5).double()
    for seed in (1, 2, 3):
        p.grad = parameter((3, 5), seed).grad
        mean = 0.9 * mean + p.grad
        w = w - 0.1 * newton_schulz(p.grad + 0.9 * mean)
        u, s, v = torch.linalg.svd(w, full_matrices=False)
        w = (u * (1.5 * s - 0.5 * s**3)) @ v
        optimizer.step()
        torch.testing.assert_close(p.detach(), 2 * w)


def test_vectors_take_the_steps_of_adam():
    ours, theirs = parameter((4,), 0), parameter((4,), 0)
    optimizer = StiefelMuon([parameter((2, 2), 0), ours], 0.1, vector_lr=0.5, betas=(0.8, 0.95))
    adam = torch.optim.Adam([theirs], 0.05, betas=(0.8, 0.95))
    for seed in (1, 2, 3):
        ours.grad = theirs.grad = parameter((4,), seed).grad
        optimizer.step()
        adam.step()
    torch.testing.assert_close(ours, theirs)


def test_the_norm_is_shared_between_all_matrices_of_all_groups():
    groups = [{"params": [parameter((3, 3), 0), parameter((3,), 0)]}, {"params": [parameter((2, 3), 1), parameter((4, 2), 2)]}]
    StiefelMuon(groups, lipschitz=8.0)
    norms = [float(singular_values(p)[0]) for group in groups for p in group["params"] if p.dim() > 1]
    assert norms == pytest.approx([2.0, 2.0, 2.0])


def test_half_precision_stays_finite_and_near():
    p = parameter((4, 6), 0, torch.bfloat16)
    optimizer = StiefelMuon([p], lipschitz=3.0)
    for _ in range(20):
        optimizer.step()
    assert singular_values(p).sub(3).abs().max() < 0.1


def test_what_has_no_gradient_stays():
    p, q = parameter((3, 3), 0), parameter((3, 3), 1)
    optimizer = StiefelMuon([p, q])
    before, p.grad = p.detach().clone(), None
    optimizer.step()
    assert torch.equal(p, before)


def test_what_is_frozen_stays_and_does_not_count():
    frozen, p = parameter((3, 3), 0), parameter((3, 3), 1)
    before = frozen.detach().clone()
    StiefelMuon([frozen.requires_grad_(False), p], lipschitz=4.0)
    assert torch.equal(frozen, before)
    torch.testing.assert_close(singular_values(p), torch.full((3,), 4.0).double())


@pytest.mark.parametrize("unfrozen", [False, True])
def test_weights_that_came_later_are_brought_back(unfrozen):
    p = parameter((4, 4), 0)
    optimizer = StiefelMuon([p.requires_grad_(not unfrozen), parameter((2, 2), 0)], lipschitz=4.0)
    p.requires_grad_()
    with torch.no_grad():
        p.copy_(10 * torch.randn(4, 4))
    for _ in range(6):
        p.grad = torch.randn(4, 4).double()
        optimizer.step()
    norm = 4.0 if unfrozen else 2.0
    assert (singular_values(p) / norm - 1).abs().max() < 0.05


def test_groups_that_come_later_are_refused():
    optimizer = StiefelMuon([parameter((2, 2), 0)])
    with pytest.raises(InputError, match="no further parameters"):
        optimizer.add_param_group({"params": [parameter((2, 2), 1)]})


def test_a_half_precision_vector_without_a_gradient_stays_finite():
    bias = parameter((4,), 0, torch.float16)
    bias.grad = torch.zeros_like(bias)
    before = bias.detach().clone()
    StiefelMuon([parameter((2, 2), 0), bias]).step()
    assert torch.equal(bias, before)


def test_a_schedule_may_not_leave_the_range():
    optimizer = StiefelMuon([parameter((3, 3), 0)], lr=0.1)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 10.0)
    with pytest.raises(InputError, match="A schedule has raised it"):
        optimizer.step()


def test_a_closure_is_called_and_its_loss_returned():
    p = parameter((3, 3), 0)
    optimizer = StiefelMuon([p])

    def closure():
        optimizer.zero_grad()
        loss = p.square().sum() + p.sum()
        loss.backward()
        return loss

    before = 3 + float(p.detach().sum())
    assert float(optimizer.step(closure).detach()) == pytest.approx(before)
    assert float(p.detach().sum()) < before - 3


def test_a_network_has_the_constant_and_certifies_more_than_a_penalty():
    data = load("digits")
    certified = {}
    for name, options in {
        "penalty": {"target": 0.98, "certify": 1.0},
        "orthonormal": {"method": "standard", "optimizer": "StiefelMuon", "optimizer_options": {"lipschitz": 4.0}, "lr": 0.06},
    }.items():
        torch.manual_seed(0)
        model = mlp((8, 8), 10, hidden=(64, 64), activation="abs")
        fit(model, data, epochs=6, margin=8.0, saturation=0.3, **options)
        bracket = lipschitz_bracket(model, data.test_x[:100], budget=1.0)
        radius = certified_radius(model, data.test_x, bracket, labels=data.test_y)
        certified[name] = float((radius > 0.3).double().mean())
    assert bracket.upper == pytest.approx(4.0, rel=1e-3)
    assert bracket.ratio < 1.001
    assert certified["orthonormal"] > certified["penalty"] + 0.02


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"lr": 0.3}, "lr in "),
        ({"lr": 0.0}, "lr in "),
        ({"lipschitz": 0.0}, "lipschitz in "),
        ({"momentum": 1.0}, "momentum in "),
        ({"vector_lr": -1.0}, "vector_lr in "),
        ({"betas": (0.9, 1.0)}, "betas in "),
    ],
)
def test_refuses_what_would_not_keep_the_norms(options, match):
    with pytest.raises(InputError, match=match):
        StiefelMuon([parameter((2, 2), 0)], **options)


def test_refuses_parameters_that_are_no_matrices():
    with pytest.raises(InputError, match="a matrix among the parameters"):
        StiefelMuon([parameter((2,), 0)])
    with pytest.raises(InputError, match="real parameters"):
        StiefelMuon([nn.Parameter(torch.zeros(2, 2, dtype=torch.complex64))])
