"""The local penalty: its search and gradient against loops and closed forms, what it leaves alone, its beat, its state."""

import contextlib
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy, softplus

from cheaplip.regularization.local import local_rises, on_sphere, random_points, worst_in_ball
from cheaplip.robustness.attacks import log_odds
from support.networks import make_local, network, seeded, some_samples

NORMS = pytest.mark.parametrize("norm", [2.0, math.inf])


def length(offset, norm):
    return float(torch.linalg.vector_norm(offset.flatten(), ord=norm))


def stretched_in_a_loop(x, offset, radius, norm, domain):
    if norm == math.inf:
        point = x + offset.clamp(-radius, radius)
        return point if domain is None else point.clamp(*domain)
    for _ in range(1 if domain is None else 2):
        point = x + offset * (radius / length(offset, 2))
        point = point if domain is None else point.clamp(*domain)
        offset = point - x
    return point


def searched_in_a_loop(model, x, start, y, *, radius, norm, steps, domain):
    """Sample by sample, the cross-entropy itself in place of the log-odds, whose gradient has the same direction."""
    found = []
    for one, at, label in zip(x, start, y, strict=True):
        for _ in range(steps):
            at = at.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(cross_entropy(model(at[None]), label[None]), at)
            ahead = gradient.sign() if norm == math.inf else gradient / length(gradient, 2)
            at = stretched_in_a_loop(one, at.detach() - one + 4 * radius * ahead, radius, norm, domain)
        found.append(at)
    return torch.stack(found)


