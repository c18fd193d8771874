"""The local penalty in a training: what it sees, what it leaves, and what it brings."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

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
from support.networks import curve, dense, digits, make_local, network, regularised, seeded, some_samples
from support.penalties import goes_on


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
    expected = make_local(model, some_samples(), radius=0.3)()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        penalty = make_local(model, some_samples(), radius=0.3)()
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

    penalty = goes_on(made(), made())
    with pytest.raises(InputError, match="samples"):
        LocalRegularizer(model, some_samples(3)).load_state_dict(penalty.state_dict())


def test_it_adds_up_with_the_pairs_and_the_certificate():
    model, (x, y) = seeded(network), some_samples()
    parts = [
        (1.0, make_local(model, (x, y), radius=0.3)),
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
    changes = [float(make_local(m, (x, y), radius=0.2, attacked=len(x))().detach()) for m in (plain, local)]
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
