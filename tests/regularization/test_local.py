"""The local penalty: its search and gradient against loops and closed forms, what it leaves alone, its beat, its state."""

import contextlib
import copy
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy, softplus

from cheaplip import (
    ConstantWeight,
    LipschitzRegularizer,
    LocalRegularizer,
    PenaltySum,
    PenaltyTerm,
    evaluate_robustness,
    fit,
    perturbed_pairs,
)
from cheaplip.errors import InputError
from cheaplip.regularization.certificate import CertificateRegularizer
from cheaplip.regularization.local import local_rises, on_sphere, random_points, worst_in_ball
from cheaplip.robustness.attacks import log_odds
from support.networks import curve, dense, digits, network, regularised, seeded

NORMS = pytest.mark.parametrize("norm", [2.0, math.inf])


def some_samples(n=12):
    generator = torch.Generator().manual_seed(3)
    return torch.rand(n, 4, generator=generator), torch.randint(3, (n,), generator=generator)


def every_step(model, samples, **options):
    return LocalRegularizer(model, samples, attack_interval=1, **options)


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
    penalty = every_step(model, (x, y), radius=0.3, attacked=12, domain=(0, 1), seed=5)
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
    changing, plain = (every_step(model, samples, radius=0.3) for model in (InPlace(), seeded(network)))
    assert changing().item() == pytest.approx(plain().item(), rel=1e-5)
    assert torch.equal(samples[0], some_samples()[0])


def test_with_batch_normalisation_the_search_is_of_the_network_as_it_is(monkeypatch):
    """Only the gradient by the parameters has the statistics in it; the points are those of constant statistics."""
    samples = some_samples()
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
    model(torch.randn(50, 4))
    with_them = every_step(model, samples, radius=0.3)()
    monkeypatch.setattr("cheaplip.regularization.held.following_statistics", lambda model: contextlib.nullcontext())
    assert every_step(model, samples, radius=0.3)().item() == pytest.approx(with_them.item(), rel=1e-5)


@NORMS
def test_on_a_linear_classifier_it_is_the_closed_form(norm):
    model, x = seeded(lambda: nn.Linear(4, 2)), some_samples(6)[0]
    y = torch.tensor([0, 1, 0, 1, 1, 0])
    with torch.no_grad():
        difference = model.weight[0] - model.weight[1]
        margin = (model(x)[:, 0] - model(x)[:, 1]) * torch.where(y == 0, 1.0, -1.0)
        worst = margin - 0.4 * torch.linalg.vector_norm(difference, ord=2 if norm == 2 else 1)
        expected = (softplus(-worst) - softplus(-margin)).mean()
    penalty = every_step(model, (x, y), radius=0.4, norm=2 if norm == 2 else "inf", attack_steps=8)
    assert float(penalty().detach()) == pytest.approx(float(expected), rel=1e-4)


@NORMS
def test_for_real_values_it_is_the_worst_squared_change(norm):
    model, x = seeded(lambda: nn.Linear(4, 1)), some_samples(6)[0]
    dual = torch.linalg.vector_norm(model.weight.detach(), ord=2 if norm == 2 else 1)
    penalty = every_step(model, (x, torch.zeros(6, 1)), radius=0.4, norm=2 if norm == 2 else "inf", attack_steps=8)
    assert float(penalty().detach()) == pytest.approx(float(0.4 * dual) ** 2, rel=1e-4)


def test_for_real_vectors_many_steps_find_the_spectral_norm():
    model, x = seeded(lambda: nn.Linear(4, 3)), some_samples(6)[0]
    sigma = float(torch.linalg.matrix_norm(model.weight.detach(), ord=2))
    penalty = every_step(model, (x, torch.zeros(6, 3)), radius=0.4, attack_steps=60)
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
        penalty = every_step(model, (some_samples()[0], y), radius=0.3)()
        assert float(penalty.detach()) == pytest.approx(0, abs=1e-6)
        assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(penalty, list(model.parameters())))


def test_a_sure_network_is_attacked_too():
    model, (x, y) = seeded(network), some_samples()
    model[-1].weight.data *= 1e3  # the cross-entropy's gradient is 0 in float32
    y = model(x).argmax(1)
    assert float(cross_entropy(model(x), y).detach()) < 1e-3
    assert float(every_step(model, (x, y), radius=3.0)().detach()) > 1


def test_it_leaves_no_trace_in_the_network_nor_in_the_users_randomness():
    model = regularised().train()
    x, y = digits()
    before = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    penalty = LocalRegularizer(model, (x, y), radius=0.5, attack_interval=1)
    for _ in range(3):
        penalty()
        penalty.step()
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert not x.requires_grad


def test_under_autocast_it_is_that_of_single_precision():
    model = seeded(network)
    expected = every_step(model, some_samples(), radius=0.3)()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        penalty = every_step(model, some_samples(), radius=0.3)()
        actual = torch.autograd.grad(penalty, list(model.parameters()))
    assert torch.equal(penalty, expected)
    for one, other in zip(actual, torch.autograd.grad(expected, list(model.parameters())), strict=True):
        assert torch.equal(one, other)


def test_no_pass_is_larger_than_the_users_batch():
    rows, inner = [], seeded(network)

    def model(x):
        rows.append(len(x))
        return inner(x)

    penalty = LocalRegularizer(model, some_samples(40), radius=0.3, attacked=32, attack_interval=1)
    term = PenaltyTerm(penalty, ConstantWeight(0.1))
    rows.clear()
    term(torch.zeros(10, 3), torch.zeros(10, dtype=torch.int64))
    term.step()
    assert max(rows) == 10


