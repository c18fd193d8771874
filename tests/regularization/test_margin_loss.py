"""The margin loss: what its two numbers do, and when `fit` lets them in."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from cheaplip import fit
from cheaplip.data import load
from cheaplip.errors import InputError
from cheaplip.models import mlp
from cheaplip.regularization.margin_loss import margin_cross_entropy
from cheaplip.training.presets import configure
from cheaplip.training.schedule import margin_ramp

SEEDS = st.integers(0, 1000)


def batch(seed, n=6, classes=4):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(n, classes, generator=generator), torch.randint(classes, (n,), generator=generator)


@given(seed=SEEDS, margin=st.floats(0, 10), saturation=st.floats(0.05, 0.95))
def test_it_is_the_mean_of_what_the_formula_says_of_each_sample(seed, margin, saturation):
    logits, y = batch(seed)
    expected = 0.0
    for z, label in zip(logits.double().tolist(), y.tolist(), strict=True):
        z[label] -= margin
        p = math.exp(z[label]) / sum(map(math.exp, z))
        expected += (1 - p**saturation) / saturation / len(y)
    found = margin_cross_entropy(logits.double(), y, margin=margin, saturation=saturation)
    assert found.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(seed=SEEDS)
def test_without_margin_and_saturation_it_is_the_cross_entropy_and_for_small_ones_nearly(seed):
    logits, y = batch(seed)
    assert torch.equal(margin_cross_entropy(logits, y, margin=0.0, saturation=0.0), cross_entropy(logits, y))
    near = margin_cross_entropy(logits.double(), y, margin=1e-6, saturation=1e-6)
    assert near.item() == pytest.approx(cross_entropy(logits.double(), y).item(), rel=1e-4)


def test_hopeless_samples_count_no_more_than_lost_ones_and_pull_less():
    y = torch.tensor([0])
    for size in (20.0, 1e4):
        logits = torch.tensor([[-size, size]], requires_grad=True)
        loss = margin_cross_entropy(logits, y, margin=1.0, saturation=0.5)
        assert loss.item() == pytest.approx(2.0, rel=1e-3)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 1e-3


def test_the_margin_sets_in_with_the_weight_over_a_fifth_of_the_epochs():
    history, config = [{"weight": 0.0}] * 4, configure(epochs=10, target=0.9)
    assert margin_ramp(history, config, 0.0) == 0
    assert margin_ramp(history, config, 0.1) == 0
    assert [margin_ramp(history + [{"weight": 0.1}] * k, config, 0.1) for k in (1, 2, 3)] == [0.5, 1.0, 1.0]


@pytest.mark.parametrize("options", [{"method": "standard"}, {"weight": 0.0}])
def test_without_a_penalty_the_margin_sets_in_with_the_run(options):
    config = configure(epochs=10, **options)
    assert [margin_ramp([{"weight": 0.0}] * k, config, 0.0) for k in (0, 1, 2)] == [0.5, 1.0, 1.0]
    assert margin_ramp([], configure(epochs=1, **options), 0.0) == 1.0


def test_fit_takes_the_loss_once_there_is_a_weight():
    histories = []
    for options in ({}, {"margin": 4.0, "saturation": 0.5}):
        torch.manual_seed(0)
        model = mlp((8, 8), 10, hidden=(16,))
        done = fit(model, load("digits"), target=0.9, epochs=10, lr=0.05, batch_size=32, **options)
        histories.append([(row["train_loss"], row["weight"]) for row in done.history])
    plain, with_margin = histories
    without = sum(weight == 0 for _, weight in plain)
    assert 3 <= without < 7
    assert plain[: without + 1] == with_margin[: without + 1]  # the share is 0 in the first epoch with a weight
    later = [loss for loss, _ in with_margin[without + 1 :]]
    assert later[0] > 2 * plain[without + 1][0]
    assert max(later) < 2  # 1 / q is the most that a sample costs


def test_refuses_a_margin_where_it_has_no_meaning():
    for margin, saturation in ((-1.0, 0.0), (math.inf, 0.0), (1.0, 1.0), (1.0, -0.1)):
        with pytest.raises(InputError, match="a margin >= 0 and a saturation in"):
            margin_cross_entropy(*batch(0), margin=margin, saturation=saturation)
    with pytest.raises(InputError, match="a valid saturation"):
        configure(saturation=1.0)
    x = torch.rand(40, 3)
    with pytest.raises(InputError, match="classes for a margin"):
        fit(nn.Linear(3, 1), (x, x.sum(1, keepdim=True)), target=0.1, margin=1.0)


@given(
    st.lists(st.integers(0, 4), min_size=2, max_size=8).filter(any), st.sampled_from([0.0, 2.0]), st.sampled_from([0.0, 0.3])
)
def test_a_weight_is_a_number_of_repetitions(counts, margin, saturation):
    generator = torch.Generator().manual_seed(sum(counts))
    logits, y = torch.randn(len(counts), 3, generator=generator), torch.randint(3, (len(counts),), generator=generator)
    weights = torch.tensor(counts).float()
    options = {"margin": margin, "saturation": saturation}
    once = margin_cross_entropy(logits, y, **options, weights=weights / weights.mean())
    index = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    torch.testing.assert_close(once, margin_cross_entropy(logits[index], y[index], **options))
