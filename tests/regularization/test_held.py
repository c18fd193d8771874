"""A penalty whose gradient is held: its value at every call, and the same gradient whatever a loop does with it."""

import copy
import pickle
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from cheaplip import LipschitzRegularizer, PairSet, matched_pairs, perturbed_pairs, uniform_pairs
from cheaplip.errors import InputError
from cheaplip.pairs.quotient import difference_quotient
from cheaplip.regularization.held import leaves


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def some_pairs(n=12, shape=(4,)):
    return matched_pairs(torch.randn(n, *shape, generator=torch.Generator().manual_seed(5)))


def gradients(loss, model):
    return torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)


def by_autograd(model, pairs, *, power=2, reduction="mean"):
    """The penalty and its gradient, straight from the quotients."""
    quotient = difference_quotient(model, pairs.u, pairs.v) ** power
    penalty = quotient.mean() if reduction == "mean" else quotient.max()
    return penalty.detach(), gradients(penalty, model)


def assert_same(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(
            torch.zeros(()) if one is None else one, torch.zeros(()) if other is None else other, rtol=1e-4, atol=1e-6
        )


def test_every_call_has_the_value_and_the_gradient_of_the_last_evaluation():
    model = network()
    regularizer = LipschitzRegularizer(model, some_pairs(), active=4, interval=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []
    for step in range(7):
        penalty = regularizer()
        at = PairSet(*regularizer.state.points[regularizer.state.active].unbind(1))
        if step % 3 == 0:
            value, gradient = by_autograd(model, at)
            seen.append(float(value))
        assert float(penalty.detach()) == pytest.approx(float(value), rel=1e-5)
        assert_same(gradients(penalty, model), gradient)
        optimizer.zero_grad()
        regularizer().backward()
        optimizer.step()
        regularizer.step()
    assert len(set(seen)) == 3


@pytest.mark.parametrize("formula", [lambda c: (c - 0.1).relu().square(), lambda c: 3 * c.sqrt(), lambda c: -(-c).exp()])
def test_formulas_on_the_penalty_follow_the_chain_rule(formula):
    model = network()
    regularizer = LipschitzRegularizer(model, some_pairs(), interval=8)
    value, gradient = by_autograd(model, some_pairs())
    outer = value.clone().requires_grad_()
    (factor,) = torch.autograd.grad(formula(outer), outer)
    for _ in range(3):
        assert_same(gradients(formula(regularizer()), model), [None if g is None else factor * g for g in gradient])
        regularizer.step()


@pytest.mark.parametrize("reduction", ["mean", "max"])
@pytest.mark.parametrize("batch_size", [1, 6, 10, 100])
def test_parts_of_any_size_give_the_same(reduction, batch_size):
    whole, parts = (LipschitzRegularizer(network(), some_pairs(), active=11, interval=1, reduction=reduction) for _ in "ab")
    parts.batch_size = batch_size
    for _ in range(4):
        one, other = whole(), parts()
        torch.testing.assert_close(one, other)
        assert_same(gradients(one, whole.model), gradients(other, parts.model))
        whole.step()
        parts.step()
        torch.testing.assert_close(whole.state.points, parts.state.points)
        torch.testing.assert_close(whole.state.step_size, parts.state.step_size)
    assert whole.lower_bound() == pytest.approx(parts.lower_bound())
    assert whole.refine() == pytest.approx(parts.refine(), rel=1e-3)


def test_no_pass_has_more_samples_than_the_users_batch():
    passes = []

    def model(x):
        passes.append(len(x))
        return x.square()

    regularizer = LipschitzRegularizer(model, some_pairs(40), interval=1)
    regularizer.batch_size = 8
    for _ in range(3):
        regularizer()
        regularizer.step()
    regularizer.lower_bound()
    regularizer.refine()
    assert max(passes) == 8


@pytest.mark.parametrize("accumulated", [1, 4])
def test_micro_batches_of_a_step_share_its_penalty(accumulated):
    model = network()
    regularizer = LipschitzRegularizer(model, some_pairs(), active=4, interval=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        for _ in range(accumulated):
            (regularizer() / accumulated).backward()
        at = PairSet(*regularizer.state.points[regularizer.state.active].unbind(1))
        if regularizer.calls % 2 == 0:
            _, gradient = by_autograd(model, at)
        assert_same([parameter.grad for parameter in model.parameters()], gradient)
        optimizer.step()
        regularizer.step()
    assert not regularizer._has_closure


def test_a_penalty_stepped_with_every_micro_batch_has_the_mean_of_their_gradients():
    model = network()
    regularizer, other = (LipschitzRegularizer(model, some_pairs(), active=4, interval=1, seed=0) for _ in "ab")
    for _ in range(3):
        (regularizer() / 3).backward()
        regularizer.step()
    mean = [0.0] * 4
    for _ in range(3):
        mean = [m + (0 if g is None else g / 3) for m, g in zip(mean, gradients(other(), model), strict=True)]
        other.step()
    assert_same([torch.zeros(()) if p.grad is None else p.grad for p in model.parameters()], [torch.as_tensor(m) for m in mean])


class Recomputing(nn.Module):
    """The middle is recomputed in the backward pass; with batch statistics, which a recomputation would change."""

    def __init__(self, reentrant):
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
        self.middle = nn.Sequential(nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5))
        self.reentrant = reentrant

    def forward(self, x):
        hidden = self.first(x)
        if self.reentrant is not None:
            return self.last(checkpoint(self.middle, hidden, use_reentrant=self.reentrant))
        return self.last(self.middle(hidden))


@pytest.mark.parametrize("reentrant", [False])
@pytest.mark.parametrize("training", [True, False])
def test_networks_that_recompute_their_activations(reentrant, training):
    plain, recomputing = (Recomputing(kind).train(training) for kind in (None, reentrant))
    recomputing.load_state_dict(plain.state_dict())
    statistics = copy.deepcopy(recomputing.middle[0].state_dict())
    regularizers = [LipschitzRegularizer(model, some_pairs(), interval=1) for model in (plain, recomputing)]
    for _ in range(3):
        one, other = (regularizer() for regularizer in regularizers)
        torch.testing.assert_close(one, other)
        assert_same(gradients(one, plain), gradients(other, recomputing))
        for regularizer in regularizers:
            regularizer.step()
    assert all(torch.equal(value, statistics[name]) for name, value in recomputing.middle[0].state_dict().items())
    assert recomputing.middle.training == training


def test_a_network_that_changes_its_input():
    class Careless(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            return self.layer(x.mul_(4.0))

    model = Careless()
    pairs = some_pairs()
    regularizer = LipschitzRegularizer(model, pairs, interval=1)
    rise = 4 * (pairs.u - pairs.v) @ model.layer.weight.T
    expected = (rise.norm(dim=1) / (pairs.u - pairs.v).norm(dim=1)).square().mean()
    torch.testing.assert_close(regularizer(), expected)
    regularizer.step()
    assert regularizer().isfinite()


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))

    def forward(self, x):
        return self.layers(x)

    def double(self, x):
        return 2 * self.layers(x)


def scaled(network, factor, x):
    return factor * network(x)


@pytest.mark.parametrize(
    "wrap",
    [lambda net: lambda x: 2 * net(x), lambda net: net.double, lambda net: partial(scaled, net, 2.0)],
    ids=["lambda", "method", "partial"],
)
def test_functions_of_a_network_in_training_mode_leave_it_as_it_is(wrap):
    net = Noisy()
    before = copy.deepcopy(net.state_dict())
    regularizer, plain = (LipschitzRegularizer(model, some_pairs(), interval=1) for model in (wrap(net), net))
    torch.testing.assert_close(regularizer(), 4 * plain())
    assert_same(gradients(regularizer(), net), [None if g is None else 4 * g for g in gradients(plain(), net)])
    assert net.layers[1].training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def fit_by(optimizer_of, regularizer_of, steps=40, weight=0.05):
    torch.manual_seed(0)
    model = network()
    x = torch.randn(60, 4)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    regularizer = regularizer_of(model)
    optimizer = optimizer_of(model.parameters())

    def closure():
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y) + weight * regularizer()
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
        regularizer.step()
    return float((model(x).argmax(1) == y).float().mean()), regularizer


