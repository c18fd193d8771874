"""The limit to a gradient that counts for several steps, and how fast the weight's steps grow again."""

import pytest
import torch
from torch import nn

from cheaplip import DiscrepancyPrinciple, LipschitzRegularizer, PairSet
from cheaplip.regularization.lazy import LONGEST
from support.networks import seeded


class Scaled(nn.Module):
    """x times a number."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * x


def lengths(model, factors, **options):
    """Of the penalty's gradient, as each factor is met in turn; it is 2 |factor|."""
    pairs = PairSet(torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [1.0]]))
    regularizer = LipschitzRegularizer(model, pairs, **options)
    found = []
    for factor in factors:
        model.factor.data.fill_(factor)
        for _ in range(regularizer.interval):
            regularizer.step()
        (gradient,) = torch.autograd.grad(regularizer(), model.factor)
        found.append(abs(float(gradient)))
    return found


def test_a_gradient_far_longer_than_the_usual_counts_as_long_as_allowed():
    *usual, long = lengths(Scaled(), [1.0, 1.0, 1.0, 1000.0], interval=4)
    assert usual == pytest.approx([2.0] * 3)
    assert long == pytest.approx(2 * LONGEST)


def test_a_gradient_that_counts_for_one_step_is_left_as_it_is():
    assert lengths(Scaled(), [1.0, 1000.0], interval=1) == pytest.approx([2.0, 2000.0])


def test_what_grows_slowly_or_falls_is_followed():
    factors = [1.1**k for k in range(40)] + [0.5**k for k in range(20)]
    assert lengths(Scaled(), factors, interval=2) == pytest.approx([2 * factor for factor in factors])


def test_the_usual_length_is_saved():
    model = seeded(Scaled)
    pairs = PairSet(torch.tensor([[1.0]]), torch.tensor([[0.0]]))
    first, other = (LipschitzRegularizer(model, pairs, interval=2) for _ in range(2))
    first()
    other.load_state_dict(first.state_dict())
    model.factor.data.fill_(1000.0)
    for regularizer in (first, other):
        for _ in range(2):
            regularizer.step()
    (mine,), (theirs,) = (torch.autograd.grad(regularizer(), model.factor) for regularizer in (first, other))
    assert float(mine) == float(theirs) == pytest.approx(2 * LONGEST)


def test_the_weights_steps_halve_while_they_swing_and_double_while_they_are_too_short():
    scheduler = DiscrepancyPrinciple(0.9, initial=1, damping=0, warmup=0)
    for k in range(6):
        scheduler.step(0.99 if k % 2 else 0.8)
    bound = scheduler.step_bound
    assert bound < scheduler.largest_step / 4
    for _ in range(4):
        scheduler.step(0.99)
    assert scheduler.step_bound >= 4 * bound


def test_a_gradient_of_zero_says_nothing_of_the_usual_length():
    assert lengths(Scaled(), [0.0, 0.0, 3.0, 3.0], interval=2) == pytest.approx([0.0, 0.0, 6.0, 6.0])


class Tied(nn.Module):
    """x times the sum of two numbers, which share one gradient, and of three others, whose gradient is expanded."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.three = (nn.Parameter(torch.ones(shape) / 5) for shape in ((1,), (1,), (3,)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.one + self.other + self.three.sum()) * x


def test_gradients_that_share_memory_are_shortened_once():
    model = Tied()
    regularizer = LipschitzRegularizer(model, PairSet(torch.tensor([[1.0]]), torch.tensor([[0.0]])), interval=2)
    regularizer()
    with torch.no_grad():
        model.one += 999.0
    for _ in range(2):
        regularizer.step()
    gradients = torch.autograd.grad(regularizer(), list(model.parameters()))
    usual = 2 * 5**0.5  # five entries of 2
    assert float(torch.cat(gradients).norm()) == pytest.approx(LONGEST * usual, rel=1e-4)
