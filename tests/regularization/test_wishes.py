"""What a tolerance makes a target, which targets say something, and what is said of a weight that stays 0."""

import math
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cheaplip import DiscrepancyPrinciple
from cheaplip.errors import InputError, TargetWarning


def test_a_tolerance_counts_from_the_best_of_the_warm_up():
    scheduler = DiscrepancyPrinciple(tolerance=0.02, warmup=3, initial=0.5)
    seen = []
    for accuracy in (0.7, 0.9, 0.89, 0.95):
        scheduler.step(accuracy)
        seen.append((scheduler.target, scheduler.weight))
    assert seen[:3] == [(pytest.approx(0.68), 0), (pytest.approx(0.88), 0), (pytest.approx(0.88), 0.5)]
    assert seen[3][0] == pytest.approx(0.88)  # what comes later does not count
    assert seen[3][1] > 0.5


def test_a_tolerance_of_the_loss_is_a_share_of_it():
    scheduler = DiscrepancyPrinciple(tolerance=0.1, quantity="loss", warmup=2)
    for loss in (3.0, 2.0, 2.3):
        scheduler.step(loss)
    assert scheduler.target == pytest.approx(2.2)
    assert scheduler.excess == pytest.approx(-0.1 / 2.2)


def test_after_the_warm_up_a_tolerance_is_a_target():
    """The same moves from there on, by the gain that belongs to the tolerance."""
    tolerant = DiscrepancyPrinciple(tolerance=0.02, warmup=1)
    plain = DiscrepancyPrinciple(0.88, warmup=1, gain=0.4 / 0.02, initial=0.1)
    for value in (0.9, 0.9, 0.885, 0.87, 0.9, 0.95):
        tolerant.step(value)
        plain.step(value)
        assert tolerant.weight == pytest.approx(plain.weight)


@pytest.mark.parametrize(
    ("quantity", "reached", "attainable", "target"),
    [
        ("loss", 0.3, 0.1, 0.1 * 1.01),  # three times the noise: not resolved
        ("loss", 0.15, 0.1, 0.15 * 1.01),
        ("loss", 0.05, 0.1, 0.05 * 1.01),  # neighbours are far
        ("accuracy", 0.79, 0.9, 0.9 - 0.01),
        ("accuracy", 0.81, 0.9, 0.81 - 0.01),
        ("accuracy", 0.95, 0.9, 0.95 - 0.01),
    ],
)
def test_a_reference_far_from_what_is_attainable_does_not_count(quantity, reached, attainable, target):
    scheduler = DiscrepancyPrinciple(tolerance=0.01, quantity=quantity, attainable=attainable, warmup=1)
    scheduler.step(reached)
    assert scheduler.target == pytest.approx(target)
    assert scheduler.is_unresolved == (target != pytest.approx(reached * 1.01 if quantity == "loss" else reached - 0.01))
    assert (scheduler.weight > 0) == (not scheduler.is_unresolved)
    scheduler.step(attainable)
    assert scheduler.weight > 0


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_a_target_is_better_than_the_best_constant_answer(target, trivial):
    of_accuracy = DiscrepancyPrinciple(target, trivial=trivial).target
    assert trivial < of_accuracy < 1
    assert of_accuracy == target or of_accuracy - trivial <= 0.01 + 1e-9
    of_loss = DiscrepancyPrinciple(target, quantity="loss", trivial=trivial).target
    assert 0 < of_loss < trivial
    assert of_loss in (target, pytest.approx(0.99 * trivial))


def test_a_weight_that_stays_0_long_after_the_warm_up_is_told_once():
    scheduler = DiscrepancyPrinciple(0.95, warmup=3)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", TargetWarning)
        for _ in range(100):
            scheduler.step(0.9)
    assert len(said) == 1
    assert "after 33 updates: the accuracy is 0.9, its target 0.95" in str(said[0].message)


def test_a_smaller_tolerance_moves_the_weight_as_fast():
    """One tolerance above the target is the same step, whatever the tolerance."""
    steps = []
    for tolerance in (0.001, 0.01, 0.1):
        scheduler = DiscrepancyPrinciple(tolerance=tolerance, warmup=1)
        scheduler.step(0.9)
        scheduler.step(0.9)
        steps.append(math.log(scheduler.weight / 0.1))
    assert steps == pytest.approx([0.4] * 3)


@pytest.mark.parametrize("stop", range(1, 6))
def test_a_tolerance_survives_a_restart(stop):
    values = (0.7, 0.9, 0.89, 0.91, 0.9, 0.88)
    whole = DiscrepancyPrinciple(tolerance=0.02, warmup=3)
    first, second = (DiscrepancyPrinciple(tolerance=0.02, warmup=3) for _ in range(2))
    for value in values:
        whole.step(value)
    for value in values[:stop]:
        first.step(value)
    second.load_state_dict(first.state_dict())
    for value in values[stop:]:
        second.step(value)
    assert second.state_dict() == whole.state_dict()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "a target or a tolerance; got neither"),
        ({"target": 0.9, "tolerance": 0.1}, "one of them; got target 0.9 and tolerance 0.1"),
        ({"tolerance": 1.0}, "a tolerance in"),
        ({"tolerance": 0.0}, "a tolerance in"),
        ({"tolerance": 0.1, "quantity": "lipschitz"}, "a tolerance of accuracy or loss"),
        ({"tolerance": 0.1, "warmup": 0}, "warmup"),
        ({"target": 0.9, "attainable": 0.9}, "a tolerance for an attainable value"),
        ({"tolerance": 0.1, "attainable": 0.0}, "an attainable value in"),
    ],
)
def test_what_a_tolerance_cannot_be(options, match):
    with pytest.raises(InputError, match=match):
        DiscrepancyPrinciple(**options)