def test_a_line_search_finds_the_penalty_again():
    """A strong Wolfe search needs value and gradient at every point that it tries, also between two evaluations."""
    lbfgs = partial(torch.optim.LBFGS, line_search_fn="strong_wolfe", max_iter=5)
    results = [fit_by(lbfgs, lambda model, k=k: LipschitzRegularizer(model, some_pairs(), interval=k)) for k in (1, 8)]
    (accuracy, eager), (lazy_accuracy, lazy) = results
    assert lazy_accuracy >= accuracy > 0.9
    assert lazy.refine() < 1.5 * eager.refine() < 20


def test_clipped_gradients_keep_their_share_of_the_penalty():
    """Each step has the same penalty, so that a limit on the norm does not single one in `interval` out."""
    model = network()
    regularizer = LipschitzRegularizer(model, some_pairs(), active=12, interval=8)
    directions = []
    for _ in range(8):
        model.zero_grad()
        (cross_entropy(model(torch.ones(2, 4)), torch.tensor([0, 1])) + 100 * regularizer()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        directions.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
        regularizer.step()
    assert all(torch.equal(direction, directions[0]) for direction in directions)
    assert directions[0].norm() == pytest.approx(1.0)


@pytest.mark.parametrize("interval", [2, 8])
def test_without_holding_the_penalty_comes_every_so_often_with_its_weight(interval):
    model = network()
    held, lazy = (LipschitzRegularizer(model, some_pairs(), interval=interval, hold=hold) for hold in (True, False))
    for step in range(3 * interval):
        penalty, other = held(), lazy()
        if step % interval:
            assert other.item() == 0
            assert not other.requires_grad
        else:
            torch.testing.assert_close(other, interval * penalty)
            assert_same(gradients(other, model), [None if g is None else interval * g for g in gradients(penalty, model)])
        assert held.latest == lazy.latest == pytest.approx(penalty.item())
        held.step()
        lazy.step()


def test_leaves_are_the_parameters_that_need_a_gradient():
    model = network()
    model[0].bias.requires_grad_(False)
    found = leaves(model(torch.ones(1, 4)).sum())
    assert {id(p) for p in found} == {id(p) for p in (model[0].weight, model[2].weight, model[2].bias)}
    assert leaves(torch.ones(())) == []


def test_no_gradient_is_asked_for_under_no_grad():
    regularizer = LipschitzRegularizer(network(), some_pairs(), interval=1)
    with torch.no_grad():
        penalty = regularizer()
    assert not penalty.requires_grad
    assert regularizer().requires_grad


def test_batch_statistics_alone_are_refused():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 3))
    for given in (model, lambda x: model(x)):
        with pytest.raises(InputError, match="running statistics"):
            LipschitzRegularizer(given, some_pairs())


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (nn.Bilinear(4, 4, 2), r"lambda x: model\(x, other\)"),
        (nn.Sequential(nn.Embedding(10, 4), nn.Flatten()), "behind the embedding"),
    ],
    ids=["two inputs", "token ids"],
)
def test_models_of_other_inputs_are_told_what_to_write(model, match):
    with pytest.raises(InputError, match=match):
        LipschitzRegularizer(model, some_pairs())()