@NORMS
@pytest.mark.parametrize("domain", [None, (0.0, 1.0)])
def test_the_search_is_that_of_the_loop_over_samples(norm, domain):
    model, (x, y) = seeded(network), some_samples()
    start = random_points(x, 0.3, norm, domain, torch.Generator().manual_seed(0))
    ball = {"radius": 0.3, "norm": norm, "steps": 3, "domain": domain}
    actual = worst_in_ball(model, x, start, lambda outputs: log_odds(outputs, y), **ball)
    torch.testing.assert_close(actual, searched_in_a_loop(model, x, start, y, **ball), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_size", [None, 1, 7, 100])
def test_penalty_and_gradient_are_those_of_the_loop_whatever_the_parts(batch_size):
    model, (x, y) = seeded(network), some_samples()
    penalty = make_local(model, (x, y), radius=0.3, attacked=12, domain=(0, 1), seed=5)
    penalty.batch_size = batch_size
    actual = torch.autograd.grad(penalty(), list(model.parameters()))
    drawn = x[penalty.drawn], y[penalty.drawn]
    start = random_points(drawn[0], 0.3, 2.0, (0, 1), torch.Generator().manual_seed(5))
    points = searched_in_a_loop(model, drawn[0], start, drawn[1], radius=0.3, norm=2.0, steps=2, domain=(0.0, 1.0))
    rises = [
        cross_entropy(model(point[None]), label[None]) - cross_entropy(model(one[None]), label[None])
        for point, one, label in zip(points, *drawn, strict=True)
    ]
    expected = sum(rises) / len(rises)
    assert penalty.latest == pytest.approx(float(expected.detach()), rel=1e-4)
    for one, other in zip(actual, torch.autograd.grad(expected, list(model.parameters())), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("values", [False, True])
def test_a_network_that_changes_its_input_has_the_same_penalty(values):
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = seeded(network)

        def forward(self, x):
            return self.network(x.mul_(2).div_(2))

    x, y = some_samples()
    samples = (x, torch.randn(12, 3)) if values else (x, y)
    changing, plain = (make_local(model, samples, radius=0.3) for model in (InPlace(), seeded(network)))
    assert changing().item() == pytest.approx(plain().item(), rel=1e-5)
    assert torch.equal(samples[0], some_samples()[0])


def test_with_batch_normalisation_the_search_is_of_the_network_as_it_is(monkeypatch):
    """Only the gradient by the parameters has the statistics in it; the points are those of constant statistics."""
    samples = some_samples()
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
    model(torch.randn(50, 4))
    with_them = make_local(model, samples, radius=0.3)()
    monkeypatch.setattr("cheaplip.regularization.held.following_statistics", lambda model: contextlib.nullcontext())
    assert make_local(model, samples, radius=0.3)().item() == pytest.approx(with_them.item(), rel=1e-5)


@NORMS
def test_on_a_linear_classifier_it_is_the_closed_form(norm):
    model, x = seeded(lambda: nn.Linear(4, 2)), some_samples(6)[0]
    y = torch.tensor([0, 1, 0, 1, 1, 0])
    with torch.no_grad():
        difference = model.weight[0] - model.weight[1]
        margin = (model(x)[:, 0] - model(x)[:, 1]) * torch.where(y == 0, 1.0, -1.0)
        worst = margin - 0.4 * torch.linalg.vector_norm(difference, ord=2 if norm == 2 else 1)
        expected = (softplus(-worst) - softplus(-margin)).mean()
    penalty = make_local(model, (x, y), radius=0.4, norm=2 if norm == 2 else "inf", attack_steps=8)
    assert float(penalty().detach()) == pytest.approx(float(expected), rel=1e-4)


@NORMS
def test_for_real_values_it_is_the_worst_squared_change(norm):
    model, x = seeded(lambda: nn.Linear(4, 1)), some_samples(6)[0]
    dual = torch.linalg.vector_norm(model.weight.detach(), ord=2 if norm == 2 else 1)
    penalty = make_local(model, (x, torch.zeros(6, 1)), radius=0.4, norm=2 if norm == 2 else "inf", attack_steps=8)
    assert float(penalty().detach()) == pytest.approx(float(0.4 * dual) ** 2, rel=1e-4)


def test_for_real_vectors_many_steps_find_the_spectral_norm():
    model, x = seeded(lambda: nn.Linear(4, 3)), some_samples(6)[0]
    sigma = float(torch.linalg.matrix_norm(model.weight.detach(), ord=2))
    penalty = make_local(model, (x, torch.zeros(6, 3)), radius=0.4, attack_steps=60)
    assert float(penalty().detach()) == pytest.approx((0.4 * sigma) ** 2, rel=1e-3)


@given(seed=st.integers(0, 1000), radius=st.floats(0.01, 3), norm=st.sampled_from([2.0, math.inf]), boxed=st.booleans())
def test_points_stay_in_the_ball_and_in_the_box(seed, radius, norm, boxed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(5, 3, 2, generator=generator).round(decimals=1)
    domain = (0.0, 1.0) if boxed else None
    for points in (
        on_sphere(x, torch.randn(x.shape, generator=generator), radius, norm, domain),
        random_points(x, radius, norm, domain, generator),
    ):
        assert all(length(offset, norm) <= radius * (1 + 1e-5) for offset in points - x)
        assert not boxed or (points.min() >= 0 and points.max() <= 1)


def test_a_constant_network_has_no_penalty_and_no_nan():
    model = seeded(network)
    with torch.no_grad():
        model[-1].weight.zero_()
    for y in (some_samples()[1], torch.zeros(12, 3)):
        penalty = make_local(model, (some_samples()[0], y), radius=0.3)()
        assert float(penalty.detach()) == pytest.approx(0, abs=1e-6)
        assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(penalty, list(model.parameters())))


def test_a_sure_network_is_attacked_too():
    model, (x, y) = seeded(network), some_samples()
    model[-1].weight.data *= 1e3  # the cross-entropy's gradient is 0 in float32
    y = model(x).argmax(1)
    assert float(cross_entropy(model(x), y).detach()) < 1e-3
    assert float(make_local(model, (x, y), radius=3.0)().detach()) > 1


def test_rises_of_real_values_do_not_look_at_the_labels():
    outputs, still = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    assert local_rises(outputs, still, torch.full((1, 2), torch.nan)).tolist() == [25.0]
