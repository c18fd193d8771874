"""The rules as printed, the bounds of the weight, and closed loops with networks that answer late."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cheaplip import DiscrepancyPrinciple
from cheaplip.errors import InputError
from cheaplip.regularization.discrepancy import FLOOR, RAMP, additive_rule, multiplicative_rule
from cheaplip.regularization.scheduler import ConstantWeight

NUMBERS = st.floats(-1e6, 1e6)


@given(weight=st.floats(0, 1e6), excess=NUMBERS, increment=st.floats(1e-6, 1e3))
def test_the_additive_rule_is_the_papers(weight, excess, increment):
    expected = weight + increment if excess > 0 else max(weight - increment, 0)
    assert additive_rule(weight, excess, increment) == expected


@given(excess=st.floats(-1, 1), trend=st.floats(-1, 1))
def test_the_multiplicative_rule_is_damped_and_bounded(excess, trend):
    change = multiplicative_rule(excess, trend, gain=20, damping=40, largest_step=0.5)
    assert change == sorted((-0.5, 20 * excess + 40 * trend, 0.5))[1]


def test_additive_steps_as_in_algorithm_2():
    scheduler = DiscrepancyPrinciple(0.9, rule="additive", initial=0.25, increment=0.25, warmup=0)
    weights = []
    for accuracy in (0.95, 0.91, 0.9, 0.5, 0.5, 0.5, 0.99):
        scheduler.step(accuracy)
        weights.append(scheduler.weight)
    assert weights == [0.5, 0.75, 0.5, 0.25, 0, 0, 0.25]  # exactly at the target is not above it


def test_multiplicative_steps_use_the_change_since_the_last_update():
    scheduler = DiscrepancyPrinciple(0.9, initial=1, gain=2, damping=3, largest_step=10, warmup=0)
    scheduler.step(0.95)
    assert scheduler.weight == pytest.approx(math.exp(2 * 0.05))  # no update before: no change
    scheduler.step(0.92)
    assert scheduler.weight == pytest.approx(math.exp(2 * 0.05 + 2 * 0.02 + 3 * (0.92 - 0.95)))


def test_warms_up_and_then_waits_at_0_until_the_target_is_met_once():
    scheduler = DiscrepancyPrinciple(0.9, initial=0.5, warmup=2)
    weights = []
    for accuracy in (0.99, 0.5, 0.6, 0.89, 0.9, 0.5):
        scheduler.step(accuracy)
        weights.append(scheduler.weight)
    assert weights[:4] == [0, 0, 0, 0]
    assert weights[4] == 0.5
    assert 0 < weights[5] < 0.5


def test_the_additive_rule_starts_after_the_warmup_alone():
    scheduler = DiscrepancyPrinciple(0.9, rule="additive", initial=0.5, increment=0.1, warmup=2)
    weights = []
    for _ in range(3):
        scheduler.step(0.1)
        weights.append(scheduler.weight)
    assert weights == [0, 0.5, 0.4]


def test_every_so_many_calls_make_one_update():
    often = DiscrepancyPrinciple(0.5, rule="additive", initial=1, increment=1, warmup=1, every=3)
    weights = []
    for _ in range(9):
        often.step(0.9)
        weights.append(often.weight)
    assert weights == [0, 0, 1, 1, 1, 2, 2, 2, 3]


def test_a_loss_above_its_target_lowers_the_weight():
    scheduler = DiscrepancyPrinciple(0.1, quantity="loss", rule="additive", initial=1, increment=0.5, warmup=0)
    scheduler.step(0.2)
    assert scheduler.weight == 0.5
    scheduler.step(0.05)
    assert scheduler.weight == 1
    relative = DiscrepancyPrinciple(0.1, quantity="loss", initial=1, gain=1, damping=0, largest_step=9, warmup=0)
    relative.step(0.05)
    assert relative.weight == pytest.approx(math.exp(0.5))


@settings(max_examples=30, stateful_step_count=40)
class Weights(RuleBasedStateMachine):
    """Any accuracies in any order, with restarts from the saved state in between."""

    @initialize(
        kind=st.sampled_from(["additive", "multiplicative"]),
        warmup=st.integers(0, 3),
        every=st.integers(1, 3),
    )
    def make(self, kind, warmup, every):
        self.options = {"rule": kind, "warmup": warmup, "every": every, "increment": 1.0}
        self.scheduler = DiscrepancyPrinciple(0.8, **self.options)
        self.calls = 0

    @rule(accuracy=st.floats(0, 1))
    def step(self, accuracy):
        before = self.scheduler.weight
        self.scheduler.step(accuracy)
        self.calls += 1
        if self.calls % self.options["every"]:
            assert self.scheduler.weight == before
        elif before > 0 and self.options["rule"] == "additive":
            assert (self.scheduler.weight >= before) == (accuracy > 0.8)

    @rule()
    def restart(self):
        state = self.scheduler.state_dict()
        self.scheduler = DiscrepancyPrinciple(0.8, **self.options)
        self.scheduler.load_state_dict(state)
        assert self.scheduler.state_dict() == state

    @invariant()
    def stays_in_bounds(self):
        if hasattr(self, "scheduler"):
            assert 0 <= self.scheduler.weight < math.inf
            if self.calls < self.options["warmup"] * self.options["every"]:
                assert self.scheduler.weight == 0


TestWeights = Weights.TestCase


def plant(scheduler, *, slope, lag, epochs=60):
    """Accuracies of a network that loses `slope` of accuracy per unit of log(weight) round the target, met at weight 1.

    It answers late: each epoch it goes `lag` of the way to where the weight would bring it.
    """
    target = scheduler.target
    steepness = slope / (target * (1 - target))
    midpoint = math.log(target / (1 - target)) / steepness
    felt, history = math.log(1e-9), []
    for epoch in range(epochs):
        felt += lag * (math.log(max(scheduler.weight, 1e-9)) - felt)
        ceiling = 1 - 0.9 * math.exp(-(epoch + 1) / 2)
        history.append(ceiling / (1 + math.exp(steepness * (felt - midpoint))))
        scheduler.step(history[-1])
    return history


def error(history, target):
    return max(abs(accuracy - target) for accuracy in history[-5:])


@given(slope=st.floats(0.005, 0.05), lag=st.floats(0.15, 0.5), target=st.sampled_from([0.85, 0.9, 0.95]))
def test_networks_that_answer_late_are_led_to_the_target(slope, lag, target):
    """Slopes and lags as met on images; half a point is what training promises."""
    assert error(plant(DiscrepancyPrinciple(target), slope=slope, lag=lag), target) < 0.005


@given(slope=st.floats(0.01, 0.2), lag=st.floats(0.5, 1.0), target=st.sampled_from([0.8, 0.95]))
def test_networks_that_answer_at_once_do_not_swing(slope, lag, target):
    """As wide ones do, at a large learning rate. With steps of a fixed bound half of these swing, by up to 11 points."""
    assert error(plant(DiscrepancyPrinciple(target), slope=slope, lag=lag), target) < 0.025


def test_steps_are_long_again_once_they_go_one_way():
    scheduler = DiscrepancyPrinciple(0.9, initial=1.0, warmup=0)
    for accuracy in (0.99, 0.5) * 10:
        scheduler.step(accuracy)
    before = scheduler.weight
    scheduler.step(0.99)
    assert scheduler.weight < before * 1.01
    for _ in range(40):
        scheduler.step(0.99)
    before = scheduler.weight
    scheduler.step(0.99)
    assert scheduler.weight == pytest.approx(before * math.exp(0.5))


def test_damping_keeps_a_slow_network_from_swinging():
    damped, free = (plant(DiscrepancyPrinciple(0.95, damping=d), slope=0.05, lag=0.1) for d in (40, 0))
    assert error(damped, 0.95) < error(free, 0.95) / 4


def test_the_additive_rule_settles_about_its_target():
    scheduler = DiscrepancyPrinciple(0.9, rule="additive", initial=0.5, increment=0.05)
    assert error(plant(scheduler, slope=0.05, lag=0.5, epochs=200), 0.9) < 0.01


def test_a_long_time_below_the_target_is_soon_made_up():
    scheduler = DiscrepancyPrinciple(0.9, initial=0.01, warmup=0)
    for _ in range(5000):
        scheduler.step(0.1)
    assert scheduler.weight == pytest.approx(FLOOR * 0.01)
    for _ in range(40):
        scheduler.step(0.99)
    assert scheduler.weight > 0.01


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"target": 0}, r"\(0, 1\)"),
        ({"target": 1}, r"\(0, 1\)"),
        ({"target": 95}, r"got 95.*fraction"),
        ({"target": math.nan}, r"\(0, 1\)"),
        ({"target": 0, "quantity": "loss"}, r"target loss in \(0, inf\)"),
        ({"target": math.inf, "quantity": "loss"}, r"target loss in \(0, inf\)"),
        ({"target": 0, "quantity": "lipschitz"}, r"target lipschitz in \(0, inf\).*a constant, such as 1"),
        ({"rule": "multiplicatve"}, "Did you mean 'multiplicative'"),
        ({"rule": "pid"}, "rule to be one of"),
        ({"quantity": "risk"}, "accuracy, lipschitz, loss"),
        ({"initial": 0}, "cannot leave 0"),
        ({"initial": -1, "rule": "additive"}, r"in \[0, inf\)"),
        ({"initial": math.nan}, "initial weight"),
        ({"increment": 0}, r"increment in \(0, inf\)"),
        ({"gain": math.inf}, "gain in"),
        ({"damping": -1}, r"damping in \[0"),
        ({"largest_step": math.nan}, "largest_step in"),
        ({"warmup": -1}, "warmup in"),
        ({"every": 0}, r"every in \[1, inf\)"),
    ],
)
def test_refusals(options, match):
    with pytest.raises(InputError, match=match):
        DiscrepancyPrinciple(**{"target": 0.9, **options})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_refuses_a_diverged_accuracy(value):
    scheduler = DiscrepancyPrinciple(0.9)
    with pytest.raises(InputError, match="finite accuracy"):
        scheduler.step(value)


def test_a_constant_weight_stays():
    weight = ConstantWeight(0.5)
    weight.step(0.1)
    other = ConstantWeight(0)
    other.load_state_dict(weight.state_dict())
    assert other.weight == 0.5


@pytest.mark.parametrize("weight", [-1, math.inf, math.nan])
def test_refuses_constant_weights_below_0_or_not_finite(weight):
    with pytest.raises(InputError, match="weight in"):
        ConstantWeight(weight)


def test_a_loss_may_be_0_and_not_below():
    scheduler = DiscrepancyPrinciple(tolerance=0.1, quantity="loss", warmup=1)
    scheduler.step(0.0)
    assert scheduler.weight == scheduler.initial
    scheduler.step(0.5)
    assert 0 < scheduler.weight < scheduler.initial
    with pytest.raises(InputError, match="loss >= 0 to steer by"):
        scheduler.step(-0.1)


def test_the_largest_penalty_before_the_first_update_caps_the_weight():
    scheduler = DiscrepancyPrinciple(0.9, initial=1.0, warmup=1)
    assert scheduler.cap(0.1) == 0.0
    scheduler.step(0.95)
    caps = [scheduler.cap(c) for c in (math.inf, 2.0, 0.25, *[0.5] * RAMP)]
    assert caps[:2] == [1.0, 1.0]
    assert caps[2:] == pytest.approx([0.25 * min(k / RAMP, 1.0) for k in range(1, RAMP + 2)])  # it comes in bit by bit
    assert scheduler.weight == 0.25
    scheduler.step(0.95)
    after = scheduler.weight
    assert 0.25 < after < 1.0
    assert scheduler.cap(0.01) == after  # from there the rule moves it


def test_a_weight_that_comes_in_goes_on_after_a_checkpoint():
    one, other = (DiscrepancyPrinciple(0.9, initial=1.0, warmup=0) for _ in range(2))
    for _ in range(7):
        one.cap(0.5)
    other.load_state_dict(one.state_dict())
    assert one.cap(0.5) == other.cap(0.5) == pytest.approx(0.5 * 8 / RAMP)


def test_the_printed_rule_and_a_constant_weight_have_no_cap():
    assert DiscrepancyPrinciple(0.9, rule="additive", initial=1.0, warmup=0).cap(0.1) == 1.0
    assert ConstantWeight(3.0).cap(0.1) == 3.0