@pytest.mark.parametrize("low", [torch.tensor([0.0, -1.0, 0.0, 0.0]), torch.zeros(())])
def test_a_box_of_tensors_holds_the_points(low):
    high = low + torch.tensor([1.0, 2.0, 0.1, 1.0])
    pairs = perturbed_pairs(low + (high - low) * torch.rand(10, 4) * 0.9, noise=0.01)
    regularizer = LipschitzRegularizer(lambda x: 9 * x.square(), pairs, interval=1, domain=(low, high))
    for _ in range(20):
        regularizer()
        regularizer.step()
    assert len(regularizer.pairs) == 15  # with explorers at its corners
    assert bool((regularizer.state.points >= low).all())
    assert bool((regularizer.state.points <= high).all())


@pytest.mark.parametrize(
    "pairs",
    [perturbed_pairs(torch.rand(5, 3)), matched_pairs(torch.rand(5, 3)), uniform_pairs(torch.zeros(3), torch.ones(3), 5, 0.1)],
    ids=["perturbed", "matched", "uniform"],
)
def test_pairs_can_be_sent_to_another_process(pairs):
    copied = pickle.loads(pickle.dumps(pairs))
    assert torch.equal(copied.u, pairs.u)
    one, other = (each.redrawn(torch.Generator().manual_seed(1)) for each in (pairs, copied))
    assert torch.equal(one.v, other.v)
