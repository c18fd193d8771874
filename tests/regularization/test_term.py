"""weight * penalty as one term: nothing at weight 0, one cap, one beat, one state; sums of penalties."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from cheaplip import (
    ConstantWeight,
    DiscrepancyPrinciple,
    LipschitzRegularizer,
    PairSet,
    PenaltySum,
    PenaltyTerm,
    lipschitz_bracket,
    perturbed_pairs,
)
from cheaplip.errors import InputError
from cheaplip.regularization.certificate import with_certificate
from cheaplip.regularization.discrepancy import RAMP
from cheaplip.regularization.penalty import Penalty
from cheaplip.regularization.term import PERIOD, RunningValue
from cheaplip.regularization.weight_norm import WeightNorm
from support.networks import make_regularizer, network, some_pairs


def batch(n=16):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 4, generator=generator), torch.randint(3, (n,), generator=generator)


def test_while_the_weight_is_0_nothing_is_computed_and_no_pair_moves():
    regularizer = make_regularizer(network(), some_pairs(), active=4)
    before = regularizer.state.points.clone()
    term = PenaltyTerm(regularizer, ConstantWeight(0.0))
    regularizer.model = None  # whoever calls it would fail
    for _ in range(3):
        assert term().item() == 0
        term.clip_gradients()
        term.step()
    assert torch.equal(regularizer.state.points, before)


def test_it_is_the_weight_times_the_penalty():
    model, pairs = network(), some_pairs()
    one, other = make_regularizer(model, pairs, interval=2), make_regularizer(model, pairs, interval=2)
    term = PenaltyTerm(one, ConstantWeight(0.3))
    for _ in range(4):
        torch.testing.assert_close(term(), 0.3 * other())
        term.step()
        other.step()
    assert torch.equal(one.state.points, other.state.points)


@pytest.mark.parametrize("interval", [1, 4])
def test_a_weight_far_too_high_starts_where_the_penalty_costs_a_share_of_a_constant_network(interval):
    pairs = PairSet(torch.tensor([[1.0]]), torch.tensor([[0.0]]))
    weights = nn.Linear(1, 3, bias=False)
    nn.init.constant_(weights.weight, 3.0)
    regularizer = LipschitzRegularizer(weights, pairs, interval=interval)
    scheduler = DiscrepancyPrinciple(0.9, initial=1e6, warmup=0)
    term = PenaltyTerm(regularizer, scheduler)
    x, y = torch.ones(4, 1), torch.tensor([0, 1, 2, 0])
    values = [float(term(weights(x), y).detach()) for _ in range(RAMP + 1)]
    assert values[0] == pytest.approx(values[-1] / RAMP)
    assert values[-2:] == pytest.approx([Penalty.first_share * math.log(3)] * 2)
    assert scheduler.weight == pytest.approx(Penalty.first_share * math.log(3) / 27)
    term.step()
    scheduler.step(0.95)  # from the first update on, the rule alone moves it
    moved = scheduler.weight
    term(weights(x), y)
    assert scheduler.weight == moved


def test_a_weight_norm_is_not_capped():
    scheduler = DiscrepancyPrinciple(0.9, initial=1e6, warmup=0)
    x, y = batch()
    model = network()
    PenaltyTerm(WeightNorm(model), scheduler)(model(x), y)
    assert scheduler.weight == 1e6


def test_real_values_are_capped_by_their_variance():
    model = nn.Linear(4, 1)
    scheduler = DiscrepancyPrinciple(0.1, quantity="loss", initial=1e6, warmup=0)
    term = PenaltyTerm(make_regularizer(model, some_pairs()), scheduler)
    x, _ = batch()
    y = torch.randn(16, 1)
    *_, value = (float(term(model(x), y).detach()) for _ in range(RAMP))
    assert value == pytest.approx(Penalty.first_share * float(y.var(correction=0)), rel=1e-5)


def test_it_steers_by_what_it_has_seen():
    model = network()
    x, y = batch(16)
    scheduler = DiscrepancyPrinciple(0.5, warmup=0)
    term = PenaltyTerm(make_regularizer(model, some_pairs()), scheduler)
    for part in (slice(0, 10), slice(10, 16)):  # of unequal sizes
        term(model(x[part]), y[part])
    term.update_weight()
    assert scheduler.excess == pytest.approx(float((model(x).argmax(1) == y).float().mean()) - 0.5)
    term(model(x[:1]), model(x[:1]).argmax(1))
    term.update_weight()
    assert scheduler.excess == 0.5  # the samples before the last update are forgotten


def test_labels_of_every_pixel_count_one_by_one():
    outputs = torch.zeros(2, 3, 4, 4)
    outputs[:, 1] = 1.0
    y = torch.ones(2, 4, 4, dtype=torch.int64)
    y[0] = 0
    term = PenaltyTerm(WeightNorm(network()), DiscrepancyPrinciple(0.25, warmup=0))
    term(outputs, y)
    term.update_weight()
    assert term.scheduler.excess == 0.25


def test_real_values_are_steered_by_their_mean_squared_error():
    term = PenaltyTerm(WeightNorm(network()), DiscrepancyPrinciple(0.5, quantity="loss", warmup=0))
    outputs, y = torch.randn(6, 2), torch.randn(6, 2)
    term(outputs[:4], y[:4])
    term(outputs[4:], y[4:])
    term.update_weight()
    assert term.scheduler.excess == pytest.approx((0.5 - mse_loss(outputs, y).item()) / 0.5, rel=1e-5)


def test_a_value_of_the_users_own_steers_too():
    scheduler = DiscrepancyPrinciple(0.5, warmup=0)
    term = PenaltyTerm(WeightNorm(network()), scheduler)
    term()
    term.update_weight(0.9)
    assert scheduler.excess == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("quantity", "y", "match"),
    [("loss", torch.zeros(4, dtype=torch.int64), "a target loss"), ("accuracy", torch.zeros(4, 3), "a target accuracy")],
)
def test_a_quantity_that_does_not_fit_is_refused(quantity, y, match):
    term = PenaltyTerm(WeightNorm(network()), DiscrepancyPrinciple(0.5, quantity=quantity))
    with pytest.raises(InputError, match=match):
        term(torch.zeros(4, 3), y)


def test_nothing_to_steer_by_is_told():
    term = PenaltyTerm(WeightNorm(network()), DiscrepancyPrinciple(0.5))
    term()
    with pytest.raises(InputError, match=r"term\(outputs, y\)"):
        term.update_weight()


def go_on(model, term, steps):
    x, y = batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for step in range(steps):
        outputs = model(x)
        loss = cross_entropy(outputs, y) + term(outputs, y)
        optimizer.zero_grad()
        loss.backward()
        term.clip_gradients()
        optimizer.step()
        term.step()
        if step % 3 == 2:
            term.update_weight()


def test_a_saved_state_continues_identically_in_the_middle_of_an_epoch():
    def make(model, seed):
        regularizer = LipschitzRegularizer(model, some_pairs(), active=4, interval=2, seed=seed)
        return PenaltyTerm(with_certificate(regularizer, 0.1), DiscrepancyPrinciple(0.2, initial=0.1, warmup=1))

    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    term = make(model, 0)
    go_on(model, term, 7)
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(term.state_dict())
    go_on(model, term, 8)
    resumed = copy.deepcopy(model)
    resumed.load_state_dict(weights)
    other = make(resumed, 1)
    other.load_state_dict(state)
    go_on(resumed, other, 8)
    for mine, theirs in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert term.scheduler.weight == other.scheduler.weight > 0


def test_metrics_are_of_the_time_since_the_last_ones():
    regularizer = make_regularizer(network(), some_pairs())
    term = PenaltyTerm(regularizer, ConstantWeight(0.5))
    first, second = term() / 0.5, term() / 0.5
    metrics = term.metrics()
    assert metrics["penalty"] == pytest.approx(float((first + second).detach()) / 2)
    assert metrics["weight"] == 0.5
    assert metrics["lower_bound"] == regularizer.lower_bound()
    assert metrics["upper_bound"] is None
    assert metrics["skipped_steps"] == 0
    assert term.metrics()["penalty"] is None


def test_a_sum_adds_its_penalties_and_what_they_know():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    pairs, norm = make_regularizer(model, some_pairs()), WeightNorm(model)
    both = PenaltySum([(1.0, pairs), (0.5, norm)])
    torch.testing.assert_close(both(), pairs() + 0.5 * norm())
    assert both.vanishes_on_constants
    assert both.metrics()["lower_bound"] == pairs.lower_bound()
    with torch.no_grad():
        model[0].weight.fill_(math.nan)
    assert not pairs().requires_grad  # left out, and counted once
    assert both.metrics()["skipped_steps"] == 1


@pytest.mark.parametrize("terms", [[], [(-1.0, WeightNorm(nn.Linear(1, 1)))], [(math.nan, WeightNorm(nn.Linear(1, 1)))]])
def test_sums_of_nothing_or_with_bad_factors_are_refused(terms):
    with pytest.raises(InputError, match="factors >= 0"):
        PenaltySum(terms)


def test_a_target_constant_is_steered_by_what_the_pairs_know():
    layer = nn.Linear(4, 3)
    regularizer = make_regularizer(layer, some_pairs())
    term = PenaltyTerm(regularizer, DiscrepancyPrinciple(0.01, quantity="lipschitz", initial=0.5, warmup=0))
    weights = []
    for _ in range(2 * PERIOD):
        term()
        term.step()
        weights.append(term.scheduler.weight)
    assert term.scheduler.excess == pytest.approx(math.log(regularizer.constant() / 0.01))
    assert len(set(weights)) == 3  # before, and after each of two updates
    assert weights[0] < weights[PERIOD - 1] < weights[-1]
    term.update_weight()  # by the loop of other targets: nothing to do
    assert term.scheduler.weight == weights[-1]
    blind = PenaltyTerm(WeightNorm(layer), DiscrepancyPrinciple(1.0, quantity="lipschitz"))
    for _ in range(PERIOD - 1):
        blind.step()
    with pytest.raises(InputError, match="a penalty that knows Lip"):
        blind.step()


def test_a_target_constant_survives_a_restart_between_two_updates():
    layer = nn.Linear(4, 3)

    def made():
        return PenaltyTerm(make_regularizer(layer, some_pairs()), DiscrepancyPrinciple(0.01, quantity="lipschitz"))

    first, second = made(), made()
    for _ in range(PERIOD - 1):
        first()
        first.step()
    second.load_state_dict(first.state_dict())
    before = second.scheduler.weight
    second()
    second.step()
    assert second.scheduler.weight != before


@pytest.mark.slow
def test_a_critic_keeps_its_constant_and_finds_the_distance():
    """The distance of two clouds that are 3 apart; a loss without a least value, and only the penalty holds it."""
    torch.manual_seed(0)
    a = torch.randn(200, 2)
    b = a + torch.tensor([3.0, 0.0])
    model = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(-1.0), nn.Linear(16, 1))
    pairs = perturbed_pairs(torch.cat([a, b]))
    regularizer = LipschitzRegularizer(model, pairs, interval=1, power=1, allowed=1.0, hold=False)
    term = PenaltyTerm(with_certificate(regularizer, 1.0), DiscrepancyPrinciple(1.0, quantity="lipschitz"))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(600):
        distance = model(b).mean() - model(a).mean()
        optimizer.zero_grad()
        (term() - distance).backward()
        optimizer.step()
        term.step()
    bracket = lipschitz_bracket(model, a)
    assert bracket.upper == pytest.approx(1.0, abs=0.05)
    assert float(distance.detach()) == pytest.approx(3.0, rel=0.05)


def test_the_penalty_knows_the_batch_size_of_the_loop():
    model = network()
    regularizer, norm = make_regularizer(model, some_pairs()), WeightNorm(model)
    x, y = batch(5)
    PenaltyTerm(PenaltySum([(1.0, regularizer), (1.0, norm)]), ConstantWeight(1.0))(model(x), y)
    assert regularizer.batch_size == 5


@pytest.mark.parametrize("real", [False, True])
def test_the_running_value_counts_a_sample_as_often_as_its_weight_says(real):
    counts = torch.tensor([0, 1, 3, 2])
    outputs, y = torch.randn(4, 3), torch.randn(4, 3) if real else torch.tensor([0, 1, 2, 0])
    weighted, repeated = RunningValue(), RunningValue()
    weighted.update(outputs, y, counts.float())
    repeated.update(outputs.repeat_interleave(counts, 0), y.repeat_interleave(counts, 0))
    assert weighted.value() == pytest.approx(repeated.value(), rel=1e-5)
