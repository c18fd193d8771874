"""A penalty whose gradient is held: its value at every call, and the same gradient whatever a loop does with it."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from cheaplip import LipschitzRegularizer, PairSet
from cheaplip.pairs.quotient import difference_quotient
from support.gradients import assert_same, gradients
from support.networks import network, seeded, some_pairs


def by_autograd(model, pairs, *, power=2, reduction="mean"):
    """The penalty and its gradient, straight from the quotients."""
    quotient = difference_quotient(model, pairs.u, pairs.v) ** power
    penalty = quotient.mean() if reduction == "mean" else quotient.max()
    return penalty.detach(), gradients(penalty, model)


def test_every_call_has_the_value_and_the_gradient_of_the_last_evaluation():
    model = seeded(network)
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
    model = seeded(network)
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
    whole, parts = (
        LipschitzRegularizer(seeded(network), some_pairs(), active=11, interval=1, reduction=reduction) for _ in "ab"
    )
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
    model = seeded(network)
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
    model = seeded(network)
    regularizer, other = (LipschitzRegularizer(model, some_pairs(), active=4, interval=1, seed=0) for _ in "ab")
    for _ in range(3):
        (regularizer() / 3).backward()
        regularizer.step()
    mean = [0.0] * 4
    for _ in range(3):
        mean = [m + (0 if g is None else g / 3) for m, g in zip(mean, gradients(other(), model), strict=True)]
        other.step()
    assert_same([torch.zeros(()) if p.grad is None else p.grad for p in model.parameters()], [torch.as_tensor(m) for m in mean])


def fit_by(optimizer_of, regularizer_of, steps=40, weight=0.05):
    torch.manual_seed(0)
    model = seeded(network)
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
    model = seeded(network)
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
    model = seeded(network)
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