def test_every_round_visits_every_sample_once():
    penalty = LocalRegularizer(seeded(network), some_samples(12), attacked=4, attack_interval=2, radius=0.3)
    draws = []
    for step in range(12):
        if step % 2 == 0:
            draws.append(penalty.drawn.tolist())
        penalty()
        penalty.step()
    for start in (0, 3):
        assert sorted(itertools.chain(*draws[start : start + 3])) == list(range(12))
    assert draws[:3] != draws[3:]


def test_without_hold_the_calls_in_between_are_nothing():
    model = seeded(network)
    held = LocalRegularizer(model, some_samples(), radius=0.3, attacked=4, attack_interval=3, attack_hold=True)
    lazy = LocalRegularizer(model, some_samples(), radius=0.3, attacked=4, attack_interval=3)
    for step in range(7):
        expected = 3 * held() if step % 3 == 0 else 0 * held()
        torch.testing.assert_close(lazy(), expected)
        held.step()
        lazy.step()


def test_it_continues_from_a_checkpoint():
    model = seeded(network)

    def made():
        return LocalRegularizer(model, some_samples(), radius=0.3, attacked=5, attack_interval=2)

    penalty, other = made(), made()
    for _ in range(3):
        penalty()
        penalty.step()
    other.load_state_dict(copy.deepcopy(penalty.state_dict()))
    for _ in range(7):
        assert torch.equal(penalty(), other())
        penalty.step()
        other.step()
    with pytest.raises(InputError, match="samples"):
        LocalRegularizer(model, some_samples(3)).load_state_dict(penalty.state_dict())


def test_it_adds_up_with_the_pairs_and_the_certificate():
    model, (x, y) = seeded(network), some_samples()
    parts = [
        (1.0, every_step(model, (x, y), radius=0.3)),
        (0.5, LipschitzRegularizer(model, perturbed_pairs(x), hold=False)),
        (0.1, CertificateRegularizer(model, (4,))),
    ]
    term = PenaltyTerm(PenaltySum(parts), ConstantWeight(0.1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(4):
        outputs = model(x)
        optimizer.zero_grad()
        (cross_entropy(outputs, y) + term(outputs, y)).backward()
        optimizer.step()
        term.step()
    metrics = term.metrics()
    assert 0 < metrics["lower_bound"] <= metrics["upper_bound"]
    term.penalty()
    assert term.penalty.latest == pytest.approx(sum(factor * part.latest for factor, part in parts))


@pytest.mark.filterwarnings("ignore::cheaplip.errors.TargetWarning")  # few samples: the accuracy is known to a point or two
def test_fit_comes_near_its_target_and_is_harder_to_attack():
    x, y = digits(1500)
    options = {"target": 0.95, "epochs": 15, "batch_size": 32, "radius": 0.75, "lr": 0.05, "initial_weight": 0.1}
    plain, local = (fit(dense(), (x, y), method=method, **options) for method in ("standard", "local"))
    strong = [evaluate_robustness(t.model, x[:200], y[:200], eps=0.75, iterations=20).strong_accuracy for t in (plain, local)]
    assert local.result["train_accuracy"] == pytest.approx(0.95, abs=0.03)
    assert local.pairs is None
    assert strong[1] > strong[0] + 0.05


def test_fit_on_real_values_lowers_the_penalty():
    x, y = curve()
    model = seeded(lambda: nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1)))
    plain, local = (
        fit(copy.deepcopy(model), (x, y), method="local", weight=weight, radius=0.2, batch_size=16).model
        for weight in (0.0, 20.0)
    )
    changes = [float(every_step(m, (x, y), radius=0.2, attacked=len(x))().detach()) for m in (plain, local)]
    assert changes[1] < 0.6 * changes[0]


@pytest.mark.parametrize(
    ("samples", "options", "match"),
    [
        ((torch.rand(3, 4), torch.zeros(2, dtype=torch.int64)), {}, "labels"),
        ((torch.rand(3, 4), torch.full((3,), 7)), {}, "one output for each of the classes"),
        ((torch.rand(3, 4), torch.rand(2, 3)), {}, "as many finite inputs as values"),
        ((torch.rand(3, 5), torch.rand(3, 3)), {}, "a model that takes these inputs"),
        ((2 * torch.ones(3, 4), torch.rand(3, 3)), {"domain": (0, 1)}, "samples inside the domain"),
        (some_samples(), {"radius": 0.0}, "a valid radius"),
        (some_samples(), {"norm": 1}, "a valid norm"),
        (some_samples(), {"attacked": 0}, "a valid attacked"),
    ],
)
def test_what_does_not_fit_is_refused(samples, options, match):
    with pytest.raises(InputError, match=match):
        LocalRegularizer(seeded(network), samples, **options)


def test_fit_on_a_loader_is_refused():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*digits()), batch_size=32)
    with pytest.raises(InputError, match="Give tensors"):
        fit(dense(), loader, method="local", target=0.5)


def test_rises_of_real_values_do_not_look_at_the_labels():
    outputs, still = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    assert local_rises(outputs, still, torch.full((1, 2), torch.nan)).tolist() == [25.0]
